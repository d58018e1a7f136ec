r"""The loop over time that serves every cell of the family, and its backward pass.

For t = 1..T, with features f_t (a bias is a row of W, for a feature that is always 1):

    x_t = f_t W        g_t = h_{t-1} U + c        s_t = update(x_t, g_t, s_{t-1})

h_t is s_t or its first part. Forward, a scan stacks the pullback of `update`, a pytree; backward, a
scan calls it. Of a gradient ds_t only ds_{t-1} and dg_t U^T depend on the future; dW = sum f_t^T
dx_t, dU = sum h_{t-1}^T dg_t and dc = sum dg_t are products after the loop, as cuDNN does it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srn_jax.cells.products import (
    HIGHEST,
    Gates,
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

__all__ = ["add_to_output", "gates_of_array", "layer", "output", "product", "recurrent_side"]


class Derivative(NamedTuple):
    """A cell's own `jax.vjp` of its update, where that is faster.

    `function(x, h, state)` gives the new state and a pullback: a `jax.tree_util.Partial` that turns
    the gradient of the new state into those of x, h and state. It is used as long as the class's
    `update` is `of`, so nobody inherits it who computes something else.
    """

    of: Callable[..., Any]
    function: Callable[..., Any]


def derivative_of(cell: Any) -> Callable[..., tuple[State, Any]]:
    """`(x, h, state)` -> the new state and its pullback: the cell's own, or that of autodiff."""
    own = getattr(cell, "derivative", None)
    if isinstance(own, Derivative) and own.of is cell.update:
        return own.function
    return partial(jax.vjp, updater(cell))


def updater(cell: Any) -> Callable[[Gates, Gates, State], State]:
    """The update of a class, with an instance for `super().update`."""
    return object.__new__(cell).update


def apply_update(cell: Any, x: Gates, h: Gates, state: State) -> State:
    """The new state by a class's update; x and h are tuples of `gates` arrays `[..., D]`."""
    return updater(cell)(x, h, state)


def parts_of(kind: Any) -> tuple[Any, ...]:
    """All that a class and its parents of the user's say: what is traced depends on it."""
    own = [one for one in kind.__mro__ if not one.__module__.startswith(("flax.", "builtins"))]
    said = [value for one in own for value in vars(one).values()]
    return tuple(value if callable(value) else repr(value) for value in said)


def rests(cell: Any) -> bool:
    """Whether without input a state of zero stays zero, so padding needs no mask."""
    if cell.recurrent_bias:
        return False
    with jax.ensure_compile_time_eval():
        zero = jnp.zeros((1, 1))
        gates, state = (zero,) * cell.gates, zero if cell.states == 1 else (zero,) * cell.states
        new, pullback = derivative_of(cell)(gates, gates, state)
        slopes = jax.tree.leaves(pullback(jax.tree.map(jnp.ones_like, new)))
        still = all(bool(jnp.all(part == 0)) for part in jax.tree.leaves(new))
        return still and all(bool(jnp.all(jnp.isfinite(slope))) for slope in slopes)


class How(NamedTuple):
    """How a recurrence is run; all of it static."""

    last: bool = False  # only the last state is wanted
    blank: bool = False  # where the mask is False x and s_0 are zero, and states are not looked at
    platform: str | None = None  # None is JAX's own
    parts: tuple[Any, ...] = ()  # of the class, which a notebook may replace: see `parts_of`

    def on(self, *platforms: str) -> bool:
        """Whether the loops are written for one of these."""
        return (self.platform or jax.default_backend()) in platforms

    def unroll(self, positions: int) -> int:
        """Positions in a turn: on a GPU a loop's counter and condition are launches too."""
        return 1 if self.on("cpu", "tpu") else min(64, positions)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recurrence(
    cell: Any,  # the class; only its class attributes and its update are used
    how: How,
    features: jax.Array,  # f, [time, batch, features]
    input_weight: jax.Array,  # W, [features, gates * hidden]
    weight: jax.Array,  # U, [hidden, gates * hidden]
    bias: jax.Array | None,  # c, [1, gates * hidden]
    initial: State,  # s_0, [batch, hidden], or a tuple of such
    mask: jax.Array | None = None,  # [time, batch] or [time, 1]; where False the state stays
) -> State:
    """The states s_1..s_T, each `[time, batch, hidden]`, or the last alone, `[batch, hidden]`."""
    keep, update = needed(cell, how, mask), updater(cell)
    if not (how.last and how.on("cpu")):  # which skips padding before the first sequence
        return plain_recurrence(cell, how, features, input_weight, weight, bias, initial, keep)
    start = 0 if mask is None else jnp.argmax(jnp.any(mask, axis=1))
    keep = None if mask is not None and mask.shape[1] == 1 else keep

    def turn(t: jax.Array, state: State) -> State:
        x = product(features[t], input_weight)
        side = recurrent_side(state, weight, bias, cell.gates)
        new = update(gates_of_array(x, cell.gates), side, state)
        return keep_where(None if keep is None else keep[t], new, state)

    return jax.lax.fori_loop(start, len(features), turn, initial)


def needed(cell: Any, how: How, mask: jax.Array | None) -> jax.Array | None:
    """The mask, unless the states would stay without it."""
    return None if how.blank and rests(cell) else mask


@jax.tree_util.register_static
@dataclass(frozen=True)
class Kept:
    """Where the leaves of a pullback are found: what is there anyway is not stacked again."""

    tree: Any
    places: tuple[tuple[int, int], ...]  # of each leaf: in which of `sources`, and its index there

    @classmethod
    def of(cls, pullback: Any, *states: State) -> tuple["Kept", list[Any], list[Any]]:
        """Also the leaves to be stacked, and constants, which are no part of the loop."""
        leaves, tree = jax.tree.flatten(pullback)
        sources = [*map(jax.tree.leaves, states), [], []]
        known = {id(leaf): (s, n) for s, own in enumerate(sources) for n, leaf in enumerate(own)}
        for leaf in leaves:
            if id(leaf) not in known:
                kind = len(states) + (not isinstance(leaf, jax.core.Tracer))
                known[id(leaf)] = kind, len(sources[kind])
                sources[kind].append(leaf)
        return cls(tree, tuple(known[id(leaf)] for leaf in leaves)), sources[-2], sources[-1]

    def pullback(self, *sources: Any) -> Any:
        """The pullback of a position, of the same states, what was stacked, and constants."""
        found = [jax.tree.leaves(source) for source in sources]
        return jax.tree.unflatten(self.tree, [found[s][n] for s, n in self.places])


def plain_recurrence(
    cell, how, features, input_weight, weight, bias, initial, mask=None, stack=False
):
    """What `recurrence` gives, by autodiff alone and so in either mode; the same arguments.

    With `stack` also the residuals of `_backward`: the pullbacks are stacked beside the states.
    """
    update, derivative = updater(cell), derivative_of(cell)
    mask = needed(cell, how, mask) if stack else mask
    told: list[Any] = []  # at trace time, of the pullbacks

    def turn(state, inputs):
        x, keep = inputs
        sides = gates_of_array(x, cell.gates), recurrent_side(state, weight, bias, cell.gates)
        if not stack:
            new = keep_where(keep, update(*sides, state), state)
            return new, (None if how.last else new, None)
        new, pullback = derivative(*sides, state)
        new = keep_where(keep, new, state)
        kept, stacked, constants = Kept.of(pullback, state, new)
        told.append((kept, constants))
        return new, (new, stacked)

    inputs, unroll = (product(features, input_weight), mask), how.unroll(len(features))
    last, (states, stacked) = jax.lax.scan(turn, initial, inputs, unroll=unroll)
    found = last if how.last else states
    if not stack:
        return found
    return found, (told[-1], features, input_weight, weight, bias, initial, mask, states, stacked)


def _backward(cell, how, residuals, gradients):
    (kept, constants), features, input_weight, weight, bias, initial, keep, *stacked = residuals
    transposed, states = weight.T, stacked[0]
    # An accelerator starts every operation by itself. If a turn begins with the product, all that
    # follows it, the storing of its result included, is part of the same operation.
    product_first = not how.on("cpu")
    before = jax.tree.map(lambda s_0, s: jnp.concatenate([s_0[None], s[:-1]]), initial, states)
    nothing = jax.tree.map(jnp.zeros_like, initial)
    outside, last = (None, gradients) if how.last else (gradients, nothing)
    same = []  # at trace time, whether dx is dg

    def through(total, dg):
        return add_to_output(total, product(dg, transposed))

    def turn(carry, inputs):
        total, dg = carry
        outside, keep, *sources = inputs
        if product_first:
            total = through(total, dg)
        if outside is not None:
            total = jax.tree.map(jnp.add, outside, total)
        pullback = kept.pullback(*sources, constants)
        dx, dg, passed_on = pullback(keep_where(keep, total, nothing))
        same.append(all(one is other for one, other in zip(dx, dg, strict=True)))
        dg = jnp.concatenate(dg, axis=-1)
        sides = None if same[-1] else jnp.concatenate(dx, axis=-1)
        if keep is not None:
            passed_on = jax.tree.map(jnp.add, passed_on, keep_where(keep, nothing, total))
        if product_first:
            return (passed_on, dg), (sides, dg)
        return (through(passed_on, dg), None), (sides, dg)

    first = jnp.zeros_like(features[0], shape=(len(output(initial)), weight.shape[1]))
    start = last, first if product_first else None
    inputs = outside, keep, before, *stacked
    unroll = how.unroll(len(features))
    (total, dg_1), (dx, dg) = jax.lax.scan(turn, start, inputs, reverse=True, unroll=unroll)
    dx = dg if same[-1] else dx
    if product_first:  # moved is what is smaller
        total = through(total, dg_1)
        if how.on("tpu"):  # where joining costs more
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


recurrence.defvjp(partial(plain_recurrence, stack=True), _backward)
