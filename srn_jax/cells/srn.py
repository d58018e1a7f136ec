"""The Simple Recurrent Network, and the same with a residual connection."""

import jax.numpy as jnp

from srn_jax.cells.cell import Cell


class SRN(Cell):
    """Simple Recurrent Network (Elman, 1990): h_t = tanh(x_t W + h_{t-1} U + b)."""

    def update(self, x, h, state):
        """tanh(x + h)."""
        return jnp.tanh(x[0] + h[0])


class ResidualSRN(Cell):
    """Residual SRN (exercise 6.1 of the textbook): h_t = h_{t-1} + tanh(x_t W + h_{t-1} U + b)."""

    def update(self, x, h, state):
        """State + tanh(x + h)."""
        return state + jnp.tanh(x[0] + h[0])
