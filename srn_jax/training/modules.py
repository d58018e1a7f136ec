"""The parts of a network apart from our cells: embedding, linear layer, cells of another family."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.cell import given
from srn_jax.cells.initializers import xavier
from srn_jax.cells.recurrence import layer, product
from srn_jax.errors import UserError


class Embedding(nnx.Module):
    """A vector for each token: rows of a table `[vocabulary, M]`."""

    def __init__(
        self,
        vocabulary: int,
        embedding_size: int,
        *,
        rngs: nnx.Rngs,
        init: str = "xavier",
        table: jax.Array | None = None,
    ):
        if table is None:
            draw = xavier if init == "xavier" else jax.random.normal
            table = draw(rngs.params(), (vocabulary, embedding_size), jnp.float32)
        self.table = nnx.Param(given(table, (vocabulary, embedding_size), "table"))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Look the tokens up by index: `[...]` -> `[..., M]`."""
        return self.table[...][tokens]

    def by_one_hot(self, tokens: jax.Array) -> jax.Array:
        """The same as a product, one-hot(tokens) @ table, whose gradient is a product too."""
        table = self.table[...]
        return product(jax.nn.one_hot(tokens, len(table), dtype=table.dtype), table)


def states_of_module(
    cell: Any, size: int, below: jax.Array, mask: jax.Array | None, back: bool, last: bool
) -> jax.Array:
    """The states `[time, batch, size]` of any module, or the last alone, that reads `below`.

    Padding goes behind the sequences: a module that only looks back need not mind it.

    Args:
        cell: the module, called with inputs `[batch, time, M]` and a mask.
        size: of a state.
        below: `[time, batch, M]`.
        mask: `[batch, time]`, `[1, time]` or None.
        back: whether it reads from the last position to the first.
        last: whether only the state after the position that it reads last is wanted.
    """
    vectors = jnp.swapaxes(below, 0, 1)
    whole = vectors.shape[:2]
    start = None if mask is None else jnp.argmax(mask, axis=1)
    mask = jnp.ones(whole, bool) if mask is None else jnp.broadcast_to(mask, whole)
    turn = None if back else start
    vectors, mask = (v[:, ::-1] if back else turned(v, turn) for v in (vectors, mask))
    states = cell(vectors, mask)
    expected = (*whole, size)
    if getattr(states, "shape", None) != expected:
        found = getattr(states, "shape", type(states).__name__)
        raise UserError(
            f"{type(cell).__name__} returns {found}, expected states [batch, time, "
            f"hidden_size], here {expected}"
        )
    if not back:
        states = turned(states, None if start is None else -start)
        return states[:, -1] if last else jnp.swapaxes(states, 0, 1)
    states = states[:, ::-1]
    if start is not None:  # in padding the state stays
        place = jnp.maximum(jnp.arange(whole[1])[None], jnp.reshape(start, (-1, 1)))
        place = jnp.broadcast_to(place, whole)[..., None]
        states = jnp.take_along_axis(states, place, axis=1)
    return states[:, 0] if last else jnp.swapaxes(states, 0, 1)


def dot_general(states: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """The product of the linear layer, see `layer`; otherwise as `jax.lax.dot_general`."""
    return layer(states, kernel)


def turned(values: jax.Array, places: jax.Array | None) -> jax.Array:
    """`values [batch, time, ...]`, each row moved to the front by `places [batch]` or `[1]`."""
    if places is None:
        return values
    rows = jnp.broadcast_to(places, values.shape[:1])
    return jax.vmap(lambda row, by: jnp.roll(row, -by, axis=0))(values, rows)
