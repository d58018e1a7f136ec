"""WHAT remembers: the recurrent cells, and the loop over time that serves them all."""

from typing import Any

from srn_jax.cells.cell import Cell
from srn_jax.cells.gated import GRU, LSTM, LSTM2026
from srn_jax.cells.linear_scan import LRU, MinGRU, MinLSTM
from srn_jax.cells.recurrence import Derivative
from srn_jax.cells.srn import IRNN, SRN, SRN2026, ResidualSRN, XavierIRNN
from srn_jax.config import CELLS
from srn_jax.errors import UserError
from srn_jax.own_files import describe, resolve

__all__ = ["BY_NAME", "GRU", "LSTM", "SRN", "Cell", "Derivative", "ResidualSRN", "cell_class"]

OURS = SRN, ResidualSRN, LSTM, GRU, IRNN, XavierIRNN, MinGRU, MinLSTM, LRU, SRN2026, LSTM2026
BY_NAME: dict[str, Any] = dict(zip(CELLS, OURS, strict=True))


def cell_class(value: Any) -> Any:
    """The class that a setting means: itself, one of `BY_NAME`, or that of FILE.py:NAME.

    Raises `UserError` for what is no class.
    """
    found = resolve(value, BY_NAME)
    if not isinstance(found, type):
        raise UserError(f"`cell` must be a class, got {describe(value)}")
    return found
