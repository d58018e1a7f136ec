"""The minimal GRU, whose gates do not see the state."""

import jax
from flax import nnx

from srn_jax.cells.linear_scan import LinearCell, chrono_start, positive


class MinGRU(LinearCell):
    """minGRU (Feng et al., 2024), gates in the order z, a; its z writes, that of our GRU keeps:

        z = sigmoid(x W_z + b_z)      h' = (1 - z) * h + z * g(x W_a + b_a)

    g is `positive`. With `chrono` b_z starts at -ln u.
    """  # noqa: D415

    gates = 2

    def __init__(
        self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs, chrono: float | None = None
    ):
        super().__init__(input_size, hidden_size, rngs=rngs)
        if chrono is not None:
            log_u = chrono_start(chrono, hidden_size, rngs)
            self.b = nnx.Param(self.b[...].at[:, :hidden_size].set(-log_u))

    def keep_and_write(self, *sides):
        """What is kept, 1 - z, and what is written, z g(a)."""
        z, a = sides
        return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * positive(a)
