"""Long Short-Term Memory without peepholes, as in section 6.3 of the textbook."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from srn_jax.cells.cell import Cell
from srn_jax.cells.recurrence import Derivative


def _derivative(x, h, state):
    """The new (h, c), and a pullback in which no gate is computed again."""
    i, f, o = (jax.nn.sigmoid(x[n] + h[n]) for n in range(3))
    a = jnp.tanh(x[3] + h[3])
    c = f * state[1] + i * a
    return (o * jnp.tanh(c), c), Partial(_pullback, i, f, o, a, state[1])


def _pullback(i, f, o, a, before, gradient):
    """The sigmoid's derivative is s (1 - s), the tanh's 1 - t^2."""
    dh, dc = gradient
    tanh_c = jnp.tanh(f * before + i * a)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    dx = (
        dc * a * i * (1 - i),
        dc * before * f * (1 - f),
        dh * tanh_c * o * (1 - o),
        dc * i * (1 - a * a),
    )
    return dx, dx, (jnp.zeros_like(dh), dc * f)


class LSTM(Cell):
    """LSTM (Hochreiter & Schmidhuber, 1997; Gers et al., 2000), gates in the order i, f, o, a:

        i, f, o = sigmoid(x W + h U + b)      a = tanh(x W_a + h U_a + b_a)
        c' = f * c + i * a                    h' = o * tanh(c')

    The state is the pair (h, c). `forget_bias` is added to b_f when it is drawn.
    """  # noqa: D415

    gates = 4
    states = 2
    forget_gate = 1

    def update(self, x, h, state):
        """The new (h, c)."""
        i, f, o = (jax.nn.sigmoid(x[n] + h[n]) for n in range(3))
        c = f * state[1] + i * jnp.tanh(x[3] + h[3])
        return o * jnp.tanh(c), c

    derivative = Derivative(update, _derivative)

    def gate_values(self, x, h, state):
        """Input, forget and output gate, and the internal state."""
        gates = {name: jax.nn.sigmoid(x[n] + h[n]) for n, name in enumerate("IFO")}
        return gates | {"C": self.update(x, h, state)[1]}

    def start_chrono(self, log_times):
        """The forget gate, and against it the input gate."""
        self.set_bias("b", 0, -log_times)
        self.set_bias("b", 1, log_times)
