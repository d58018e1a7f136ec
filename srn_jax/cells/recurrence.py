r"""The recurrence of the SRN over time, with a backward pass written by hand.

For t = 1..T, with features f_t (a bias is a row of W, for a feature that is always 1):

    h_t = tanh(f_t W + h_{t-1} U)

Reverse-mode autodiff of the loop accumulates dW and dU inside it: small products and sums at every
step. With g_t the gradient that reaches h_t from outside, only two things depend on the future,

    dz_t = (g_t + dh_t) * (1 - h_t^2)          dh_{t-1} = dz_t U^T

and everything else is one large product after the loop, over all positions and rows:

    [dW; dU] = sum_t [f_t, h_{t-1}]^T dz_t          df_t = dz_t W^T

This is what cuDNN does. f_t W, too, is one product before the loop; what is left are two loops so
small that XLA compiles each into one kernel. They work in place: h_t takes the room of f_t W, and
dz_t that of g_t. `recurrence` is the fast version, `reference_recurrence` the plain one; the tests
hold them equal.
"""

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier

HIGHEST = jax.lax.Precision.HIGHEST  # float32 means float32, on TPU (bf16) and GPU (TF32) too


def reference_recurrence(
    features: jax.Array,
    input_weight: jax.Array,
    recurrent_weight: jax.Array,
    initial_state: jax.Array,
    mask: jax.Array | None = None,
) -> jax.Array:
    """The hidden states, by `lax.scan` and autodiff; arguments as `recurrence`."""

    def cell(state: jax.Array, step: tuple[jax.Array, jax.Array | None]):
        f, keep = step
        new = jnp.tanh(product(f, input_weight) + product(state, recurrent_weight))
        new = keep_where(keep, new, state)
        return new, new

    return jax.lax.scan(cell, initial_state, (features, mask))[1]


@jax.custom_vjp
def recurrence(
    features: jax.Array,
    input_weight: jax.Array,
    recurrent_weight: jax.Array,
    initial_state: jax.Array,
    mask: jax.Array | None = None,
) -> jax.Array:
    """The hidden states h_1..h_T of a Simple Recurrent Network.

    Args:
        features: f, `[time, batch, features]`.
        input_weight: W, `[features, hidden]`.
        recurrent_weight: U, `[hidden, hidden]`.
        initial_state: h_0, `[batch, hidden]`.
        mask: `[time, batch]` booleans or None; where it is False the state stays as it was.

    Returns:
        `[time, batch, hidden]`.
    """

    def cell(carry: tuple[jax.Array, jax.Array], step: tuple[jax.Array, jax.Array | None]):
        state, states = carry
        t, keep = step
        new = keep_where(keep, jnp.tanh(states[t] + product(state, recurrent_weight)), state)
        return (new, states.at[t].set(new)), None

    carry = initial_state, product(features, input_weight)
    steps = jnp.arange(features.shape[0]), mask
    return jax.lax.scan(cell, carry, steps)[0][1]


def _forward(features, input_weight, recurrent_weight, initial_state, mask=None):
    arguments = features, input_weight, recurrent_weight, initial_state, mask
    states = recurrence(*arguments)
    return states, (states, *arguments)


def _backward(residuals, states_gradient):
    states, features, input_weight, recurrent_weight, initial_state, mask = residuals
    # The barriers keep XLA from folding a transpose into a product, which makes it slower.
    transposed = optimization_barrier(recurrent_weight.T)

    def cell(carry, step):
        state_gradient, gradients = carry
        t, state, keep = step
        total = gradients[t] + state_gradient
        dz = keep_where(keep, total * (1 - state * state), 0)
        passed_on = product(dz, transposed) + keep_where(keep, 0, total)
        return (passed_on, gradients.at[t].set(dz)), None

    carry = jnp.zeros_like(initial_state), states_gradient
    steps = jnp.arange(states.shape[0]), states, mask
    (initial_gradient, dz), _ = jax.lax.scan(cell, carry, steps, reverse=True)

    before = jnp.concatenate([initial_state[None], states[:-1]])
    both = jnp.concatenate([features, before], axis=-1)
    columns = optimization_barrier(both.reshape(-1, both.shape[-1]).T)
    weight_gradient = product(columns, dz.reshape(-1, dz.shape[-1]))
    input_gradient, recurrent_gradient = jnp.split(weight_gradient, [input_weight.shape[0]])
    features_gradient = product(dz, input_weight.T)
    return features_gradient, input_gradient, recurrent_gradient, initial_gradient, None


recurrence.defvjp(_forward, _backward)


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """`left @ right`, in full precision on every platform."""
    return jnp.matmul(left, right, precision=HIGHEST)


def keep_where(mask: jax.Array | None, new: jax.Array | int, old: jax.Array | int):
    """Rows `[batch, hidden]` of `new` where the mask `[batch]` is True or None, else of `old`."""
    return new if mask is None else jnp.where(mask[:, None], new, old)
