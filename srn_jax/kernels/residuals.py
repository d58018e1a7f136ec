"""What the backward pass needs of a position: as much as must be stored, the rest computed again.

`jax.vjp` of a cell's `update` keeps arrays for its pullback. Of the SRN's tanh these are the new
state, which is stored anyway, and 1 minus it. So states are where they are, sums and products of
what is known are computed again, and only the others (a gate, a tanh) are stored.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal, jaxpr_as_fun

from srn_jax.cells.recurrence import apply_update

# Operations that cost less than storing their result and loading it.
CHEAP = {"add", "sub", "mul", "neg", "max", "min", "abs", "sign", "square", "integer_pow"}
CHEAP |= {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "select_n"}
CHEAP |= {"broadcast_in_dim", "convert_element_type", "copy", "stop_gradient", "one_minus_square"}


class Residuals:
    """The update of a class of cells, forward and backward, for states of one shape."""

    def __init__(self, cell: Any, shape: tuple[int, int]):
        like = jax.ShapeDtypeStruct(shape, jnp.float32)
        sides, state = (like,) * cell.gates, like if cell.states == 1 else (like,) * cell.states

        def update(x: Any, h: Any, state: Any) -> Any:
            new, pullback = jax.vjp(partial(apply_update, cell), x, h, state)
            leaves, self._tree = jax.tree.flatten(pullback)
            return new, leaves

        with jax.disable_jit():  # else a sigmoid would be a program of its own, and not looked into
            self._closed = jax.make_jaxpr(update)(sides, sides, state)
        jaxpr = self._closed.jaxpr
        self._made = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
        self._new, self._kept = jaxpr.outvars[: cell.states], jaxpr.outvars[cell.states :]
        self._before = jaxpr.invars[2 * cell.gates :]
        known = {v for v in (*self._new, *self._before) if not isinstance(v, Literal)}
        self._stored: dict[Any, int] = {}  # in order, and where each stands among what is kept
        for cheap in (False, True):  # first what has to be stored, from which others follow
            for place, v in enumerate(self._kept):
                due = not self._follows(v, known | set(self._stored))
                if due and self._is_cheap(v) == cheap:
                    self._stored[v] = place
        self.arrays = len(self._stored)  # so many have to be stored

    def forward(self, x: Sequence[Any], h: Sequence[Any], state: Any) -> tuple[Any, list[Any]]:
        """The new state and what has to be stored."""
        results = jaxpr_as_fun(self._closed)(*jax.tree.leaves((tuple(x), tuple(h), state)))
        new, kept = results[: len(self._new)], results[len(self._new) :]
        stored = [kept[place].astype(jnp.float32) for place in self._stored.values()]
        return jax.tree.unflatten(jax.tree.structure(state), new), stored

    def backward(self, stored: Sequence[Any], before: Any, new: Any, gradient: Any) -> Any:
        """The gradients with respect to x, h and the state before, given that of the new state."""
        known = (*self._stored, *self._before, *self._new)
        given = (*stored, *jax.tree.leaves(before), *jax.tree.leaves(new))
        pairs = [p for p in zip(known, given, strict=True) if not isinstance(p[0], Literal)]
        values = {v: one.astype(v.aval.dtype) for v, one in pairs}

        def value(v: Any) -> Any:
            if isinstance(v, Literal):
                return v.val
            if v not in values:
                eqn = self._made[v]
                values[v] = eqn.primitive.bind(*map(value, eqn.invars), **eqn.params)
            return values[v]

        return jax.tree.unflatten(self._tree, [value(v) for v in self._kept])(gradient)

    def _is_cheap(self, v: Any) -> bool:
        return v in self._made and self._made[v].primitive.name in CHEAP

    def _follows(self, v: Any, known: set[Any]) -> bool:
        if isinstance(v, Literal) or v in known:
            return True
        return self._is_cheap(v) and all(self._follows(o, known) for o in self._made[v].invars)
