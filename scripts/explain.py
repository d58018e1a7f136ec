"""Explain why the networks of a run forget, into RUN/explanation/.

Of a folder of variants, each of them, into FOLDER/explanation/NAME/, and all in one figure.

python scripts/explain.py RUN                               # a page, figures and tables
python scripts/explain.py RUN --gates "6 7 0 0 1 0 0 0 0 0"  # and the gates along a sequence
"""

from srn_jax.cli.commands import explain as main
from srn_jax.cli.options import run_script

if __name__ == "__main__":
    run_script(main)
