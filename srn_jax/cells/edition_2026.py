"""The cells of the textbook's new edition (2026, chapter 6): ours with its initial weights."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.initializers import uniform
from srn_jax.cells.lstm import LSTM
from srn_jax.cells.srn import SRN


class SRN2026(SRN):
    """An SRN with W normal / sqrt(M), U the identity and b = 0."""

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        W = jax.random.normal(rngs.params(), (input_size, hidden_size)) / math.sqrt(input_size)
        start = {"W": W, "U": jnp.eye(hidden_size), "b": jnp.zeros((1, hidden_size))}
        super().__init__(input_size, hidden_size, rngs=rngs, **start)


class LSTM2026(LSTM):
    """PyTorch's `nn.LSTM`: two biases for each gate, and all parameters uniform on +-1/sqrt(D)."""

    recurrent_bias = True

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        draw = uniform(1 / math.sqrt(hidden_size))
        rows, columns = {"W": input_size, "U": hidden_size, "b": 1, "c": 1}, 4 * hidden_size
        start = {name: draw(rngs.params(), (number, columns)) for name, number in rows.items()}
        super().__init__(input_size, hidden_size, rngs=rngs, **start)
