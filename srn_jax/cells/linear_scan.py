"""Cells whose recurrence is linear: h_t = keep_t h_{t-1} + write_t, h_0 = 0.

A scan over pairs (keep, write) is associative: (A2, V2) after (A1, V1) is (A2 A1, A2 V1 + V2). So
an accelerator runs it in log2(time) turns; a CPU does less work one position after the other.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from srn_jax.cells.initializers import uniform
from srn_jax.cells.recurrence import layer


class LinearCell(nnx.Module):
    """A cell whose gates see the input x W + b alone.

    W `[M, gates * D]` and b `[1, gates * D]` are uniform on +-1/sqrt(M), like PyTorch's Linear.
    """

    gates: int

    def __init__(self, input_size: int, hidden_size: int, *, rngs: nnx.Rngs):
        def blocks(rows: int) -> jax.Array:
            draw, shape = uniform(1 / math.sqrt(input_size)), (rows, hidden_size)
            return jnp.concatenate([draw(rngs.params(), shape) for _ in range(self.gates)], axis=1)

        self.W, self.b = nnx.Param(blocks(input_size)), nnx.Param(blocks(1))

    def __call__(self, inputs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """States `[batch, time, D]` of inputs `[batch, time, M]`; they stay where mask is False."""
        inputs = jnp.asarray(inputs, self.W.dtype)
        if mask is not None:  # by a select, so that nothing in padding makes a gradient NaN
            inputs = jnp.where(mask[..., None], inputs, 0)
        sides = layer(inputs, self.W[...]) + self.b[...][None]
        keep, write = self.keep_and_write(*jnp.split(sides, self.gates, axis=-1))
        return linear_scan(keep, write, mask)

    def keep_and_write(self, *sides: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What `linear_scan` takes, of a side for each gate, all `[batch, time, D]`."""
        raise NotImplementedError


def positive(a: jax.Array) -> jax.Array:
    """g(a) = a + 1/2 for a >= 0, sigmoid(a) below: always positive."""
    return jnp.where(a >= 0, a + 0.5, jax.nn.sigmoid(a))


def chrono_start(chrono: jax.Array | float, size: int, rngs: nnx.Rngs) -> jax.Array:
    """The logarithm of u `[1, D]`, uniform on 1..T_max - 1 (Tallec & Ollivier, 2018)."""
    return jnp.log(jax.random.uniform(rngs.params(), (1, size), jnp.float32, 1, chrono - 1))


def linear_scan(keep: jax.Array, write: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The states of `keep` and `write`, all `[batch, time, D]`; they stay where mask is False."""
    if mask is not None:
        keep, write = jnp.where(mask[..., None], keep, 1), jnp.where(mask[..., None], write, 0)
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
