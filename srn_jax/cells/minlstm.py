"""The minimal LSTM, whose gates do not see the state."""

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.linear_scan import LinearCell, chrono_start, positive


class MinLSTM(LinearCell):
    """minLSTM (Feng et al., 2024), gates in the order i, f, a, the first two made to sum to 1:

        i, f = sigmoid(x W + b)       f' = f / (f + i)       i' = 1 - f'
        h' = f' * h + i' * g(x W_a + b_a)

    g is `positive`. `forget_bias` is added to b_f; with `chrono` b_f starts at ln u and b_i at
    -ln u instead, with the same u.
    """  # noqa: D415

    gates = 3

    def __init__(
        self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs, forget_bias=0.0, chrono=None
    ):
        super().__init__(input_size, hidden_size, rngs=rngs)
        i, f, a = jnp.split(self.b[...], self.gates, axis=1)
        f = f + forget_bias
        if chrono is not None:
            f = chrono_start(chrono, hidden_size, rngs)
            i = -f
        self.b = nnx.Param(jnp.concatenate([i, f, a], axis=1))

    def keep_and_write(self, *sides):
        """What is kept, f', and what is written, i' g(a)."""
        i, f, a = sides
        # f / (f + i) is 0 / 0 in float32 where both are closed; this difference never is.
        d = jax.nn.softplus(-f) - jax.nn.softplus(-i)
        return jax.nn.sigmoid(-d), jax.nn.sigmoid(d) * positive(a)
