"""The cells of the textbook's new edition (2026, chapter 6): ours with its initial weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.initializers import uniform
from srn_jax.cells.irnn import IdentityStart
from srn_jax.cells.lstm import LSTM
from srn_jax.cells.srn import SRN


class SRN2026(IdentityStart, SRN):
    """An SRN with W normal / sqrt(M), U the identity and b = 0."""

    def input_init(self, key, shape):
        """W `[M, D]`."""
        return jax.random.normal(key, shape, jnp.float32) / math.sqrt(shape[0])


class LSTM2026(LSTM):
    """PyTorch's `nn.LSTM`: two biases for each gate, and all parameters uniform on +-1/sqrt(D)."""

    recurrent_bias = True

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        draw, columns = uniform(1 / math.sqrt(hidden_size)), self.gates * hidden_size
        rows = {"W": input_size, "U": hidden_size, "b": 1, "c": 1}
        drawn: Any = {name: draw(rngs.params(), (n, columns)) for name, n in rows.items()}
        super().__init__(input_size, hidden_size, rngs=rngs, **drawn)
