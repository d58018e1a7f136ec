"""Checks of what a network is given, as one line for a user's mistake."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.errors import UserError
from srn_jax.tasks.task import PADDING, Tokens, Vectors


def checked_inputs(values: Any, kind: Tokens | Vectors, least: int, padded: bool) -> jax.Array:
    """Inputs as an array that a network can take; raises `UserError` for any other.

    Args:
        values: tokens `[batch, time]` or vectors `[batch, time, size]`, as any array or lists.
        kind: which of them.
        least: positions that there must be.
        padded: whether there may be padding among tokens.
    """
    inputs = array_of("inputs", values)
    size = () if isinstance(kind, Tokens) else (kind.size,)
    if inputs.ndim != 2 + len(size) or inputs.shape[2:] != size or inputs.shape[1] == 0:
        wanted = ", ".join(map(str, ("batch", "time", *size)))
        raise UserError(f"`inputs` must be [{wanted}] and not empty, got shape {inputs.shape}")
    if inputs.shape[1] < least:
        raise UserError(
            f"`inputs` must have at least {least} positions, since the last {least} are answered, "
            f"got {inputs.shape[1]}"
        )
    if isinstance(kind, Tokens):
        check_tokens(inputs, kind.vocabulary, padded)
        return jnp.asarray(inputs)
    if inputs.dtype.kind not in "iub" and not jnp.issubdtype(inputs.dtype, np.floating):
        raise UserError(f"`inputs` must be real numbers, got {inputs.dtype}")
    return jnp.asarray(inputs)


def checked_mask(mask: Any, shape: tuple[int, ...]) -> jax.Array:
    """A mask as an array of booleans; raises `UserError` if it does not fit `[batch, time]`."""
    mask = array_of("mask", mask)
    if mask.shape not in (shape, (1, shape[1])) or mask.dtype.kind not in "biu":
        raise UserError(
            f"`mask` must be booleans [batch, time] or [1, time], here {shape} or "
            f"{(1, shape[1])}, got shape {mask.shape} of {mask.dtype}"
        )
    return jnp.asarray(mask, bool)


def check_tokens(tokens: Any, vocabulary: int, padded: bool) -> None:
    """Raise `UserError` for tokens out of range, where their values are known."""
    traced = isinstance(tokens, jax.core.Tracer)
    wanted = f"`inputs` must be whole numbers from 0 to {vocabulary - 1}"
    if tokens.dtype.kind not in ("iub" if traced else "iu"):
        raise UserError(f"{wanted}, got {tokens.dtype}")
    if traced:
        return
    values = np.asarray(tokens)
    wrong = values[(values < (PADDING if padded else 0)) | (values >= vocabulary)]
    if wrong.size:
        raise UserError(f"{wanted}, got {wrong.flat[0]}")


def array_of(name: str, values: Any) -> Any:
    """Values, such as nested lists, as an array; raises `UserError` if they cannot be one."""
    if isinstance(values, jax.Array):  # or traced
        return values
    try:
        return np.asarray(values)  # in which a number too large for JAX is still itself
    except jax.errors.TracerArrayConversionError:  # a list of traced values
        return jnp.asarray(values)
    except (TypeError, ValueError):
        raise UserError(f"`{name}` must be an array, or lists of equal lengths") from None
