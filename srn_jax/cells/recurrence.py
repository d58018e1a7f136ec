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

This is what cuDNN does. f_t W, too, is one product before the loop; what is left are two small
loops, which `loops` and `kernels` write in the forms that suit the platforms. `recurrence` is the
fast version, `reference_recurrence` the plain one; the tests hold them equal.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from srn_jax.cells import kernels, loops
from srn_jax.cells.loops import State, keep_where, output, product, recurrent_side

if TYPE_CHECKING:
    from srn_jax.cells.cell import Cell

GPU_UNROLL = 64  # positions in a turn: a loop's counter and condition are launches too


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


class Plan(NamedTuple):
    """How a recurrence is run."""

    last: bool = False  # only the last state is wanted
    kernel: bool = False  # on a GPU each loop is one kernel


@partial(jax.custom_vjp, nondiff_argnums=(0, 7))
def recurrence(
    cell: "type[Cell]",
    features: jax.Array,
    input_weight: jax.Array,
    recurrent_weight: jax.Array,
    recurrent_bias: jax.Array | None,
    initial: State,
    mask: jax.Array | None = None,
    plan: Plan = Plan(),
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
        plan: how it is run.

    Returns:
        The states, each `[time, batch, hidden]`, or the last one alone, each `[batch, hidden]`.
    """
    weights = input_weight, recurrent_weight, recurrent_bias
    return _forward(cell, features, *weights, initial, mask, plan)[0]


def _forward(cell, features, input_weight, recurrent_weight, recurrent_bias, initial, mask, plan):
    weights = input_weight, recurrent_weight, recurrent_bias
    x = product(features, input_weight)
    states, kept = _loop("forward", plan, cell, x, *weights[1:], initial, mask)
    result = jax.tree.map(lambda part: part[-1], states) if plan.last else states
    return result, (states, kept, features, *weights, initial, mask)


def _backward(cell, plan, residuals, gradients):
    states, kept, features, input_weight, recurrent_weight, recurrent_bias, initial, mask = (
        residuals
    )
    before = jax.tree.map(
        lambda first, all: jnp.concatenate([first[None], all[:-1]]), initial, states
    )
    nothing = jax.tree.map(jnp.zeros_like, initial)
    outside, last = (None, gradients) if plan.last else (gradients, nothing)
    arguments = kept, recurrent_weight, recurrent_bias, before, mask, outside, last
    dx, dg, initial_gradient = _loop("backward", plan, cell, *arguments)

    sides = features, output(initial), output(states), dx, dg
    dw, du = _by_platform("weight_gradients", cell, *sides)
    dc = None if recurrent_bias is None else jnp.sum(dg, axis=(0, 1))[None]
    return product(dx, input_weight.T), dw, du, dc, initial_gradient, None


recurrence.defvjp(_forward, _backward)


def _loop(direction: str, plan: Plan, cell: "type[Cell]", *arguments: Any) -> Any:
    """The loop forward or backward."""
    if plan.kernel:
        return getattr(kernels, direction)(cell, *arguments)
    return _by_platform(direction, cell, *arguments, unroll=GPU_UNROLL)


def _by_platform(name: str, cell: "type[Cell]", *arguments: Any, **on_gpu: int) -> Any:
    """A function of `loops`, in the form that suits the platform."""
    one = partial(getattr(loops, name), cell)
    return jax.lax.platform_dependent(
        *arguments,
        cpu=partial(getattr(loops, name + "_in_place"), cell),
        cuda=partial(one, **on_gpu),
        default=one,
    )
