"""Checks of what a network is given, as one line for a user's mistake."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.errors import UserError
from srn_jax.tasks.task import PADDING, Tokens, Vectors


def checked(
    inputs: Any, mask: Any, kind: Tokens | Vectors, least: int
) -> tuple[jax.Array, jax.Array | None]:
    """Inputs of a `kind` with at least so many positions, and a mask or None, as arrays."""
    inputs, tokens = array_of("inputs", inputs), isinstance(kind, Tokens)
    wanted = ("batch", "time") if tokens else ("batch", "time", kind[0])
    if inputs.ndim != len(wanted) or inputs.shape[2:] != wanted[2:] or inputs.shape[1] < least:
        axes = ", ".join(map(str, wanted))
        raise UserError(
            f"`inputs` must be [{axes}] with at least {least} positions, got shape {inputs.shape}"
        )
    if inputs.dtype.kind not in ("iu" if tokens else "iubfV"):  # V: bfloat16 for NumPy
        raise UserError(
            f"`inputs` must be {'whole' if tokens else 'real'} numbers, got {inputs.dtype}"
        )
    if tokens and not isinstance(inputs, jax.core.Tracer):  # so their values are known
        values, low = np.asarray(inputs), 0 if mask is None else PADDING
        if len(wrong := values[(values < low) | (values >= kind[0])]):
            raise UserError(f"`inputs` must be numbers from 0 to {kind[0] - 1}, got {wrong[0]}")
    if mask is not None:
        mask, shape = array_of("mask", mask), inputs.shape[:2]
        if mask.shape not in (shape, (1, shape[1])) or mask.dtype.kind not in "biu":
            raise UserError(f"`mask` must be booleans {shape}, got {mask.dtype} {mask.shape}")
        mask = jnp.asarray(mask, bool)
    return jnp.asarray(inputs), mask


def array_of(name: str, values: Any) -> Any:
    """Values, such as nested lists, as an array."""
    if isinstance(values, jax.Array):  # or traced
        return values
    try:
        return np.asarray(values)  # in which a number too large for JAX is still itself
    except (TypeError, ValueError):
        raise UserError(f"`{name}` must be an array, or lists of equal lengths") from None
