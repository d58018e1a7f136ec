"""The gated cells: LSTM without peepholes, as in the textbook's section 6.3, and GRU."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial

from srn_jax.cells.cell import Cell
from srn_jax.cells.initializers import uniform
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
    di, df, do = dc * a * i * (1 - i), dc * before * f * (1 - f), dh * tanh_c * o * (1 - o)
    dx = di, df, do, dc * i * (1 - a * a)
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
    chrono_gates = ((0, -1), (1, 1))

    def update(self, x, h, state):
        i, f, o = (jax.nn.sigmoid(x[n] + h[n]) for n in range(3))
        c = f * state[1] + i * jnp.tanh(x[3] + h[3])
        return o * jnp.tanh(c), c

    derivative = Derivative(update, _derivative)

    def gate_values(self, x, h, state):
        gates = {name: jax.nn.sigmoid(x[n] + h[n]) for n, name in enumerate("IFO")}
        return gates | {"C": self.update(x, h, state)[1]}


class LSTM2026(LSTM):
    """PyTorch's, of the textbook's new edition: two biases a gate, all uniform on +-1/sqrt(D)."""

    recurrent_bias = True

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        draw, columns = uniform(1 / math.sqrt(hidden_size)), self.gates * hidden_size
        rows = {"W": input_size, "U": hidden_size, "b": 1, "c": 1}
        drawn: Any = {name: draw(rngs.params(), (n, columns)) for name, n in rows.items()}
        super().__init__(input_size, hidden_size, rngs=rngs, **drawn)


class GRU(Cell):
    """GRU (Cho et al., 2014), gates in the order r, z, n:

        r, z = sigmoid(x W + b + h U + c)      n = tanh(x W_n + b_n + r * (h U_n + c_n))
        h' = (1 - z) * n + z * h

    The textbook's (6.4) resets h before the product.
    """  # noqa: D415

    gates = 3
    recurrent_bias = True
    chrono_gates = ((1, 1),)

    def update(self, x, h, state):
        r, z = jax.nn.sigmoid(x[0] + h[0]), jax.nn.sigmoid(x[1] + h[1])
        return (1 - z) * jnp.tanh(x[2] + r * h[2]) + z * state

    def gate_values(self, x, h, state):
        return {"R": jax.nn.sigmoid(x[0] + h[0]), "Z": jax.nn.sigmoid(x[1] + h[1])}
