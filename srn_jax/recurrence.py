r"""The recurrence of the SRN over time, with a backward pass written by hand.

For t = 1..T, with the input side x_t = X_t W + b already computed for all positions at once:

    h_t = tanh(x_t + h_{t-1} U)

Reverse-mode autodiff of the loop accumulates dU inside it: a small product and a sum at every
step. With g_t the gradient that reaches h_t from outside, only two things depend on the future,

    dz_t = (g_t + dh_t) * (1 - h_t^2)          dh_{t-1} = dz_t U^T

and everything else is one large product after the loop, over all positions and rows:

    dx_t = dz_t          dU = sum_t h_{t-1}^T dz_t = [h_0; ...; h_{T-1}]^T [dz_1; ...; dz_T]

This is what cuDNN does, and it leaves two loops so small that XLA compiles each into one kernel.
`recurrence` is the fast version, `reference_recurrence` the plain one; the tests hold them equal.
"""

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST  # float32 means float32, on TPU (bf16) and GPU (TF32) too


def reference_recurrence(
    inputs: jax.Array,
    recurrent_weight: jax.Array,
    initial_state: jax.Array,
    mask: jax.Array | None = None,
) -> jax.Array:
    """The hidden states, by `lax.scan` and autodiff; arguments as `recurrence`."""

    def cell(state: jax.Array, step: tuple[jax.Array, jax.Array | None]):
        x, keep = step
        new = jnp.tanh(x + jnp.matmul(state, recurrent_weight, precision=HIGHEST))
        new = new if keep is None else jnp.where(keep[:, None], new, state)
        return new, new

    return jax.lax.scan(cell, initial_state, (inputs, mask))[1]


@jax.custom_vjp
def recurrence(
    inputs: jax.Array,
    recurrent_weight: jax.Array,
    initial_state: jax.Array,
    mask: jax.Array | None = None,
) -> jax.Array:
    """The hidden states h_1..h_T of a Simple Recurrent Network.

    Args:
        inputs: `[time, batch, hidden]`, the input side X W + b.
        recurrent_weight: U, `[hidden, hidden]`.
        initial_state: h_0, `[batch, hidden]`.
        mask: `[time, batch]` booleans or None; where it is False the state stays as it was.

    Returns:
        `[time, batch, hidden]`.
    """
    return reference_recurrence(inputs, recurrent_weight, initial_state, mask)


def _forward(inputs, recurrent_weight, initial_state, mask=None):
    states = reference_recurrence(inputs, recurrent_weight, initial_state, mask)
    return states, (states, recurrent_weight, initial_state, mask)


def _backward(residuals, states_gradient):
    states, recurrent_weight, initial_state, mask = residuals
    # The barrier keeps XLA from folding the transpose into the product of every step.
    transposed = jax.lax.optimization_barrier(recurrent_weight.T)

    def cell(state_gradient, step):
        state, outside, keep = step
        total = outside + state_gradient
        dz = total * (1 - state * state)
        if keep is None:
            return jnp.matmul(dz, transposed, precision=HIGHEST), dz
        dz = jnp.where(keep[:, None], dz, 0)
        passed_on = jnp.where(keep[:, None], 0, total)
        return jnp.matmul(dz, transposed, precision=HIGHEST) + passed_on, dz

    steps = (states, states_gradient, mask)
    initial_gradient, dz = jax.lax.scan(cell, jnp.zeros_like(initial_state), steps, reverse=True)
    before = jnp.concatenate([initial_state[None], states[:-1]])
    hidden = states.shape[-1]
    recurrent_gradient = jnp.matmul(
        before.reshape(-1, hidden).T, dz.reshape(-1, hidden), precision=HIGHEST
    )
    return dz, recurrent_gradient, initial_gradient, None


recurrence.defvjp(_forward, _backward)
