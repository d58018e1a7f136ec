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
        r, z = (jax.nn.sigmoid((x + h)[..., n, :]) for n in range(2))
        return (1 - z) * jnp.tanh(x[..., 2, :] + r * h[..., 2, :]) + z * state

    @classmethod
    def step(cls, x, h, state):
        """Keeps the gates."""
        (xr, xz, xn), (hr, hz, hn) = (jnp.split(side, 3, axis=-1) for side in (x, h))
        r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
        n = jnp.tanh(xn + r * hn)
        return (1 - z) * n + z * state, jnp.concatenate([r, z, n], axis=-1)

    @classmethod
    def derivative(cls, kept, h, before, gradient):
        """No gate is computed again."""
        (r, z, n), hn = jnp.split(kept, 3, axis=-1), jnp.split(h, 3, axis=-1)[2]
        dn = gradient * (1 - z) * (1 - n * n)
        dr = dn * hn * r * (1 - r)
        dz = gradient * (before - n) * z * (1 - z)
        dx, dh = (jnp.concatenate([dr, dz, last], axis=-1) for last in (dn, dn * r))
        return dx, dh, gradient * z

    @classmethod
    def gate_values(cls, x, h, state):
        """Reset and update gate."""
        _, gates = cls.step(x, h, state)
        return dict(zip("RZ", jnp.split(gates, 3, axis=-1), strict=False))
