"""The Linear Recurrent Unit: complex states that turn and fade."""

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.linear_scan import linear_scan
from srn_jax.cells.recurrence import layer
from srn_jax.errors import warn_once


class LRU(nnx.Module):
    """LRU (Orvieto et al., 2023), with D complex states s_t, s_0 = 0:

        lam = exp(-exp(nu) + i exp(th))
        s_t = lam s_{t-1} + exp(ga) (x_t B)      y_t = Re(s_t C) + d x_t

    nu, th, ga and d `[D]`, B `[M, D]` and C `[D, D]` in two parts; without d where M is not D.
    |lam|^2 starts uniform between r_min^2 and r_max^2, the angle on 0..max_phase.
    """  # noqa: D415

    def __init__(
        self, input_size, hidden_size, *, rngs: nnx.Rngs, r_min=0.0, r_max=1.0, max_phase=6.28
    ):
        def normal(*shape: int, scale: float = 1.0) -> nnx.Param[jax.Array]:
            return nnx.Param(scale**-0.5 * jax.random.normal(rngs.params(), shape, jnp.float32))

        shape, above_0 = (hidden_size,), jnp.finfo(jnp.float32).tiny  # 0 has no logarithm
        u1, u2 = (jax.random.uniform(rngs.params(), shape, jnp.float32, above_0) for _ in range(2))
        square = u1 * (r_max**2 - r_min**2) + r_min**2
        self.nu = nnx.Param(jnp.log(-jnp.log(square) / 2))
        self.th = nnx.Param(jnp.log(max_phase * u2))
        self.ga = nnx.Param(jnp.log1p(-square) / 2)
        self.B_re, self.B_im = (
            normal(input_size, hidden_size, scale=2 * input_size) for _ in range(2)
        )
        self.C_re, self.C_im = (
            normal(hidden_size, hidden_size, scale=hidden_size) for _ in range(2)
        )
        self.skips = input_size == hidden_size
        if self.skips:
            self.d = normal(hidden_size)
        else:
            warn_once(f"an LRU of {input_size} inputs and {hidden_size} units has no skip d x")

    def __call__(self, inputs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Outputs `[batch, time, D]` of inputs `[batch, time, M]`."""
        inputs = jnp.asarray(inputs, self.nu.dtype)
        if mask is not None:
            inputs = jnp.where(mask[..., None], inputs, 0)
        write = jax.lax.complex(*(layer(inputs, B[...]) for B in (self.B_re, self.B_im)))
        write = jnp.exp(self.ga[...])[None, None] * write
        lam = jnp.exp(jax.lax.complex(-jnp.exp(self.nu[...]), jnp.exp(self.th[...])))
        states = linear_scan(jnp.broadcast_to(lam[None, None], write.shape), write, mask)
        outputs = layer(states.real, self.C_re[...]) - layer(states.imag, self.C_im[...])
        return outputs + self.d[...][None, None] * inputs if self.skips else outputs
