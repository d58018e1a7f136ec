"""srn_jax measures how far back a Simple Recurrent Network can remember.

Data flow: `config` -> `data` (DigitSum sequences) -> `model` (embedding, SRN, linear) ->
`training` (one experiment) -> `sweep` (all lengths and seeds at once) -> `run` (a folder with
checkpoints and results) -> `statistics`, `figures`, `report`.

Axes, in this order wherever several meet:

    experiment  one length and one seed, trained on its own; lengths outer, seeds inner
    batch       sequences side by side (`time` comes before it inside the recurrence)
    time        positions of a sequence; shorter ones are padded on the left
    hidden      D units of the network;  M is the size of an embedding
    class       the 19 sums 0..18

Importing this package does not start JAX; each public name is loaded when it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Cell": "cells",
    "Embedding": "training.model",
    "Examples": "tasks.task",
    "ExperimentConfig": "config",
    "GRU": "cells",
    "LSTM": "cells",
    "Network": "training.model",
    "ResidualSRN": "cells",
    "SRN": "cells",
    "Sweep": "ensemble.sweep",
    "SweepConfig": "config",
    "Task": "tasks",
    "Tokens": "tasks.task",
    "UserError": "errors",
    "Vectors": "tasks.task",
    "place_of": "tasks.task",
    "read_histories": "analysis.results",
    "read_results": "analysis.results",
    "run_sweep": "runs.group",
    "summarise": "analysis.summary",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
