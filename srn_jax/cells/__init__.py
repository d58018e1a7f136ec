"""WHAT remembers: the recurrent cells, and the loop over time that serves them all."""

from typing import Any

from srn_jax.cells.cell import Cell
from srn_jax.cells.edition_2026 import LSTM2026, SRN2026
from srn_jax.cells.gru import GRU
from srn_jax.cells.irnn import IRNN, XavierIRNN
from srn_jax.cells.lru import LRU
from srn_jax.cells.lstm import LSTM
from srn_jax.cells.mingru import MinGRU
from srn_jax.cells.minlstm import MinLSTM
from srn_jax.cells.recurrence import Derivative
from srn_jax.cells.srn import SRN, ResidualSRN
from srn_jax.errors import UserError
from srn_jax.own_files import describe, resolve

__all__ = ["BY_NAME", "GRU", "LSTM", "SRN", "Cell", "Derivative", "ResidualSRN", "cell_class"]

BY_NAME: dict[str, Any] = {
    "srn": SRN,
    "residual-srn": ResidualSRN,
    "lstm": LSTM,
    "gru": GRU,
    "irnn": IRNN,
    "irnn-xavier": XavierIRNN,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "lru": LRU,
    "srn-2026": SRN2026,
    "lstm-2026": LSTM2026,
}


def cell_class(value: Any) -> Any:
    """The class that a setting means: itself, one of `BY_NAME`, or that of FILE.py:NAME.

    Raises `UserError` for what is no class.
    """
    found = resolve(value, BY_NAME)
    if not isinstance(found, type):
        raise UserError(f"`cell` must be a class, got {describe(value)}")
    return found
