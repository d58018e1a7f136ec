"""The two loops over time, forward and backward, in the forms that suit a CPU and an accelerator.

On a CPU they work in place: what a cell keeps for its derivative takes the room of x_t, and the
gradient dx_t of a plain SRN that of the gradient from outside. So XLA compiles each into one
kernel. They leave out the positions before the first sequence begins. An accelerator starts every
operation by itself, and what counts is that there are few: each turn, forward and backward, begins
with the product, and all that follows it, the storing of its result included, is part of the same
operation. On a GPU the loop is unrolled, since its counter and its condition are launches too.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier

HIGHEST = jax.lax.Precision.HIGHEST  # float32 means float32, on TPU (bf16) and GPU (TF32) too
GPU_UNROLL = 64  # positions in a turn: a loop's counter and condition are launches too
CellClass = Any  # a class of the family; naming it here would close a circle of imports
State = Any  # an array [batch, hidden], or a tuple of them, of which the first is h


class Loop(NamedTuple):
    """What both loops over time are given alike."""

    cell: CellClass
    weight: jax.Array  # U, [hidden, gates * hidden]
    bias: jax.Array | None  # c, [1, gates * hidden]
    mask: jax.Array | None  # [time, batch] or [time, 1] booleans; where False the state stays
    start: jax.Array | int = 0  # the first position that is run, by a form that can leave some out

    def step(self, x: jax.Array, state: State, keep: jax.Array | None) -> tuple[State, Any]:
        """The state after a position, and what the cell keeps for its derivative."""
        new, kept = self.cell.step(x, recurrent_side(state, self.weight, self.bias), state)
        return keep_where(keep, new, state), kept


class Form:
    """The loops in one form; see `InPlace` for what they take and return."""

    def by_platform(self) -> dict[str, "Form"]:
        """The form that is run on each platform where this one is asked for."""
        return {"default": self}

    def loop(self, loop: Loop, blank: bool) -> Loop:
        """What this form makes of a loop; `blank` as in `recurrence.Plan`."""
        return loop._replace(mask=None) if blank and loop.cell.rests else loop

    def input_side(self, features: jax.Array, weight: jax.Array) -> jax.Array:
        """What `forward` takes as x."""
        return product(features, weight)


@dataclass(frozen=True)
class InPlace(Form):
    """The loops on a CPU."""

    def loop(self, loop: Loop, blank: bool) -> Loop:
        """It begins where the first sequence does, and needs no mask if that is where all do."""
        if not blank or loop.mask is None:
            return loop
        needless = loop.cell.rests or loop.mask.shape[1] == 1
        return loop._replace(mask=None if needless else loop.mask, start=first(loop.mask))

    def forward(self, loop: Loop, x: jax.Array, initial: State) -> tuple[State, jax.Array]:
        """All states, and what the cell keeps for its derivative.

        Args:
            loop: cell, weights and mask.
            x: the input side, `[time, batch, gates * hidden]`.
            initial: s_0, each `[batch, hidden]`.

        Returns:
            States, each `[time, batch, hidden]`, and `[time, batch, gates * hidden]`, which for a
            cell that keeps its state is that.
        """

        def step(t, carry):
            state, states, room = carry
            new, kept = loop.step(at(room, t), state, at(loop.mask, t))
            if loop.cell.keeps_state:
                return new, states, put(room, new, t)
            states = jax.tree.map(partial(put, t=t), states, new)
            return new, states, room if kept is None else put(room, kept, t)

        keeps_state = loop.cell.keeps_state
        states = None if keeps_state else jax.tree.map(partial(zeros_for, x), initial)
        carry = initial, states, x
        _, states, room = jax.lax.fori_loop(loop.start, len(x), step, carry)
        return (room if keeps_state else states), room

    def last(
        self, loop: Loop, features: jax.Array, input_weight: jax.Array, initial: State
    ) -> State:
        """The last state alone, each `[batch, hidden]`; it takes features and W instead of x.

        It begins where the first sequence does, so padding costs nothing.
        """

        def step(t, state):
            x = product(at(features, t), input_weight)
            return loop.step(x, state, at(loop.mask, t))[0]

        start = loop.start if loop.mask is None else first(loop.mask)
        return jax.lax.fori_loop(start, len(features), step, initial)

    def backward(
        self, loop: Loop, kept: jax.Array, before: State, outside: State | None, last: State
    ) -> tuple[jax.Array, jax.Array, State]:
        """The gradients with respect to the input side, the recurrent side and s_0.

        Args:
            loop: as it was forward.
            kept: what the cell kept, `[time, batch, gates * hidden]`.
            before: s_0..s_{T-1}, each `[time, batch, hidden]`.
            outside: gradients with respect to s_1..s_T, each `[time, batch, hidden]`, or None.
            last: another with respect to s_T, each `[batch, hidden]`.

        Returns:
            dx and dg `[time, batch, gates * hidden]`, the same for an additive cell, and ds_0.
        """
        cell, weight, bias, mask, start = loop
        # The barrier keeps XLA from folding a transpose into a product, which makes it slower.
        transposed = optimization_barrier(weight.T)
        g = None if cell.additive else recurrent_side(before, weight, bias)
        in_place = cell.keeps_state  # there dx has the shape of a gradient

        def step(turn, carry):
            total, dx_room, dg_room = carry
            t = len(kept) - 1 - turn
            own = at(dx_room, t) if in_place else at(outside, t)
            if own is not None:
                total = jax.tree.map(jnp.add, own, total)
            nothing, keep = jax.tree.map(jnp.zeros_like, total), at(mask, t)
            counts = keep_where(keep, total, nothing)
            dx, dg, passed_on = cell.derivative(at(kept, t), at(g, t), at(before, t), counts)
            passed_on = add_to_output(passed_on, product(dg, transposed))
            if keep is not None:
                passed_on = jax.tree.map(jnp.add, passed_on, keep_where(keep, nothing, total))
            dg_room = None if cell.additive else put(dg_room, dg, t)
            return passed_on, put(dx_room, dx, t), dg_room

        room = outside if in_place and outside is not None else jnp.zeros_like(kept)
        carry = last, room, None if cell.additive else jnp.zeros_like(kept)
        initial, dx, dg = jax.lax.fori_loop(0, len(kept) - start, step, carry)
        return dx, dx if cell.additive else dg, initial

    def weight_gradients(
        self,
        cell: CellClass,
        features: jax.Array,
        initial: jax.Array,
        states: jax.Array,
        dx: jax.Array,
        dg: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """The gradients with respect to W and U: sums over all positions, so one product each.

        Args:
            cell: the class.
            features: f, `[time, batch, features]`.
            initial: h_0, `[batch, hidden]`.
            states: h_1..h_T, `[time, batch, hidden]`.
            dx: gradient with respect to the input side, `[time, batch, gates * hidden]`.
            dg: with respect to the recurrent side; the same for an additive cell.
        """
        before = jnp.concatenate([initial[None], states[:-1]])
        if not cell.additive:
            return product(rows(features).T, rows(dx)), product(rows(before).T, rows(dg))
        both = rows(jnp.concatenate([features, before], axis=-1))  # one product serves both
        dw, du = jnp.split(product(optimization_barrier(both.T), rows(dx)), [features.shape[-1]])
        return dw, du


@dataclass(frozen=True)
class Stacked(Form):
    """The loops on an accelerator."""

    unroll: int = 1  # positions in a turn
    moves_by_product: bool = False  # what is moved by one position is: on a TPU joining costs more

    def forward(self, loop: Loop, x: jax.Array, initial: State) -> tuple[State, jax.Array]:
        """See `InPlace.forward`."""

        def step(state, inputs):
            x, keep = inputs
            new, kept = loop.step(x, state, keep)
            return new, (new, kept)

        turn = min(self.unroll, len(x))
        _, (states, kept) = jax.lax.scan(step, initial, (x, loop.mask), unroll=turn)
        if loop.cell.keeps_state:
            return states, states
        return states, x if kept is None else kept

    def last(
        self, loop: Loop, features: jax.Array, input_weight: jax.Array, initial: State
    ) -> State:
        """See `InPlace.last`; without room for the other states."""
        x = self.input_side(features, input_weight)

        def step(state, inputs):
            x, keep = inputs
            return loop.step(x, state, keep)[0], None

        return jax.lax.scan(step, initial, (x, loop.mask), unroll=min(self.unroll, len(x)))[0]

    def backward(
        self, loop: Loop, kept: jax.Array, before: State, outside: State | None, last: State
    ) -> tuple[jax.Array, jax.Array, State]:
        """See `InPlace.backward`.

        So that a turn begins with the product, as it does forward, what is carried is the gradient
        of the recurrent side, before that product.
        """
        cell, weight, bias, mask, _ = loop
        g = None if cell.additive else recurrent_side(before, weight, bias)
        transposed = weight.T

        def step(carry, inputs):
            dg, total = carry
            kept, outside, g, before, keep = inputs
            total = add_to_output(total, product(dg, transposed))
            if outside is not None:
                total = jax.tree.map(jnp.add, outside, total)
            nothing = jax.tree.map(jnp.zeros_like, total)
            counts = keep_where(keep, total, nothing)
            dx, dg, passed_on = cell.derivative(kept, g, before, counts)
            if keep is not None:
                stays = keep_where(keep, nothing, total)
                passed_on = jax.tree.map(jnp.add, passed_on, stays)
            return (dg, passed_on), (dx, None if cell.additive else dg)

        carry = jnp.zeros_like(kept[0]), last
        steps = kept, outside, g, before, mask
        (first, total), (dx, dg) = jax.lax.scan(
            step, carry, steps, reverse=True, unroll=min(self.unroll, len(kept))
        )
        return dx, dx if cell.additive else dg, add_to_output(total, product(first, transposed))

    def weight_gradients(
        self,
        cell: CellClass,
        features: jax.Array,
        initial: jax.Array,
        states: jax.Array,
        dx: jax.Array,
        dg: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """See `InPlace.weight_gradients`; here one product for both costs more than two."""
        del cell
        if self.moves_by_product:
            move = jnp.eye(len(dg), k=1, dtype=dg.dtype)
            after = jnp.einsum("st,tbd->sbd", move, dg, precision=HIGHEST)
        else:
            after = jnp.concatenate([dg[1:], jnp.zeros_like(dg[:1])])
        du = product(rows(states).T, rows(after)) + product(initial.T, dg[0])
        return product(rows(features).T, rows(dx)), du


def form_for(platform: str) -> Form:
    """The form of the loops that suits a platform, as JAX or XLA calls it; a GPU's by default."""
    if platform == "cpu":
        return InPlace()
    return Stacked(moves_by_product=True) if platform == "tpu" else Stacked(unroll=GPU_UNROLL)


def rows(array: jax.Array) -> jax.Array:
    """`[time, batch, ...]` as `[time * batch, ...]`."""
    return array.reshape(-1, array.shape[-1])


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """`left @ right`, in full precision on every platform."""
    return jnp.matmul(left, right, precision=HIGHEST)


@jax.custom_vjp
def layer(inputs: jax.Array, weight: jax.Array) -> jax.Array:
    """`inputs @ weight`, for layers outside of the loops, with their derivative by hand.

    It is what autodiff says, but for the transposes: on a CPU, XLA leaves products whose factors
    stand the other way to a library, which takes three times as long for the few rows that we have.
    """
    return product(inputs, weight)


def _layer_forward(inputs, weight):
    return product(inputs, weight), (inputs, weight)


def _layer_backward(residuals, gradient):
    inputs, weight = residuals
    return product(gradient, weight.T), product(rows(inputs).T, rows(gradient))


layer.defvjp(_layer_forward, _layer_backward)


def first(mask: jax.Array) -> jax.Array:
    """The first position at which a mask `[time, batch]` is True for some sequence."""
    return jnp.argmax(jnp.any(mask, axis=1))


def at(arrays: Any, t: jax.Array) -> Any:
    """Arrays `[time, ...]` at position t, which is known to be one of theirs; None of None."""
    take = partial(jax.lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False)
    return jax.tree.map(lambda array: take(array, t), arrays)


def put(array: jax.Array, value: jax.Array, t: jax.Array) -> jax.Array:
    """An array `[time, ...]` with a value at position t, which is known to be one of its own."""
    return jax.lax.dynamic_update_index_in_dim(array, value, t, 0, allow_negative_indices=False)


def zeros_for(x: jax.Array, state: jax.Array) -> jax.Array:
    """Room for a part of the state `[batch, hidden]` at each position of x."""
    return jnp.zeros((len(x), *state.shape), state.dtype)


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
    """States of `new` where the mask `[..., batch]` is True or None, else of `old`."""
    if mask is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(mask[..., None], n, o), new, old)
