"""A whole block of training steps as one GPU kernel, with one program for each experiment.

Look-up, both loops over time, cross-entropy, all gradients, clipping and the optimizer, step after
step, in a single launch: a step by itself is so small that launching its operations is most of its
cost. It does what the plain training step does for tokens, one answer and cross-entropy.

Parameters, moments and the gradient are vectors in the memory of the device, which in practice is
its cache, and the optimizer runs over them in a short loop whatever the tensors are. Nothing is
padded to powers of two: a tensor that lacks rows is read beyond its end, where the next begins, and
what is read there meets zeros; its gradient, zero there, is written before that of the next.
Threads read what others wrote only after a barrier.

Little of a GPU's arithmetic is used: a program waits, for its own products and for memory. So it
has few threads, that many fit beside each other; loads what a position needs while the one before
is computed; and begins where its own sequences do.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from srn_jax.cells.recurrence import add_to_output, output
from srn_jax.kernels.residuals import Residuals

TILE = 512  # numbers that the optimizer takes at once
# x / (sqrt(y) + z) in the machine's own operations, each right to the last bit or the one before,
# without the cases of numbers below 1e-38: a denominator is never that small.
QUOTIENT = """{ .reg .f32 r; sqrt.approx.ftz.f32 r, $2; add.f32 r, r, $3;
rcp.approx.ftz.f32 r, r; mul.f32 $0, $1, r; }"""
NEVER = -1e9  # logit of a class that does not exist
# Of U, for each warp: their gradient takes 64 registers of a thread. With fewer one experiment is
# faster, with more many are, until the registers spill.
WEIGHTS = 2048
Gates = list[jax.Array]  # an array for each gate
# Of the tensors in a vector: first those that lack rows. `kernel` is `[1, classes, D]`.
ORDER = ("kernel", "table", "W", "U", "b", "c", "bias")


class Tensor(NamedTuple):
    """Where a tensor lies in a vector: gate after gate, each `[rows, columns]`."""

    start: int
    gates: int
    rows: int
    columns: int

    @property
    def end(self) -> int:
        """Where the next begins."""
        return self.start + self.gates * self.rows * self.columns

    def gate(self, number: int, rows: int, columns: int, vector: int = 0) -> Any:
        """The places of a gate, of which so many are read or written; `vector` is its start."""
        return pl.ds(vector + self.start + number * self.rows * self.columns, rows * columns)


class Plan(NamedTuple):
    """What is compiled."""

    cell: Any
    tensors: Mapping[str, Tensor]
    decays: Mapping[str, float]  # of the moments: "mu" and "nu" of Adam, "nu" of RMSprop, or none
    root: float = 0.0  # added under the root
    weight_decay: bool = False
    clip: str | None = None  # "global", "per-tensor" or not at all
    ragged: bool = False  # whether sequences begin at different positions


class Settings(NamedTuple):
    """What is not trained, and differs between experiments."""

    numbers: jax.Array  # [3]: the first step of the block, how many, and where sequences begin
    steps: jax.Array  # [3, place]: the rate, what is added to the root, what is left of a weight
    norm: jax.Array  # [1]: to which gradients are clipped


class Room(NamedTuple):
    """For s_0..s_T and what is stored of each, `parts` arrays `[rows, D]` of a position.

    At its end, where the last positions are, is the gradient when they are not needed any more.
    """

    ref: Any
    parts: int
    shape: tuple[int, int]
    gradient: int  # where it begins

    def place(self, t: Any, part: int) -> Any:
        """Where a part of position t is."""
        one = self.shape[0] * self.shape[1]
        return pl.ds((t * self.parts + part) * one, one)

    def at(self, t: Any, first: int, last: int) -> Gates:
        """Parts of position t."""
        return [self.ref[self.place(t, n)].reshape(self.shape) for n in range(first, last)]

    def put(self, t: Any, values: Gates) -> None:
        """Write the first parts of position t."""
        for part, value in enumerate(values):
            self.ref[self.place(t, part)] = value.reshape(value.size)


def run(
    plan: Plan, batches: Any, vectors: list[jax.Array], settings: Settings
) -> tuple[list[jax.Array], jax.Array]:
    """The steps of a block of one experiment.

    Args:
        plan: static.
        batches: inputs `[batches, batch, time]` (a token below 0 is padding), targets and weights
            `[batches, batch]`.
        vectors: parameters and their moments, tensors in `ORDER`.
        settings: see there.

    Returns:
        The vectors after, and the losses `[place]`, of which those of the block are to be read.
    """
    inputs, own = batches[0], plan.tensors
    rows = max(8, pl.next_power_of_2(inputs.shape[1]))
    sizes = {"kernel": own["kernel"].rows, "table": own["table"].rows, "bias": own["bias"].columns}
    sizes = {name: max(16, pl.next_power_of_2(size)) for name, size in sizes.items()}
    read = [own[name].start + size * own[name].columns for name, size in sizes.items()]
    read += [own["bias"].start + sizes["bias"], own["bias"].end]
    length = pl.cdiv(max(read), TILE) * TILE
    padded = [jnp.pad(vector, (0, length - len(vector))) for vector in vectors]
    more = (0, rows - inputs.shape[1])
    filled = (
        jnp.pad(inputs, [(0, 0), more, (0, 0)], constant_values=-1),
        *(jnp.pad(each, [(0, 0), more]) for each in batches[1:]),
    )
    shape = rows, own["U"].rows
    residuals = Residuals(plan.cell, shape)
    parts = plan.cell.states + residuals.arrays
    needed = max((inputs.shape[2] + 1) * parts * rows * shape[1], length)

    def block_kernel(sync, quotient, settings, data, start, trained, losses, sides, ref):
        room = Room(ref, parts, shape, needed - length)

        def copy(tile, nothing):
            here = pl.ds(tile * TILE, TILE)
            for source, target in zip(start, trained, strict=True):
                target[here] = source[here]
            return nothing

        def step(place, nothing):
            sync()
            number = (settings.numbers[0] + place) % len(data[1])
            batch, begins = (data[0], number, data[1][number], data[2][number]), settings.numbers[2]
            losses[place] = write_gradient(
                plan, residuals, sync, trained[0], sizes, batch, begins, sides, room
            )
            sync()
            update(plan, quotient, trained, room, settings, place)
            return nothing

        jax.lax.fori_loop(0, length // TILE, copy, None)
        jax.lax.fori_loop(0, settings.numbers[1], step, None)

    def like(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    table = like(sizes["table"], plan.cell.gates * shape[1])
    out = [like(length)] * len(vectors), like(settings.steps.shape[1]), table, like(needed)
    warps = pl.next_power_of_2(pl.cdiv(own["U"].end - own["U"].start, WEIGHTS))
    trained, losses, *_ = jax.lax.platform_dependent(
        settings,
        filled,
        padded,
        cpu=launch(block_kernel, out, interpret=True),
        default=launch(block_kernel, out, interpret=False, warps=warps),
    )
    return [new[: len(old)] for new, old in zip(trained, vectors, strict=True)], losses


def write_gradient(
    plan: Plan,
    residuals: Residuals,
    sync: Callable[[], None],
    network: Any,
    sizes: Mapping[str, int],
    batch: tuple[Any, Any, Any, Any],
    begins: Any,
    sides: Any,
    room: Room,
) -> jax.Array:
    """The loss of a batch; writes its gradient.

    `sides` is for the input side of every token, `[vocabulary, gates * D]`.
    """
    (inputs, number, targets, weights), cell, own = batch, plan.cell, plan.tensors
    time, size, embedding = inputs.shape[2], room.shape[1], own["table"].columns
    vocabulary, classes = sizes["table"], sizes["bias"]

    def matrix(name: str, rows: int, columns: int, gate: int = 0) -> jax.Array:
        return network[own[name].gate(gate, rows, columns)].reshape(rows, columns)

    def gates(name: str, rows: int) -> Gates:
        return [matrix(name, rows, size, gate) for gate in range(cell.gates)]

    def put(name: str, *values: jax.Array) -> None:
        for gate, value in enumerate(values):
            rows, columns = value.shape
            place = own[name].gate(gate, rows, columns, room.gradient)
            room.ref[place] = value.reshape(value.size)

    # The input side of every token: embedding @ W + b.
    table = partial(matrix, "table", vocabulary, embedding)
    pairs = zip(gates("W", embedding), gates("b", 1), strict=True)
    for gate, (w, b) in enumerate(pairs):
        sides[:, pl.ds(gate * size, size)] = dot(table(), w) + b
    u, c = gates("U", size), gates("c", 1) if cell.recurrent_bias else None
    sync()

    def tokens(t: Any) -> jax.Array:
        return inputs[number, :, jnp.clip(t, begins, time - 1)].astype(jnp.int32)

    def side(rows: jax.Array) -> Gates:  # of padding any row, since nobody looks at its states
        rows = jnp.maximum(rows, 0)
        return [sides[rows, pl.ds(gate * size, size)] for gate in range(cell.gates)]

    def forward(t, carry):
        state, x, following = carry  # and this loads what the next position needs
        prefetched = side(following), tokens(t + 2)
        h = [dot(output(state), one) for one in u]
        h = h if c is None else [one + bias for one, bias in zip(h, c, strict=True)]
        new, keeps = residuals.forward(x, h, state)
        if plan.ragged:
            new = where(tokens(t) >= 0, new, state)
        room.put(t + 1, [*jax.tree.leaves(new), *keeps])
        return new, *prefetched

    def state_at(t: Any) -> Any:
        parts = room.at(t, 0, cell.states)
        return parts[0] if cell.states == 1 else tuple(parts)

    zero = jnp.zeros((room.shape[0], size))
    zero = zero if cell.states == 1 else (zero,) * cell.states
    room.put(begins, jax.tree.leaves(zero))
    start = zero, side(tokens(begins)), tokens(begins + 1)
    state, *_ = jax.lax.fori_loop(begins, time, forward, start)
    sync()

    hidden = output(state)
    kernel = matrix("kernel", classes, size)
    logits = dot(hidden, kernel, (1, 1)) + matrix("bias", 1, classes)
    exists = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) < own["bias"].columns
    logits = jnp.where(exists, logits, NEVER)
    right = one_hot(targets, classes)
    highest = jnp.max(logits, axis=1)
    exponentials = jnp.exp(logits - highest[:, None])
    total = jnp.sum(exponentials, axis=1)
    losses = jnp.log(total) + highest - jnp.sum(right * logits, axis=1)
    dlogits = weights[:, None] * (exponentials / total[:, None] - right)
    dstate, dbias = add_to_output(zero, dot(dlogits, kernel)), jnp.sum(dlogits, axis=0)[None]

    def backward(turn, carry):
        total, drows, du, dc, new, before, here = carry
        t = time - 1 - turn
        prefetched = state_at(jnp.maximum(t - 1, begins)), tokens(t - 1)
        kept = room.at(t + 1, cell.states, room.parts)
        counts = where(here >= 0, total, nothing) if plan.ragged else total
        dx, dg, dbefore = residuals.backward(kept, before, new, counts)
        if plan.ragged:
            dbefore = jax.tree.map(jnp.add, dbefore, where(here >= 0, nothing, total))
        total = dbefore
        for d, one in zip(dg, u, strict=True):
            total = add_to_output(total, dot(d, one, (1, 1)))
        hot, h = one_hot(here, vocabulary), output(before)
        drows = [one + dot(hot, d, (0, 0)) for one, d in zip(drows, dx, strict=True)]
        du = [one + dot(h, d, (0, 0)) for one, d in zip(du, dg, strict=True)]
        if c is not None:
            dc = [one + jnp.sum(d, axis=0)[None] for one, d in zip(dc, dg, strict=True)]
        return total, drows, du, dc, before, *prefetched

    nothing = jax.tree.map(jnp.zeros_like, zero)
    drows, du, dc = (
        [jnp.zeros((rows, size)) for _ in range(cell.gates)] for rows in (vocabulary, size, 1)
    )
    sums = dstate, drows, du, dc if c is not None else []
    end = *sums, state, state_at(time - 1), tokens(time - 1)
    _, drows, du, dc, *_ = jax.lax.fori_loop(0, time - begins, backward, end)

    # From here on the gradient takes the place of the states.
    sync()
    hidden = output(state_at(time))
    sync()
    put("kernel", dot(dlogits, hidden, (0, 0)))
    sync()
    pairs = zip(drows, gates("W", embedding), strict=True)
    dtable = sum((dot(d, w, (1, 1)) for d, w in pairs), jnp.zeros(()))
    put("table", dtable)
    sync()
    put("W", *[dot(table(), d, (0, 0)) for d in drows])
    put("U", *du)
    put("b", *[jnp.sum(d, axis=0)[None] for d in drows])
    if c is not None:
        put("c", *dc)
    put("bias", dbias)
    return jnp.sum(weights * losses)


def update(
    plan: Plan,
    quotient: Callable[..., jax.Array],
    trained: Any,
    room: Room,
    settings: Settings,
    place: Any,
) -> None:
    """One step of an optimizer on references to the parameters and their moments.

    Adam is rate m / (sqrt(v) + epsilon), with the corrections of its moments folded into the rate
    and epsilon, and so the factors 1 - decay: m and v are decaying sums here. RMSprop is the same
    without m, SGD without both. Gradients are clipped, each tensor or all together, as
    `training.optimizer.clip` does: in units of the largest number, whose square may be too large.
    """
    rate, epsilon, left = (settings.steps[n, place] for n in range(3))
    tiles = trained[0].shape[0] // TILE
    parts = [(tensor.start, tensor.end) for tensor in plan.tensors.values()]
    parts = {"global": [(0, parts[-1][1])], "per-tensor": parts}.get(plan.clip or "", [])

    def gradient(tile):
        return room.ref[pl.ds(room.gradient + tile * TILE, TILE)]

    def inside(tile, part):
        places = tile * TILE + jax.lax.broadcasted_iota(jnp.int32, (TILE,), 0)
        return (part[0] <= places) & (places < part[1])

    def factor(part):
        def largest(tile, so_far):
            g = jnp.where(inside(tile, part), gradient(tile), 0.0)
            return jnp.maximum(so_far, jnp.max(jnp.abs(g)))

        def squares(tile, so_far):
            g = jnp.where(inside(tile, part), gradient(tile), 0.0)
            return so_far + jnp.sum((g / unit) ** 2)

        unit = jax.lax.fori_loop(0, tiles, largest, 0.0)
        unit = jnp.where(unit > 0, unit, 1.0)
        size, norm = jnp.sqrt(jax.lax.fori_loop(0, tiles, squares, 0.0)), settings.norm[0] / unit
        return jnp.where(size > norm, norm / size, 1.0)

    factors = [(part, factor(part)) for part in parts]

    def one_tile(tile, nothing):
        here = pl.ds(tile * TILE, TILE)
        p, *moments = (ref[here] for ref in trained)
        g, sums = gradient(tile), {}
        for part, one in factors:
            g = jnp.where(inside(tile, part), g * one, g)
        for (name, decay), moment in zip(plan.decays.items(), moments, strict=True):
            sums[name] = decay * moment + (g if name == "mu" else g * g)
        step = sums.get("mu", g)
        if "nu" in sums:
            step = quotient(step, sums["nu"] + plan.root, epsilon)
        p = (left * p if plan.weight_decay else p) - rate * step
        for ref, value in zip(trained, (p, *sums.values()), strict=True):
            ref[here] = value
        return nothing

    jax.lax.fori_loop(0, tiles, one_tile, None)


def dot(left: jax.Array, right: jax.Array, contracted: tuple[int, int] = (1, 0)) -> jax.Array:
    """A product over one axis of each, in full precision: float32 multiply-adds, not TF32."""
    dimensions = ((contracted[:1], contracted[1:]), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, precision=jax.lax.Precision.HIGHEST)


def one_hot(numbers: jax.Array, classes: int) -> jax.Array:
    """One-hot rows `[batch, classes]`, zero for a negative number."""
    every = jax.lax.broadcasted_iota(jnp.int32, (numbers.shape[0], classes), 1)
    return (numbers[:, None] == every).astype(jnp.float32)


def where(rows: jax.Array, ones: Any, others: Any) -> Any:
    """States of `ones` in some rows, of `others` in the rest."""
    return jax.tree.map(lambda one, other: jnp.where(rows[:, None], one, other), ones, others)


def launch(
    kernel: Callable[..., None], out: Any, interpret: bool, warps: int = 1
) -> Callable[..., Any]:
    """A kernel as a function of arrays, run by so many warps of 32 threads.

    Its first arguments are a barrier between its threads and x / (sqrt(y) + z), elementwise.
    """
    if interpret:
        own = partial(kernel, lambda: None, lambda x, y, z: x / (jnp.sqrt(y) + z))
        return pl.pallas_call(own, out, interpret=True)
    from jax.experimental.pallas import triton

    def quotient(x, y, z):
        return triton.elementwise_inline_asm(
            QUOTIENT,
            args=[x, y, jnp.broadcast_to(z, x.shape)],
            constraints="=f,f,f,f",
            pack=1,
            result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
        )[0]

    return pl.pallas_call(
        partial(kernel, triton.debug_barrier, quotient),
        out,
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        name="block_kernel",
    )
