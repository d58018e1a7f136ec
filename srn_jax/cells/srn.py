"""The Simple Recurrent Network, and the same with a residual connection."""

import jax.numpy as jnp

from srn_jax.cells.cell import Cell


class SRN(Cell):
    """Simple Recurrent Network (Elman, 1990): h_t = tanh(x_t W + h_{t-1} U + b)."""

    additive = True
    rests = True
    keeps_state = True

    def update(self, x, h, state):
        """tanh(x + h)."""
        return jnp.tanh(x + h)[..., 0, :]

    @classmethod
    def step(cls, x, h, state):
        """The new state is all that its derivative needs."""
        return jnp.tanh(x + h), None

    @classmethod
    def derivative(cls, kept, h, before, gradient):
        """The tanh is not computed again: dz = (1 - h_t^2) dh_t."""
        dz = gradient * (1 - kept * kept)
        return dz, dz, jnp.zeros_like(before)


class ResidualSRN(Cell):
    """Residual SRN (exercise 6.1 of the textbook): h_t = h_{t-1} + tanh(x_t W + h_{t-1} U + b)."""

    additive = True
    rests = True

    def update(self, x, h, state):
        """State + tanh(x + h)."""
        return state + jnp.tanh(x + h)[..., 0, :]

    @classmethod
    def step(cls, x, h, state):
        """Keeps the tanh."""
        change = jnp.tanh(x + h)
        return state + change, change

    @classmethod
    def derivative(cls, kept, h, before, gradient):
        """The gradient goes on unchanged beside the tanh."""
        dz = gradient * (1 - kept * kept)
        return dz, dz, gradient
