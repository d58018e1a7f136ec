"""What the backward pass needs of a position: as much as must be stored, the rest computed again.

`jax.vjp` of a cell's `update` keeps arrays for its pullback. Of the SRN's tanh these are the new
state, which is stored anyway, and 1 minus it; storing both doubles what a kernel moves. So
what the pullback keeps is divided: states are where they are, sums and products of what is known
are computed again, and only the others (a gate, a tanh, a side that enters a product) are stored.
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
CHEAP |= {"broadcast_in_dim", "convert_element_type", "copy", "stop_gradient"}


class Residuals:
    """The update of a class of cells, forward and backward, for states of one shape."""

    def __init__(self, cell: Any, shape: tuple[int, int], dtype: Any = jnp.float32):
        self._dtype, like = dtype, jax.ShapeDtypeStruct(shape, dtype)
        sides, state = (like,) * cell.gates, like if cell.states == 1 else (like,) * cell.states
        self._before = len(jax.tree.leaves((sides, sides)))  # the inputs before the state

        def update(x: Any, h: Any, state: Any) -> Any:
            new, pullback = jax.vjp(partial(apply_update, cell), x, h, state)
            leaves, self._tree = jax.tree.flatten(pullback)
            return new, leaves

        with jax.disable_jit():  # else a sigmoid would be a program of its own, and not looked into
            self._closed = jax.make_jaxpr(update)(sides, sides, state)
        jaxpr = self._closed.jaxpr
        self._made = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
        self._new = jaxpr.outvars[: cell.states]
        self._kept = jaxpr.outvars[cell.states :]
        known = {v for v in (*self._new, *jaxpr.invars[self._before :]) if _is_variable(v)}
        stored: dict[Any, int] = {}  # in order, and where each stands among the results
        for cheap in (False, True):  # first what has to be stored, from which others follow
            for place, v in enumerate(self._kept):
                if self._is_cheap(v) == cheap and not self._follows(v, known | set(stored)):
                    stored[v] = place
        self._stored = tuple(stored)
        self._places = tuple(stored.values())

    @property
    def arrays(self) -> int:
        """How many arrays have to be stored."""
        return len(self._stored)

    def forward(self, x: Sequence[Any], h: Sequence[Any], state: Any) -> tuple[Any, list[Any]]:
        """The new state and what has to be stored."""
        results = jaxpr_as_fun(self._closed)(*jax.tree.leaves((tuple(x), tuple(h), state)))
        new, kept = results[: len(self._new)], results[len(self._new) :]
        return jax.tree.unflatten(jax.tree.structure(state), new), [
            kept[n].astype(self._dtype) for n in self._places
        ]

    def backward(self, stored: Sequence[Any], before: Any, new: Any, gradient: Any) -> Any:
        """The gradients with respect to x, h and the state before, given that of the new state."""
        stored = [one.astype(v.aval.dtype) for one, v in zip(stored, self._stored, strict=True)]
        values = dict(zip(self._stored, stored, strict=True))
        old = self._closed.jaxpr.invars[self._before :]
        values |= dict(zip(old, jax.tree.leaves(before), strict=True))
        after = zip(self._new, jax.tree.leaves(new), strict=True)
        values |= {v: value for v, value in after if _is_variable(v)}

        def value(v: Any) -> Any:
            if not _is_variable(v):
                return v.val
            if v not in values:
                eqn = self._made[v]
                values[v] = eqn.primitive.bind(*map(value, eqn.invars), **eqn.params)
            return values[v]

        pullback = jax.tree.unflatten(self._tree, [value(v) for v in self._kept])
        return pullback(gradient)

    def _is_cheap(self, v: Any) -> bool:
        return (
            v in self._made and self._made[v].primitive.name in CHEAP if _is_variable(v) else True
        )

    def _follows(self, v: Any, known: set[Any]) -> bool:
        """Whether a value is known, or made of known values by cheap operations."""
        if not _is_variable(v) or v in known:
            return True
        return self._is_cheap(v) and all(self._follows(o, known) for o in self._made[v].invars)


def _is_variable(v: Any) -> bool:
    return not isinstance(v, Literal)
