"""WHAT remembers: the recurrent cells, and the loop over time that serves them all."""

from typing import Any

from srn_jax.cells.cell import Cell
from srn_jax.cells.gru import GRU
from srn_jax.cells.lstm import LSTM
from srn_jax.cells.srn import SRN, ResidualSRN
from srn_jax.checks import OWN
from srn_jax.own_files import load_class

__all__ = ["GRU", "LSTM", "SRN", "Cell", "ResidualSRN", "cell_class"]

BY_NAME = {"srn": SRN, "residual-srn": ResidualSRN, "lstm": LSTM, "gru": GRU}


def cell_class(name: str) -> Any:
    """The class of a name in `config.CELLS`, or of `FILE.py:NAME`; raises `UserError`."""
    return load_class(name) if OWN.fullmatch(name) else BY_NAME[name]
