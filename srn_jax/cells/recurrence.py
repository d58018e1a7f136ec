r"""The loop over time that serves every cell of the family, and its backward pass.

A cell of the family is an elementwise function of gates and state. For t = 1..T, with features f_t
(a bias is a row of W, for a feature that is always 1):

    x_t = f_t W        g_t = h_{t-1} U + c        s_t = update(x_t, g_t, s_{t-1})

h_t is the state s_t, or its first part. Forward, a scan calls `jax.vjp` of `update` and stacks what
comes back: the pullback is a pytree. Backward, a scan calls it. With ds_t the gradient that reaches
s_t, only

    dx_t, dg_t, ds_{t-1} = pullback_t(ds_t)        dh_{t-1} += dg_t U^T

depend on the future. Autodiff of the loop would sum dW and dU inside of it; here they are products
over all positions and rows after it, as cuDNN does it:

    dW = sum_t f_t^T dx_t        dU = sum_t h_{t-1}^T dg_t        dc = sum_t dg_t

`plain_recurrence` is the reference, by autodiff alone.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srn_jax.cells.products import (
    HIGHEST,
    State,
    add_to_output,
    gates_of_array,
    keep_where,
    layer,
    output,
    product,
    recurrent_side,
    rows,
)
from srn_jax.cells.pullback import (
    Derivative,
    Kept,
    Static,
    apply_update,
    derivative_of,
    parts_of,
    rests,
    updater,
)

__all__ = [
    "Derivative",
    "How",
    "State",
    "add_to_output",
    "apply_update",
    "derivative_of",
    "gates_of_array",
    "layer",
    "output",
    "parts_of",
    "plain_recurrence",
    "product",
    "recurrence",
    "recurrent_side",
    "rests",
]


class Platform(NamedTuple):
    """How the loops are written for a platform."""

    # An accelerator starts every operation by itself. If a turn begins with the product, all that
    # follows it, the storing of its result included, is part of the same operation.
    product_first: bool = True
    unroll: int = 1  # positions in a turn: on a GPU a loop's counter and condition are launches too
    moves_by_product: bool = False  # what is moved by one position: on a TPU joining costs more
    skips: bool = False  # padding before the first sequence, where only the last state is wanted


PLATFORMS = {
    "cpu": Platform(product_first=False, skips=True),
    "tpu": Platform(moves_by_product=True),
    "gpu": Platform(unroll=64),
}


class How(NamedTuple):
    """How a recurrence is run; all of it static."""

    last: bool = False  # only the last state is wanted
    blank: bool = False  # where the mask is False x and s_0 are zero, and states are not looked at
    platform: str | None = None  # None is JAX's own
    parts: tuple[Any, ...] = ()  # of the class, which a notebook may replace: see `parts_of`

    @property
    def form(self) -> Platform:
        """What suits the platform; a GPU's by default."""
        return PLATFORMS.get(self.platform or jax.default_backend(), PLATFORMS["gpu"])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recurrence(
    cell: Any,
    how: How,
    features: jax.Array,
    input_weight: jax.Array,
    recurrent_weight: jax.Array,
    recurrent_bias: jax.Array | None,
    initial: State,
    mask: jax.Array | None = None,
) -> State:
    """The states s_1..s_T of a cell of the family.

    Args:
        cell: the class; only its class attributes and its update are used.
        how: it is run.
        features: f, `[time, batch, features]`.
        input_weight: W, `[features, gates * hidden]`.
        recurrent_weight: U, `[hidden, gates * hidden]`.
        recurrent_bias: c, `[1, gates * hidden]` or None.
        initial: s_0, `[batch, hidden]` or a tuple of such.
        mask: `[time, batch]` or `[time, 1]` booleans, or None; where False the state stays.

    Returns:
        The states, each `[time, batch, hidden]`, or the last one alone, each `[batch, hidden]`.
    """
    keep, update = needed(cell, how, mask), updater(cell)
    if how.last and how.form.skips:
        start = 0 if mask is None else jnp.argmax(jnp.any(mask, axis=1))
        keep = None if mask is not None and mask.shape[1] == 1 else keep

        def turn(t: jax.Array, state: State) -> State:
            x = product(features[t], input_weight)
            side = recurrent_side(state, recurrent_weight, recurrent_bias, cell.gates)
            new = update(gates_of_array(x, cell.gates), side, state)
            return keep_where(None if keep is None else keep[t], new, state)

        return jax.lax.fori_loop(start, len(features), turn, initial)
    return _scan(cell, how, features, input_weight, recurrent_weight, recurrent_bias, initial, keep)


def plain_recurrence(
    cell: Any,
    how: How,
    features: jax.Array,
    input_weight: jax.Array,
    recurrent_weight: jax.Array,
    recurrent_bias: jax.Array | None,
    initial: State,
    mask: jax.Array | None = None,
) -> State:
    """What `recurrence` gives, for autodiff in either mode; the same arguments."""
    weights = recurrent_weight, recurrent_bias
    return _scan(cell, how, features, input_weight, *weights, initial, mask)


def _scan(cell, how, features, input_weight, weight, bias, initial, keep):
    update = updater(cell)

    def turn(state, inputs):
        x, keep = inputs
        side = recurrent_side(state, weight, bias, cell.gates)
        new = keep_where(keep, update(gates_of_array(x, cell.gates), side, state), state)
        return new, None if how.last else new

    inputs = product(features, input_weight), keep
    unroll = min(how.form.unroll, len(features))
    last, states = jax.lax.scan(turn, initial, inputs, unroll=unroll)
    return last if how.last else states


def _forward(cell, how, features, input_weight, weight, bias, initial, mask):
    keep, derivative = needed(cell, how, mask), derivative_of(cell)
    told = []  # at trace time, of the pullbacks

    def turn(state, inputs):
        x, keep = inputs
        side = recurrent_side(state, weight, bias, cell.gates)
        new, pullback = derivative(gates_of_array(x, cell.gates), side, state)
        new = keep_where(keep, new, state)
        kept, stacked, constants = Kept.of(pullback, new, state)
        told.append((Static(kept), constants))
        return new, (new, stacked)

    inputs = product(features, input_weight), keep
    unroll = min(how.form.unroll, len(features))
    last, (states, stacked) = jax.lax.scan(turn, initial, inputs, unroll=unroll)
    residuals = features, input_weight, weight, bias, initial, keep, states, stacked
    return last if how.last else states, (told[-1], *residuals)


def _backward(cell, how, residuals, gradients):
    told, features, input_weight, weight, bias, initial, keep, states, stacked = residuals
    (kept, constants) = told
    form, transposed = how.form, weight.T
    before = jax.tree.map(lambda s_0, s: jnp.concatenate([s_0[None], s[:-1]]), initial, states)
    nothing = jax.tree.map(jnp.zeros_like, initial)
    outside, last = (None, gradients) if how.last else (gradients, nothing)
    same = []  # at trace time, whether dx is dg

    def through(total, dg):
        return add_to_output(total, product(dg, transposed))

    def turn(carry, inputs):
        total, dg = carry
        outside, keep, states, before, stacked = inputs
        if form.product_first:
            total = through(total, dg)
        if outside is not None:
            total = jax.tree.map(jnp.add, outside, total)
        pullback = kept.value.pullback(states, before, stacked, constants)
        dx, dg, passed_on = pullback(keep_where(keep, total, nothing))
        same.append(all(one is other for one, other in zip(dx, dg, strict=True)))
        dg = jnp.concatenate(dg, axis=-1)
        sides = None if same[-1] else jnp.concatenate(dx, axis=-1)
        if keep is not None:
            passed_on = jax.tree.map(jnp.add, passed_on, keep_where(keep, nothing, total))
        if form.product_first:
            return (passed_on, dg), (sides, dg)
        return (through(passed_on, dg), None), (sides, dg)

    first = jnp.zeros_like(features[0], shape=(len(output(initial)), weight.shape[1]))
    inputs = outside, keep, states, before, stacked
    (total, dg_1), (dx, dg) = jax.lax.scan(
        turn,
        (last, first if form.product_first else None),
        inputs,
        reverse=True,
        unroll=min(form.unroll, len(features)),
    )
    total = through(total, dg_1) if form.product_first else total
    dx = dg if same[-1] else dx
    if form.product_first:  # moved is what is smaller
        if form.moves_by_product:
            move = jnp.eye(len(dg), k=1, dtype=dg.dtype)
            after = jnp.einsum("st,tbd->sbd", move, dg, precision=HIGHEST)
        else:
            after = jnp.concatenate([dg[1:], jnp.zeros_like(dg[:1])])
        du = product(rows(output(states)).T, rows(after)) + product(output(initial).T, dg[0])
    else:
        du = product(rows(output(before)).T, rows(dg))
    dw = product(rows(features).T, rows(dx))
    dc = None if bias is None else jnp.sum(dg, axis=(0, 1))[None]
    return product(dx, input_weight.T), dw, du, dc, total, None


recurrence.defvjp(_forward, _backward)


def needed(cell: Any, how: How, mask: jax.Array | None) -> jax.Array | None:
    """The mask, unless the states would stay without it."""
    return None if how.blank and rests(cell) else mask
