"""What a cell says of one position: its new state, and the pullback of its derivative."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from srn_jax.cells.products import Gates, State


class Derivative(NamedTuple):
    """A cell's own `jax.vjp` of its update, where that is faster.

    `function(x, h, state)` gives the new state and a pullback: a `jax.tree_util.Partial` that turns
    the gradient of the new state into those of x, h and state. It is used as long as the class's
    `update` is `of`, so nobody inherits it who computes something else.
    """

    of: Callable[..., Any]
    function: Callable[..., Any]


@dataclass(frozen=True)
class Kept:
    """Where the leaves of a pullback are found: what is there anyway is not stacked again."""

    tree: Any
    places: tuple[tuple[str, int], ...]  # of each leaf: among which arrays it is, and its index

    @classmethod
    def of(cls, pullback: Any, new: State, old: State) -> tuple["Kept", list[Any], list[Any]]:
        """What is known of a pullback while it is traced, leaves to be stacked, and constants."""
        leaves, tree = jax.tree.flatten(pullback)
        known = {id(leaf): ("old", n) for n, leaf in enumerate(jax.tree.leaves(old))}
        known |= {id(leaf): ("new", n) for n, leaf in enumerate(jax.tree.leaves(new))}
        others: dict[str, list[Any]] = {"stacked": [], "constant": []}
        for leaf in leaves:
            if id(leaf) not in known:
                kind = "stacked" if isinstance(leaf, jax.core.Tracer) else "constant"
                known[id(leaf)] = kind, len(others[kind])
                others[kind].append(leaf)
        places = tuple(known[id(leaf)] for leaf in leaves)
        return cls(tree, places), others["stacked"], others["constant"]

    def pullback(self, new: State, old: State, stacked: list[Any], constants: list[Any]) -> Any:
        """The pullback of a position."""
        sources = {"new": jax.tree.leaves(new), "old": jax.tree.leaves(old)}
        sources |= {"stacked": stacked, "constant": constants}
        return jax.tree.unflatten(self.tree, [sources[name][n] for name, n in self.places])


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """What is no array among residuals."""

    value: Any


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
    inherited = [
        one for one in kind.__mro__ if not one.__module__.startswith(("flax.", "builtins"))
    ]
    said = [value for one in inherited for value in vars(one).values()]
    return tuple(value if callable(value) else repr(value) for value in said)


def rests(cell: Any) -> bool:
    """Whether without input a state of zero stays zero, so padding needs no mask."""
    if cell.recurrent_bias:
        return False
    with jax.ensure_compile_time_eval():
        zero = jnp.zeros((1, 1))
        gates, state = (zero,) * cell.gates, zero if cell.states == 1 else (zero,) * cell.states
        new, pullback = derivative_of(cell)(gates, gates, state)
        slopes = pullback(jax.tree.map(jnp.ones_like, new))
        finite = all(bool(jnp.all(jnp.isfinite(slope))) for slope in jax.tree.leaves(slopes))
        return finite and not any(bool(jnp.any(part != 0)) for part in jax.tree.leaves(new))
