"""Long Short-Term Memory without peepholes, as in section 6.3 of the textbook."""

import jax
import jax.numpy as jnp

from srn_jax.cells.cell import Cell


class LSTM(Cell):
    """LSTM (Hochreiter & Schmidhuber, 1997; Gers et al., 2000), gates in the order i, f, o, a:

        i, f, o = sigmoid(x W + h U + b)      a = tanh(x W_a + h U_a + b_a)
        c' = f * c + i * a                    h' = o * tanh(c')

    The state is the pair (h, c). `forget_bias` is added to b_f when it is drawn.
    """  # noqa: D415

    gates = 4
    states = 2
    forget_gate = 1
    additive = True
    rests = True

    def update(self, x, h, state):
        """The new (h, c)."""
        i, f, o = (jax.nn.sigmoid((x + h)[..., n, :]) for n in range(3))
        c = f * state[1] + i * jnp.tanh((x + h)[..., 3, :])
        return o * jnp.tanh(c), c

    @classmethod
    def step(cls, x, h, state):
        """Keeps the gates."""
        *zs, za = jnp.split(x + h, 4, axis=-1)
        i, f, o, a = gates = [*map(jax.nn.sigmoid, zs), jnp.tanh(za)]
        c = f * state[1] + i * a
        return (o * jnp.tanh(c), c), jnp.concatenate(gates, axis=-1)

    @classmethod
    def derivative(cls, kept, h, before, gradient):
        """The sigmoid's derivative is s (1 - s), so no gate is computed again."""
        i, f, o, a = jnp.split(kept, 4, axis=-1)
        dh, dc = gradient
        tanh_c = jnp.tanh(f * before[1] + i * a)
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        dz = [dc * a * i * (1 - i), dc * before[1] * f * (1 - f)]
        dz += [dh * tanh_c * o * (1 - o), dc * i * (1 - a * a)]
        dx = jnp.concatenate(dz, axis=-1)
        return dx, dx, (jnp.zeros_like(dh), dc * f)

    @classmethod
    def gate_values(cls, x, h, state):
        """Input, forget and output gate, and the internal state."""
        (_, c), gates = cls.step(x, h, state)
        return dict(zip("IFO", jnp.split(gates, 4, axis=-1), strict=False)) | {"C": c}
