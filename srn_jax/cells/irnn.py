"""The recurrent network of rectified linear units that starts at the identity."""

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.cell import Cell
from srn_jax.cells.initializers import xavier


class IRNN(Cell):
    """IRNN (Le et al., 2015): h_t = relu(x_t W + h_{t-1} U + b), so states are unbounded.

    It starts with U the identity, b = 0 and W normal with a standard deviation of 0.001. Clip its
    gradients.
    """

    input_init = staticmethod(nnx.initializers.normal(0.001))

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        W = self.input_init(rngs.params(), (input_size, hidden_size))
        start = {"W": W, "U": jnp.eye(hidden_size), "b": jnp.zeros((1, hidden_size))}
        super().__init__(input_size, hidden_size, rngs=rngs, **start)

    def update(self, x, h, state):
        """The rectified sum of both sides."""
        return jax.nn.relu(x[0] + h[0])


class XavierIRNN(IRNN):
    """The same with W Xavier uniform: it sees its inputs from the first step."""

    input_init = staticmethod(xavier)
