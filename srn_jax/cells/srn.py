"""The Simple Recurrent Network and its kin: one gate, and the ways in which it is started."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.cell import Cell
from srn_jax.cells.initializers import xavier


class SRN(Cell):
    """Simple Recurrent Network (Elman, 1990): h_t = tanh(x_t W + h_{t-1} U + b)."""

    def update(self, x, h, state):
        return jnp.tanh(x[0] + h[0])


class ResidualSRN(Cell):
    """Residual SRN (exercise 6.1 of the textbook): h_t = h_{t-1} + tanh(x_t W + h_{t-1} U + b)."""

    def update(self, x, h, state):
        return state + jnp.tanh(x[0] + h[0])


class IdentityStart(Cell):
    """A cell of one gate that starts with U the identity, b = 0, and W by `input_init`."""

    input_init: Any = staticmethod(xavier)

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        W = self.input_init(rngs.params(), (input_size, hidden_size), jnp.float32)
        U, b = jnp.eye(hidden_size, dtype=jnp.float32), jnp.zeros((1, hidden_size), jnp.float32)
        super().__init__(input_size, hidden_size, rngs=rngs, W=W, U=U, b=b)


class XavierIRNN(IdentityStart):
    """IRNN with W Xavier uniform: h_t = relu(x_t W + h_{t-1} U + b). Clip its gradients."""

    def update(self, x, h, state):
        return jax.nn.relu(x[0] + h[0])


class IRNN(XavierIRNN):
    """As published (Le et al., 2015): W normal with a standard deviation of 0.001."""

    input_init = staticmethod(nnx.initializers.normal(0.001))


class SRN2026(IdentityStart, SRN):
    """The SRN of the textbook's new edition: W normal / sqrt(M), U the identity and b = 0."""

    input_init = staticmethod(nnx.initializers.variance_scaling(1.0, "fan_in", "normal"))
