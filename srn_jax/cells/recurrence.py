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

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srn_jax.cells.loops import (
    CellClass,
    Form,
    Loop,
    State,
    form_for,
    keep_where,
    output,
    product,
    recurrent_side,
)


def reference_recurrence(
    cell: CellClass,
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
    form: Form | None = None  # of the loops; None takes the one that suits the platform
    blank: bool = False  # where the mask is False x and s_0 are zero, and states are not looked at


ALL_STATES = Plan()


@partial(jax.custom_vjp, nondiff_argnums=(0, 7))
def recurrence(
    cell: CellClass,
    features: jax.Array,
    input_weight: jax.Array,
    recurrent_weight: jax.Array,
    recurrent_bias: jax.Array | None,
    initial: State,
    mask: jax.Array | None = None,
    plan: Plan = ALL_STATES,
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
    arguments = features, input_weight, recurrent_weight, recurrent_bias, initial, mask
    if plan.last:
        return _by_platform(plan, partial(_last, cell), *arguments)
    return _by_platform(plan, partial(_run, cell), *arguments)[0]


def _forward(cell, features, input_weight, recurrent_weight, recurrent_bias, initial, mask, plan):
    arguments = features, input_weight, recurrent_weight, recurrent_bias, initial, mask
    states, kept = _by_platform(plan, partial(_run, cell), *arguments)
    result = jax.tree.map(lambda part: part[-1], states) if plan.last else states
    return result, (states, kept, *arguments)


def _last(cell, plan, form, features, input_weight, weight, bias, initial, mask):
    loop = form.loop(Loop(cell, weight, bias, mask), plan.blank)
    return form.last(loop, features, input_weight, initial)


def _run(cell, plan, form, features, input_weight, weight, bias, initial, mask):
    loop = form.loop(Loop(cell, weight, bias, mask), plan.blank)
    return form.forward(loop, form.input_side(features, input_weight), initial)


def _backward(cell, plan, residuals, gradients):
    return *_by_platform(plan, partial(_gradients, cell), gradients, *residuals), None


def _gradients(cell, plan, form, gradients, states, kept, features, *arguments):
    input_weight, recurrent_weight, recurrent_bias, initial, mask = arguments
    before = jax.tree.map(
        lambda first, all: jnp.concatenate([first[None], all[:-1]]), initial, states
    )
    nothing = jax.tree.map(jnp.zeros_like, initial)
    from_outside = (None, gradients) if plan.last else (gradients, nothing)
    loop = form.loop(Loop(cell, recurrent_weight, recurrent_bias, mask), plan.blank)
    dx, dg, initial_gradient = form.backward(loop, kept, before, *from_outside)
    dw, du = form.weight_gradients(cell, features, output(initial), output(states), dx, dg)
    dc = None if recurrent_bias is None else jnp.sum(dg, axis=(0, 1))[None]
    return product(dx, input_weight.T), dw, du, dc, initial_gradient


recurrence.defvjp(_forward, _backward)


def _by_platform(plan: Plan, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(plan, form, *arguments)` with the form of the loops that suits the platform."""
    forms = {platform: form_for(platform) for platform in ("cpu", "tpu", "default")}
    if plan.form is not None:
        forms = plan.form.by_platform()
    if len(forms) == 1:  # where the platform is known: tracing takes half of the time
        return function(plan, forms["default"], *arguments)
    branches = {platform: partial(function, plan, form) for platform, form in forms.items()}
    return jax.lax.platform_dependent(*arguments, **branches)
