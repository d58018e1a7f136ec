"""The recurrent network of rectified linear units that starts at the identity."""

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.cell import Cell
from srn_jax.cells.initializers import xavier


class IdentityStart(Cell):
    """A cell of one gate that starts with U the identity, b = 0, and W by `input_init`."""

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        W = self.input_init(rngs.params(), (input_size, hidden_size))
        U, b = jnp.eye(hidden_size, dtype=jnp.float32), jnp.zeros((1, hidden_size), jnp.float32)
        super().__init__(input_size, hidden_size, rngs=rngs, W=W, U=U, b=b)

    def input_init(self, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """W `[M, D]`, Xavier uniform."""
        return xavier(key, shape, jnp.float32)


class XavierIRNN(IdentityStart):
    """IRNN with W Xavier uniform: h_t = relu(x_t W + h_{t-1} U + b). Clip its gradients."""

    def update(self, x, h, state):
        """The rectified sum of both sides; it is not bounded."""
        return jax.nn.relu(x[0] + h[0])


class IRNN(XavierIRNN):
    """As published (Le et al., 2015): W normal with a standard deviation of 0.001."""

    def input_init(self, key, shape):
        """W `[M, D]`."""
        return 0.001 * jax.random.normal(key, shape, jnp.float32)
