"""srn_jax measures how far back a recurrent network can remember.

    import srn_jax

    run = srn_jax.train(lengths=[5, 10, 20], seeds=8, cell=["srn", "lstm"])
    print(run)
    run.results  # a DataFrame
    network = run.network(length=10, seed=0, variant="lstm")

Data flow: `config` (settings) -> `tasks` (sequences and right answers) and `cells` (what remembers)
-> `training` (one experiment, pure functions) -> `ensemble` (all lengths and seeds at once) ->
`runs` (a folder that survives) -> `analysis` (results and histories in; tables, figures and reports
out). `interop` has others' formats, `api` is the way in, and `cli` turns arguments into its calls.

Axes, in this order wherever several meet:

    experiment  one length and one seed, trained on its own; lengths outer, seeds inner
    batch       sequences side by side (`time` comes before it inside the recurrence)
    time        positions of a sequence; shorter ones are padded on the left
    gates       columns of W and U, in units of the hidden size
    hidden      D units of the network;  M is the size of an embedding
    class       of an answer: the 19 sums 0..18 of the textbook's task

Importing this package does not start JAX: each public name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srn_jax.analysis.stats import summarise
    from srn_jax.answers import Weights, read_weights, weights_of
    from srn_jax.api import Stopped, atlas, compare, load_run, resume, train
    from srn_jax.arguments import SECTIONS, How
    from srn_jax.cells import GRU, LSTM, SRN, Cell, Derivative, ResidualSRN
    from srn_jax.config import ExperimentConfig, SweepConfig
    from srn_jax.ensemble.sweep import Sweep
    from srn_jax.errors import UserError
    from srn_jax.places import write_data
    from srn_jax.run import Run
    from srn_jax.tasks.task import Examples, Task, Tokens, Vectors, place_of
    from srn_jax.training.network import Embedding, Network

__version__ = "0.2.0"
_MODULES = {  # where the public names are
    "analysis.stats": "summarise",
    "answers": "Weights read_weights weights_of",
    "api": "Stopped atlas compare load_run resume train",
    "arguments": "How SECTIONS",
    "cells": "GRU LSTM SRN Cell Derivative ResidualSRN",
    "config": "ExperimentConfig SweepConfig",
    "ensemble.sweep": "Sweep",
    "errors": "UserError",
    "places": "write_data",
    "run": "Run",
    "tasks.task": "Examples Task Tokens Vectors place_of",
    "training.network": "Embedding Network",
}
_PLACE = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_PLACE)


def __getattr__(name: str) -> Any:
    if name not in _PLACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACE[name]}"), name)
