"""Answers: results and histories in, tables, figures and reports out; no task is known by name."""

import os
from importlib.util import find_spec

# A notebook tells the commands in its cells to draw into it. Where they can't, as in another
# environment, Matplotlib could not even be imported; and nothing is drawn on a screen here.
BACKEND = os.environ.get("MPLBACKEND", "").removeprefix("module://").partition(".")[0]
if BACKEND in ("inline", "matplotlib_inline") and find_spec("matplotlib_inline") is None:
    del os.environ["MPLBACKEND"]
