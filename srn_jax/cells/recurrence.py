r"""The loop over time that serves every cell of the family, with one backward pass by hand.

A cell of the family is an elementwise function of gates and state. For t = 1..T, with features f_t
(a bias is a row of W, for a feature that is always 1):

    x_t = f_t W        g_t = h_{t-1} U + c        s_t = update(x_t, g_t, s_{t-1})

h_t is the state s_t, or its first part. Reverse-mode autodiff of the loop accumulates dW and dU
inside it: small products and sums at every step. With ds_t the gradient that reaches s_t, only

    dx_t, dg_t, ds_{t-1} = derivative of update, times ds_t        dh_{t-1} += dg_t U^T

depend on the future, and everything else is one large product after the loop, over all positions
and rows:

    dW = sum_t f_t^T dx_t        dU = sum_t h_{t-1}^T dg_t        dc = sum_t dg_t

This is what cuDNN does. f_t W, too, is one product before the loop; what is left are two loops so
small that XLA compiles each into one kernel on a CPU. They work in place: what a cell keeps for its
derivative takes the room of x_t, and of a plain SRN dx_t that of a gradient. `recurrence` is
the fast version, `reference_recurrence` the plain one; the tests hold them equal.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier

if TYPE_CHECKING:
    from srn_jax.cells.cell import Cell

HIGHEST = jax.lax.Precision.HIGHEST  # float32 means float32, on TPU (bf16) and GPU (TF32) too
State = Any  # an array [batch, hidden], or a tuple of them, of which the first is h


def reference_recurrence(
    cell: "type[Cell]",
    features: jax.Array,
    input_weight: jax.Array,
    recurrent_weight: jax.Array,
    recurrent_bias: jax.Array | None,
    initial: State,
    mask: jax.Array | None = None,
) -> State:
    """The states, by `lax.scan` and autodiff; arguments as `recurrence`."""

    def step(state: State, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[State, State]:
        f, keep = inputs
        x, g = product(f, input_weight), recurrent_side(state, recurrent_weight, recurrent_bias)
        new = keep_where(keep, cell.plain_step(x, g, state), state)
        return new, new

    return jax.lax.scan(step, initial, (features, mask))[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recurrence(
    cell: "type[Cell]",
    features: jax.Array,
    input_weight: jax.Array,
    recurrent_weight: jax.Array,
    recurrent_bias: jax.Array | None,
    initial: State,
    mask: jax.Array | None = None,
) -> State:
    """The states s_1..s_T of a cell of the family.

    Args:
        cell: the class; only its class attributes and elementwise functions are used.
        features: f, `[time, batch, features]`.
        input_weight: W, `[features, gates * hidden]`.
        recurrent_weight: U, `[hidden, gates * hidden]`.
        recurrent_bias: c, `[1, gates * hidden]` or None.
        initial: s_0, `[batch, hidden]` or a tuple of such.
        mask: `[time, batch]` or `[time, 1]` booleans, or None; where False the state stays.

    Returns:
        The states, each `[time, batch, hidden]`.
    """
    return _loop(cell, features, input_weight, recurrent_weight, recurrent_bias, initial, mask)[0]


def _loop(cell, features, input_weight, recurrent_weight, recurrent_bias, initial, mask):
    """All states, and what the cell keeps for its derivative: `[time, batch, gates * hidden]`."""

    def step(carry, inputs):
        state, room = carry
        t, keep = inputs
        g = recurrent_side(state, recurrent_weight, recurrent_bias)
        new, kept = cell.step(room[t], g, state)
        new = keep_where(keep, new, state)
        if cell.keeps_state:
            return (new, room.at[t].set(new)), None
        return (new, room if kept is None else room.at[t].set(kept)), new

    carry = initial, product(features, input_weight)
    (_, room), states = jax.lax.scan(step, carry, (jnp.arange(features.shape[0]), mask))
    return (room if cell.keeps_state else states), room


def _forward(cell, *arguments):
    states, kept = _loop(cell, *arguments)
    return states, (states, kept, *arguments)


def _backward(cell, residuals, gradients):
    states, kept, features, input_weight, recurrent_weight, recurrent_bias, initial, mask = (
        residuals
    )
    before = jax.tree.map(
        lambda first, all: jnp.concatenate([first[None], all[:-1]]), initial, states
    )
    # The barriers keep XLA from folding a transpose into a product, which makes it slower.
    transposed = optimization_barrier(recurrent_weight.T)
    g = None if cell.additive else recurrent_side(before, recurrent_weight, recurrent_bias)

    def step(carry, inputs):
        state_gradient, room = carry
        t, kept, outside, g, before, keep = inputs
        total = jax.tree.map(jnp.add, room[t] if in_place else outside, state_gradient)
        counts = keep_where(keep, total, jax.tree.map(jnp.zeros_like, total))
        dx, dg, dstate = cell.derivative(kept, g, before, counts)
        passed_on = add_to_output(dstate, product(dg, transposed))
        if mask is not None:
            stays = keep_where(keep, jax.tree.map(jnp.zeros_like, total), total)
            passed_on = jax.tree.map(jnp.add, passed_on, stays)
        if in_place:
            return (passed_on, room.at[t].set(dx)), None
        return (passed_on, room), (dx, None if cell.additive else dg)

    in_place = cell.keeps_state  # there dx has the shape of a gradient
    room, outside = (gradients, None) if in_place else (None, gradients)
    carry = jax.tree.map(jnp.zeros_like, initial), room
    steps = jnp.arange(features.shape[0]), kept, outside, g, before, mask
    (initial_gradient, room), pairs = jax.lax.scan(step, carry, steps, reverse=True)
    dx: Any = room if in_place else pairs[0]
    dg: Any = dx if cell.additive else pairs[1]

    hidden = output(before)
    flat = dx.reshape(-1, dx.shape[-1])
    if cell.additive:  # dg is dx: one product serves both
        both = jnp.concatenate([features, hidden], axis=-1)
        columns = optimization_barrier(both.reshape(-1, both.shape[-1]).T)
        dw, du = jnp.split(product(columns, flat), [input_weight.shape[0]])
    else:
        dw = product(features.reshape(-1, features.shape[-1]).T, flat)
        du = product(hidden.reshape(-1, hidden.shape[-1]).T, dg.reshape(flat.shape))
    dc = None if recurrent_bias is None else jnp.sum(dg, axis=(0, 1))[None]
    return product(dx, input_weight.T), dw, du, dc, initial_gradient, None


recurrence.defvjp(_forward, _backward)


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """`left @ right`, in full precision on every platform."""
    return jnp.matmul(left, right, precision=HIGHEST)


def output(state: State) -> jax.Array:
    """h, the part of a state that the rest of the network sees."""
    return state[0] if isinstance(state, tuple) else state


def add_to_output(state: State, more: jax.Array) -> State:
    """A state with something added to its h."""
    return (state[0] + more, *state[1:]) if isinstance(state, tuple) else state + more


def recurrent_side(state: State, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    """H U + c."""
    side = product(output(state), weight)
    return side if bias is None else side + bias.reshape((1,) * (side.ndim - 1) + (-1,))


def keep_where(mask: jax.Array | None, new: State, old: State) -> State:
    """States of `new` where the mask `[batch]` is True or None, else of `old`."""
    if mask is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(mask[:, None], n, o), new, old)
