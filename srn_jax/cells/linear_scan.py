"""Cells whose recurrence is linear: h_t = keep_t h_{t-1} + write_t, h_0 = 0.

A scan over pairs (keep, write) is associative: (A2, V2) after (A1, V1) is (A2 A1, A2 V1 + V2). So
an accelerator runs it in log2(time) turns; a CPU does less work one position after the other.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.initializers import uniform, with_chrono
from srn_jax.cells.products import layer
from srn_jax.errors import warn_once


def blanked(inputs: jax.Array, mask: jax.Array | None, filler: float = 0) -> jax.Array:
    """`inputs [batch, time, M]` with a filler where the mask is False.

    It is a select, so that nothing in padding makes a gradient NaN.
    """
    return inputs if mask is None else jnp.where(mask[..., None], inputs, filler)


def positive(a: jax.Array) -> jax.Array:
    """g(a) = a + 1/2 for a >= 0, sigmoid(a) below: always positive."""
    return jnp.where(a >= 0, a + 0.5, jax.nn.sigmoid(a))


def linear_scan(keep: jax.Array, write: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The states of `keep` and `write`, all `[batch, time, D]`; they stay where mask is False."""
    keep, write = blanked(keep, mask, 1), blanked(write, mask)
    return jax.lax.platform_dependent(keep, write, cpu=one_by_one, default=in_parallel)


def one_by_one(keep: jax.Array, write: jax.Array) -> jax.Array:
    """The states, each out of the one before."""

    def step(state, inputs):
        state = inputs[0] * state + inputs[1]
        return state, state

    steps = jnp.swapaxes(keep, 0, 1), jnp.swapaxes(write, 0, 1)
    return jnp.swapaxes(jax.lax.scan(step, jnp.zeros_like(write[:, 0]), steps)[1], 0, 1)


def in_parallel(keep: jax.Array, write: jax.Array) -> jax.Array:
    """The states, out of ever longer pieces of a sequence."""

    def after(first, second):
        return second[0] * first[0], second[0] * first[1] + second[1]

    return jax.lax.associative_scan(after, (keep, write), axis=1)[1]


class LinearCell(nnx.Module):
    """A cell whose gates see the input x W + b alone.

    W `[M, gates * D]` and b `[1, gates * D]` are uniform on +-1/sqrt(M), like PyTorch's Linear.
    """

    gates: int
    chrono_gates: tuple[tuple[int, int], ...]  # with the sign that ln u has in its bias
    keep_and_write: Any  # a method: what `linear_scan` takes, of a side for each gate

    def __init__(self, input_size, hidden_size, *, rngs: nnx.Rngs, chrono=None):
        def blocks(rows: int) -> jax.Array:
            draw, shape = uniform(1 / math.sqrt(input_size)), (rows, hidden_size)
            return jnp.concatenate([draw(rngs.params(), shape) for _ in range(self.gates)], axis=1)

        self.W, self.b = nnx.Param(blocks(input_size)), nnx.Param(blocks(1))
        if chrono is not None:
            self.b = with_chrono(self, chrono, rngs)

    def __call__(self, inputs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """States `[batch, time, D]` of inputs `[batch, time, M]`; they stay where mask is False."""
        inputs = blanked(jnp.asarray(inputs, self.W.dtype), mask)
        sides = layer(inputs, self.W[...]) + self.b[...][None]
        keep, write = self.keep_and_write(*jnp.split(sides, self.gates, axis=-1))
        return linear_scan(keep, write, mask)


class MinGRU(LinearCell):
    """minGRU (Feng et al., 2024), gates in the order z, a; its z writes, that of our GRU keeps:

        z = sigmoid(x W_z + b_z)      h' = (1 - z) * h + z * g(x W_a + b_a)

    g is `positive`.
    """  # noqa: D415

    gates = 2
    chrono_gates = ((0, -1),)

    def keep_and_write(self, z, a):
        return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * positive(a)


class MinLSTM(LinearCell):
    """minLSTM (Feng et al., 2024), gates in the order i, f, a, the first two made to sum to 1:

        i, f = sigmoid(x W + b)       f' = f / (f + i)       i' = 1 - f'
        h' = f' * h + i' * g(x W_a + b_a)

    g is `positive`. `forget_bias` is added to b_f, unless it starts by `chrono`.
    """  # noqa: D415

    gates = 3
    chrono_gates = ((0, -1), (1, 1))

    def __init__(self, input_size, hidden_size, *, rngs, forget_bias=0.0, chrono=None):
        super().__init__(input_size, hidden_size, rngs=rngs, chrono=chrono)
        if chrono is None:
            self.b = nnx.Param(self.b[...].at[:, hidden_size : 2 * hidden_size].add(forget_bias))

    def keep_and_write(self, i, f, a):
        # f / (f + i) is 0 / 0 in float32 where both are closed; this difference never is.
        d = jax.nn.softplus(-f) - jax.nn.softplus(-i)
        return jax.nn.sigmoid(-d), jax.nn.sigmoid(d) * positive(a)


class LRU(nnx.Module):
    """LRU (Orvieto et al., 2023), with D complex states s_t, s_0 = 0:

        lam = exp(-exp(nu) + i exp(th))
        s_t = lam s_{t-1} + exp(ga) (x_t B)      y_t = Re(s_t C) + d x_t

    nu, th, ga and d `[D]`, B `[M, D]` and C `[D, D]` in two parts; without d where M is not D.
    |lam|^2 starts uniform between r_min^2 and r_max^2, the angle on 0..max_phase.
    """  # noqa: D415

    def __init__(self, M, D, *, rngs: nnx.Rngs, r_min=0.0, r_max=1.0, max_phase=6.28):
        def normal(*shape: int, scale: float = 1.0) -> nnx.Param[jax.Array]:
            return nnx.Param(scale**-0.5 * jax.random.normal(rngs.params(), shape, jnp.float32))

        above_0 = jnp.finfo(jnp.float32).tiny  # 0 has no logarithm
        u1, u2 = (jax.random.uniform(rngs.params(), (D,), jnp.float32, above_0) for _ in range(2))
        square = u1 * (r_max**2 - r_min**2) + r_min**2
        self.nu = nnx.Param(jnp.log(-jnp.log(square) / 2))
        self.th = nnx.Param(jnp.log(max_phase * u2))
        self.ga = nnx.Param(jnp.log1p(-square) / 2)
        self.B_re, self.B_im = (normal(M, D, scale=2 * M) for _ in range(2))
        self.C_re, self.C_im = (normal(D, D, scale=D) for _ in range(2))
        self.skips = M == D
        if self.skips:
            self.d = normal(D)
        else:
            warn_once(f"an LRU of {M} inputs and {D} units has no skip d x")

    def __call__(self, inputs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Outputs `[batch, time, D]` of inputs `[batch, time, M]`."""
        inputs = blanked(jnp.asarray(inputs, self.nu.dtype), mask)
        write = jax.lax.complex(*(layer(inputs, B[...]) for B in (self.B_re, self.B_im)))
        write = jnp.exp(self.ga[...])[None, None] * write
        lam = jnp.exp(jax.lax.complex(-jnp.exp(self.nu[...]), jnp.exp(self.th[...])))
        states = linear_scan(jnp.broadcast_to(lam[None, None], write.shape), write, mask)
        outputs = layer(states.real, self.C_re[...]) - layer(states.imag, self.C_im[...])
        return outputs + self.d[...][None, None] * inputs if self.skips else outputs
