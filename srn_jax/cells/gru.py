"""Gated Recurrent Unit, as cuDNN and PyTorch compute it."""

import jax
import jax.numpy as jnp

from srn_jax.cells.cell import Cell


class GRU(Cell):
    """GRU (Cho et al., 2014) with the reset gate after the product, gates in the order r, z, n:

        r, z = sigmoid(x W + b + h U + c)      n = tanh(x W_n + b_n + r * (h U_n + c_n))
        h' = (1 - z) * n + z * h

    This is the form of cuDNN and PyTorch; the textbook's (6.4) resets h before the product.
    """  # noqa: D415

    gates = 3
    recurrent_bias = True

    def update(self, x, h, state):
        """The new h."""
        r, z = jax.nn.sigmoid(x[0] + h[0]), jax.nn.sigmoid(x[1] + h[1])
        return (1 - z) * jnp.tanh(x[2] + r * h[2]) + z * state

    def gate_values(self, x, h, state):
        """Reset and update gate."""
        return {"R": jax.nn.sigmoid(x[0] + h[0]), "Z": jax.nn.sigmoid(x[1] + h[1])}

    def start_chrono(self, log_times):
        """The update gate, which keeps the state."""
        self.set_bias("b", 1, log_times)
        self.set_bias("c", 1, jnp.zeros_like(log_times))
