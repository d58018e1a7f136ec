"""The Linear Recurrent Unit inside the block in which it was published."""

import jax
from flax import nnx

from srn_jax.cells.initializers import xavier
from srn_jax.cells.lru import LRU
from srn_jax.cells.recurrence import layer
from srn_jax.errors import UserError


class LRUBlock(nnx.Module):
    """A residual block of Orvieto et al. (2023), which makes a stack of LRUs nonlinear:

        x + GLU(GELU(LRU(norm x)))      GLU(v) = (v W1 + b1) * sigmoid(v W2 + b2)

    The norm is a layer norm: the published batch norm couples the sequences of a batch.
    """  # noqa: D415

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        if input_size != hidden_size:
            raise UserError(
                "`embedding_size` must equal `hidden_size` for a block that adds its input, got "
                f"{input_size} and {hidden_size}"
            )
        self.norm = nnx.LayerNorm(hidden_size, rngs=rngs)
        self.lru = LRU(hidden_size, hidden_size, rngs=rngs)
        shapes = (
            (hidden_size, hidden_size),
            (hidden_size, hidden_size),
            (1, hidden_size),
            (1, hidden_size),
        )
        drawn = (nnx.Param(xavier(rngs.params(), shape)) for shape in shapes)
        self.W1, self.W2, self.b1, self.b2 = drawn

    def __call__(self, inputs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Outputs `[batch, time, D]` of inputs `[batch, time, D]`."""
        v = jax.nn.gelu(self.lru(self.norm(inputs), mask))
        value = layer(v, self.W1[...]) + self.b1[...][None]
        gate = layer(v, self.W2[...]) + self.b2[...][None]
        return inputs + value * jax.nn.sigmoid(gate)
