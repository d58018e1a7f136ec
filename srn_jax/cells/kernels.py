"""The loops over time as GPU kernels: a whole sequence in one launch, forward and backward.

They do what the two loops of `loops` do, for every cell of the family, with the state and U in
registers from the first position to the last. A program takes 8 rows of a batch; `vmap` makes more
programs of it, over the rest of the batch and over experiments. Written in Pallas for its Triton
backend: the products are float32 multiply-adds, not TF32. On a CPU the same kernels are
interpreted, which is slow and is there to be tested. On an H200 they agree with float64 as the
plain loops do, and train 700 SRNs in half of their time, so on such GPUs they are the default.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from srn_jax.cells.cell import Cell
from srn_jax.cells.loops import HIGHEST, Form, Loop, Stacked, add_to_output, output, product
from srn_jax.cells.planes import Planes, by_planes, is_planes
from srn_jax.cells.recurrence import Plan, recurrence
from srn_jax.errors import UserError

ROWS = 8  # of a batch, in one program
OLDEST = 8.0  # compute capability for which Triton compiles: Colab's T4 has 7.5
TRITON = "jax.experimental.pallas.triton"  # from jax 0.11 on it is said to go some day
HIDDEN_SIZES = (16, 32, 64)  # powers of two, and U must fit into registers


def check_size(hidden_size: int) -> None:
    """Raise `UserError` for a hidden size that the kernels do not know."""
    if hidden_size not in HIDDEN_SIZES:
        sizes = ", ".join(map(str, HIDDEN_SIZES))
        raise UserError(f"--kernel takes a hidden size of {sizes}, got {hidden_size}")


def suit(device: Any, cell: Any, hidden_size: int) -> bool:
    """Whether a device runs the kernels, and they know a cell and its size."""
    if device.platform != "gpu" or "NVIDIA" not in device.device_kind:
        return False
    if float(device.compute_capability) < OLDEST or hidden_size not in HIDDEN_SIZES:
        return False
    if not issubclass(cell, Cell) or importlib.util.find_spec(TRITON) is None:
        return False
    return understood(cell)


@cache
def understood(cell: Any) -> bool:
    """Whether the kernels can be made of a cell: its operations may be unknown to Triton."""

    def last(features, weight, bias):
        zero = jnp.zeros((ROWS, weight.shape[0]))
        start = zero if cell.states == 1 else (zero,) * cell.states
        plan = Plan(last=True, form=Kernels())
        return jnp.sum(output(recurrence(cell, features, weight, weight, bias, start, None, plan)))

    size = HIDDEN_SIZES[0]
    weight = jnp.zeros((size, cell.gates * size))
    bias = weight[:1] if cell.recurrent_bias else None
    try:
        traced = jax.jit(jax.grad(last)).trace(jnp.zeros((1, ROWS, size)), weight, bias)
        traced.lower(lowering_platforms=("cuda",))
    except Exception:  # it says so in several ways, and the loops can do all that cells do
        return False
    return True


@dataclass(frozen=True)
class Kernels(Stacked):
    """The loops on a GPU, each one kernel, or interpreted."""

    interpret: bool = False

    def by_platform(self) -> dict[str, Form]:
        """Interpreted on a CPU."""
        return {"cpu": Kernels(interpret=True), "default": self}

    def input_side(self, features: Any, weight: Any) -> Any:
        """The input side, with rows of zeros to fill the last program: cheap before a product."""
        missing = -features.shape[1] % ROWS
        return product(jnp.pad(features, [(0, 0), (0, missing), (0, 0)]), weight)

    def forward(self, loop: Loop, x: Any, initial: Any) -> tuple[Any, Any]:
        """See `InPlace.forward`."""
        states, kept, _ = run_forward(loop, x, initial, True, self.interpret)
        return states, states if loop.cell.keeps_state else kept

    def last(self, loop: Loop, features: Any, input_weight: Any, initial: Any) -> Any:
        """See `InPlace.last`."""
        x = self.input_side(features, input_weight)
        return run_forward(loop, x, initial, False, self.interpret)[2]

    def backward(
        self, loop: Loop, kept: Any, before: Any, outside: Any, last: Any
    ) -> tuple[Any, Any, Any]:
        """See `InPlace.backward`."""
        cell, weight, bias, mask, _ = loop

        def backward_kernel(sync, *refs):
            kept_ref, before_ref, mask_ref, outside_ref, last_ref, u_ref, c_ref, *out = refs
            dx_ref, dg_ref, ds_ref = out
            u, c = planes(cell, u_ref), planes(cell, c_ref)

            def step(turn, total):
                t = len(kept_ref) - 1 - turn
                if outside_ref is not None:
                    total = jax.tree.map(jnp.add, at(outside_ref, t), total)
                before, kept = at(before_ref, t), planes(cell, kept_ref, t)
                dx, dg, passed_on = derivative(cell, kept, before, total, u, c, mask_ref, t)
                put_planes(dx_ref, dx, t)
                if dg_ref is not None:
                    put_planes(dg_ref, dg, t)
                return passed_on

            put(ds_ref, 0, jax.lax.fori_loop(0, len(kept_ref), step, at(last_ref, 0)))

        def call(kept, before, mask, outside, last):
            out = like(kept), None if cell.additive else like(kept), jax.tree.map(like, last)
            return launch(backward_kernel, out, self.interpret)(
                kept, before, mask, outside, last, weight, bias
            )

        last = jax.tree.map(lambda part: part[None], last)
        dx, dg, ds = over_rows(call, kept.shape[1], kept, before, mask, outside, last)
        return dx, dx if cell.additive else dg, jax.tree.map(lambda part: part[0], ds)


def run_forward(
    loop: Loop, x: Any, initial: Any, all_states: bool, interpret: bool
) -> tuple[Any, Any, Any]:
    """All states and what the cell keeps, or neither, and the last state."""
    cell, weight, bias, mask, _ = loop

    def forward_kernel(sync, x_ref, initial_ref, mask_ref, u_ref, c_ref, *out):
        states_ref, kept_ref, last_ref = out
        u, c = planes(cell, u_ref), planes(cell, c_ref)

        def step(t, state):
            new, kept = one_step(cell, planes(cell, x_ref, t), state, u, c, mask_ref, t)
            if states_ref is not None:
                put(states_ref, t, new)
            if kept_ref is not None:
                put_planes(kept_ref, kept, t)
            return new

        put(last_ref, 0, jax.lax.fori_loop(0, len(x_ref), step, at(initial_ref, 0)))

    def call(x, initial, mask):
        states = jax.tree.map(lambda part: like(part, (len(x), *part.shape[1:])), initial)
        kept = None if cell.keeps_state else like(x)
        out = (states, kept) if all_states else (None, None)
        out = *out, jax.tree.map(like, initial)
        return launch(forward_kernel, out, interpret)(x, initial, mask, weight, bias)

    batch = output(initial).shape[0]
    initial = jax.tree.map(lambda part: part[None], initial)
    states, kept, last = over_rows(call, batch, x, initial, mask)
    return states, kept, jax.tree.map(lambda part: part[0], last)


def one_step(cell, x, state, u, c, mask_ref, t):
    """One position forward: the new state, and what is to be kept: `step` may say that it is x."""
    new, kept = by_planes(cell.step, x, recurrent_side(state, u, c), apart(state))
    return keep_where(mask_ref, t, together(new), state), x if kept is None else kept


def derivative(cell, kept, before, total, u, c, mask_ref, t):
    """One position backward: gradients with respect to x, g and the state before."""
    nothing = jax.tree.map(jnp.zeros_like, total)
    g = None if cell.additive else recurrent_side(before, u, c)
    inside = keep_where(mask_ref, t, total, nothing)
    dx, dg, passed_on = by_planes(cell.derivative, kept, g, apart(before), apart(inside))
    passed_on = add_to_output(together(passed_on), through(dg, u))
    if mask_ref is None:
        return dx, dg, passed_on
    return dx, dg, jax.tree.map(jnp.add, passed_on, keep_where(mask_ref, t, nothing, total))


def recurrent_side(state: Any, u: Planes, c: Planes | None) -> Planes:
    """H U + c, gate by gate."""
    sides = [dot(output(state), one) for one in u]
    return Planes(sides if c is None else map(jnp.add, sides, c))


def through(gates: Planes, weight: Planes) -> jax.Array:
    """The sum over gates of each times the transpose of its weight."""
    parts = [dot(gate, one, (1, 1)) for gate, one in zip(gates, weight, strict=True)]
    return sum(parts[1:], parts[0])


def dot(left: jax.Array, right: jax.Array, contracted: tuple[int, int] = (1, 0)) -> jax.Array:
    """A product over one axis of each, in full precision."""
    dimensions = ((contracted[:1], contracted[1:]), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, precision=HIGHEST)


def keep_where(mask_ref: Any, t: Any, new: Any, old: Any) -> Any:
    """States of `new` where the mask is True at position t, or there is none; else of `old`."""
    if mask_ref is None:
        return new
    keep = (mask_ref[t] != 0)[:, None]
    return jax.tree.map(lambda n, o: jnp.where(keep, n, o), new, old)


def planes(cell: Any, ref: Any, *index: Any) -> Any:
    """The gates of `ref[index]`, which is `[rows, gates * D]`; None of None.

    An index may say which rows, too.
    """
    if ref is None:
        return None
    size = ref.shape[-1] // cell.gates
    rows = index if len(index) == ref.ndim - 1 else (*index, slice(None))
    return Planes(ref[(*rows, pl.ds(n * size, size))] for n in range(cell.gates))


def put_planes(ref: Any, gates: Planes, *index: Any) -> None:
    """The inverse of `planes`."""
    size = gates[0].shape[-1]
    for number, gate in enumerate(gates):
        ref[(*index, slice(None), pl.ds(number * size, size))] = gate


def apart(state: Any) -> Any:
    """A state as `by_planes` takes it."""
    return jax.tree.map(lambda part: Planes([part]), state)


def together(state: Any) -> Any:
    """The inverse of `apart`."""
    return jax.tree.map(lambda planes: planes[0], state, is_leaf=is_planes)


def at(refs: Any, t: Any) -> Any:
    """The states at position t."""
    return jax.tree.map(lambda ref: ref[t], refs)


def put(refs: Any, t: Any, state: Any) -> None:
    """Write a state at position t."""
    for ref, part in zip(jax.tree.leaves(refs), jax.tree.leaves(state), strict=True):
        ref[t] = part


def like(array: Any, shape: tuple[int, ...] | None = None) -> jax.ShapeDtypeStruct:
    """What a kernel is to write."""
    return jax.ShapeDtypeStruct(array.shape if shape is None else shape, array.dtype)


def launch(
    kernel: Callable[..., None], out: Any, interpret: bool, warps: int = 1
) -> Callable[..., Any]:
    """A kernel as a function of arrays, run by so many warps of 32 threads.

    Its first argument is a barrier between its threads.
    """
    if interpret:
        return pl.pallas_call(partial(kernel, lambda: None), out, interpret=True)
    from jax.experimental.pallas import triton  # which takes as long to load as all our own

    return pl.pallas_call(
        partial(kernel, triton.debug_barrier),
        out,
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        name=kernel.__name__,
    )


def over_rows(call: Callable[..., Any], batch: int, *arguments: Any) -> Any:
    """`call(*arguments)`, 8 rows at a time; the rows of all arrays are their axis 1.

    Rows that are missing are filled up with zeros, whose results are left out.
    """
    if batch == ROWS:
        return call(*arguments)
    programs = -(-batch // ROWS)

    def cut(array):
        if array.shape[1] == 1 < batch:  # a mask that is the same for all rows
            return array
        padding = [(0, 0)] * array.ndim
        padding[1] = (0, programs * ROWS - array.shape[1])
        return jnp.pad(array, padding).reshape(len(array), programs, ROWS, *array.shape[2:])

    def join(array):
        return array.reshape(len(array), programs * ROWS, *array.shape[3:])[:, :batch]

    pieces = jax.tree.map(cut, arguments)
    axes = jax.tree.map(lambda array, piece: None if piece is array else 1, arguments, pieces)
    return jax.tree.map(join, jax.vmap(call, axes, 1)(*pieces))
