"""A whole block of training steps as one GPU kernel, with one program for each experiment.

Look-up, both loops over time, cross-entropy, all gradients and Adam, step after step, in a single
launch: a step by itself is so small that launching its operations is most of its cost.

Parameters, moments and the gradient are vectors in the memory of the device, in practice in its
cache, and Adam runs over them in a short loop. Nothing is padded to powers of two: a tensor that
lacks rows is read beyond its end, where the next begins, and what is read there meets zeros; its
gradient, zero there, is written before that of the next. A barrier stands between what one thread
writes and another reads. Programs wait most of the time, so they have few threads, and many fit.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from srn_jax.cells.recurrence import add_to_output, output
from srn_jax.kernels import MU, NU
from srn_jax.kernels.residuals import Residuals

TILE = 512  # numbers that Adam takes at once
# x / (sqrt(y) + z) in the machine's own operations, each right to the last bit or the one before.
QUOTIENT = """{ .reg .f32 r; sqrt.approx.ftz.f32 r, $2; add.f32 r, r, $3;
rcp.approx.ftz.f32 r, r; mul.f32 $0, $1, r; }"""
NEVER = -1e9  # logit of a class that does not exist
WEIGHTS = 2048  # of U, for each warp: their gradient takes 64 registers of a thread
# Of the tensors in a vector: first those that lack rows. `kernel` is `[1, classes, D]`.
ORDER = ("kernel", "table", "W", "U", "b", "c", "bias")


class Tensor(NamedTuple):
    """Where a tensor lies in a vector: gate after gate, each `[rows, columns]`."""

    start: int
    gates: int
    rows: int
    columns: int

    def gate(self, number: int, count: int, vector: int = 0) -> Any:
        """So many places of a gate, which are read or written; `vector` is where that begins."""
        return pl.ds(vector + self.start + number * self.rows * self.columns, count)


class Plan(NamedTuple):
    """What is compiled, and how states and gradient share the `room`."""

    cell: Any
    tensors: Mapping[str, Tensor]
    sizes: Mapping[str, int]  # rows of `kernel` and `table`, columns of `bias` that are read
    residuals: Residuals
    rows: int
    parts: int  # arrays `[rows, D]` of a position: its state and what is stored of it
    gradient: int  # begins here, over the last positions, when they are not needed any more


def run(
    cell: Any, tensors: Mapping[str, Tensor], batches: Any, vectors: Any, numbers: Any, rates: Any
) -> tuple[list[jax.Array], jax.Array]:
    """The steps of a block of one experiment.

    Vectors are the parameters and their two moments, with tensors in `ORDER`; numbers are the first
    step, how many, and where sequences begin; rates `[2, place]` the rate and what is added to the
    root. Returns the vectors after, and the losses `[place]`, of which those of the block count.
    """
    inputs, own, size = batches.inputs, tensors, tensors["U"].rows
    rows = max(8, pl.next_power_of_2(inputs.shape[1]))
    sizes = {"kernel": own["kernel"].rows, "table": own["table"].rows, "bias": own["bias"].columns}
    sizes = {name: max(16, pl.next_power_of_2(number)) for name, number in sizes.items()}
    read = [own[name].start + sizes[name] * own[name].columns for name in ("kernel", "table")]
    length = pl.cdiv(max(*read, own["bias"].start + sizes["bias"]), TILE) * TILE
    residuals = Residuals(cell, (rows, size))
    parts = cell.states + residuals.arrays
    needed = max((inputs.shape[2] + 1) * parts * rows * size, length)
    plan = Plan(cell, tensors, sizes, residuals, rows, parts, needed - length)

    def block_kernel(sync, quotient, numbers, rates, data, start, trained, losses, sides, room):
        def each_tile(new):
            def one(tile, nothing):
                here = pl.ds(tile * TILE, TILE)
                for ref, value in zip(trained, new(tile, here), strict=True):
                    ref[here] = value

            jax.lax.fori_loop(0, length // TILE, one, None)

        def step(place, nothing):
            sync()
            number = (numbers[0] + place) % len(data[1])
            batch = data[0], number, data[1][number], data[2][number]
            losses[place] = write_gradient(plan, sync, trained[0], batch, numbers[2], sides, room)
            sync()
            rate, epsilon = rates[0, place], rates[1, place]

            def adam(tile, here):
                p, mu, nu = (ref[here] for ref in trained)
                g = room[pl.ds(plan.gradient + tile * TILE, TILE)]
                mu, nu = MU * mu + g, NU * nu + g * g
                return p - rate * quotient(mu, nu, epsilon), mu, nu

            each_tile(adam)

        each_tile(lambda tile, here: [ref[here] for ref in start])
        jax.lax.fori_loop(0, numbers[1], step, None)

    more = [(0, 0), (0, rows - inputs.shape[1])]  # their weight is 0
    filled = [jnp.pad(each, more) for each in (batches.targets, batches.weights)]
    filled.insert(0, jnp.pad(inputs, [*more, (0, 0)]))
    padded = [jnp.pad(vector, (0, length - len(vector))) for vector in vectors]
    like = partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    outs = like((rates.shape[1],)), like((sizes["table"], cell.gates * size)), like((needed,))
    out = [like((length,))] * len(vectors), *outs
    warps = pl.next_power_of_2(pl.cdiv(cell.gates * size * size, WEIGHTS))
    trained, losses, *_ = jax.lax.platform_dependent(
        *(numbers, rates, filled, padded),
        cpu=launch(block_kernel, out, interpret=True),
        default=launch(block_kernel, out, interpret=False, warps=warps),
    )
    return [new[: len(old)] for new, old in zip(trained, vectors, strict=True)], losses


def write_gradient(
    plan: Plan, sync: Any, network: Any, batch: Any, begins: Any, sides: Any, room: Any
) -> jax.Array:
    """The loss of a batch; writes its gradient. `sides` is for embedding @ W + b of each token."""
    (inputs, number, targets, weights), cell, own = batch, plan.cell, plan.tensors
    time, size, embedding = inputs.shape[2], own["U"].rows, own["table"].columns
    vocabulary, classes, shape = plan.sizes["table"], plan.sizes["bias"], (plan.rows, size)

    def matrix(name: str, rows: int, columns: int, gate: int = 0) -> jax.Array:
        return network[own[name].gate(gate, rows * columns)].reshape(rows, columns)

    def gates(name: str, rows: int) -> list[jax.Array]:
        return [matrix(name, rows, size, gate) for gate in range(cell.gates)]

    def put(name: str, *values: jax.Array) -> None:
        for gate, value in enumerate(values):
            room[own[name].gate(gate, value.size, plan.gradient)] = value.reshape(value.size)

    def place(t: Any, part: int) -> Any:
        return pl.ds((t * plan.parts + part) * plan.rows * size, plan.rows * size)

    def at(t: Any, first: int, last: int) -> list[jax.Array]:
        return [room[place(t, part)].reshape(shape) for part in range(first, last)]

    def keep(t: Any, values: list[jax.Array]) -> None:
        for part, value in enumerate(values):
            room[place(t, part)] = value.reshape(value.size)

    def state_at(t: Any) -> Any:
        return jax.tree.unflatten(states, at(t, 0, cell.states))

    zero = jnp.zeros(shape) if cell.states == 1 else (jnp.zeros(shape),) * cell.states
    states = jax.tree.structure(zero)
    table = partial(matrix, "table", vocabulary, embedding)
    for gate, (w, b) in enumerate(zip(gates("W", embedding), gates("b", 1), strict=True)):
        sides[:, pl.ds(gate * size, size)] = dot(table(), w) + b
    u, c = gates("U", size), gates("c", 1) if cell.recurrent_bias else []
    sync()

    def tokens(t: Any) -> jax.Array:
        return inputs[number, :, jnp.clip(t, begins, time - 1)].astype(jnp.int32)

    def side(
        rows: jax.Array,
    ) -> list[jax.Array]:  # of padding any row, since nobody looks at its states
        rows = jnp.maximum(rows, 0)
        return [sides[rows, pl.ds(gate * size, size)] for gate in range(cell.gates)]

    def forward(t, carry):
        state, x, following = carry  # and this loads what the next position needs
        prefetched = side(following), tokens(t + 2)
        h = [dot(output(state), one) for one in u]
        h = [one + bias for one, bias in zip(h, c, strict=True)] if c else h
        new, keeps = plan.residuals.forward(x, h, state)
        keep(t + 1, [*jax.tree.leaves(new), *keeps])
        return new, *prefetched

    keep(begins, jax.tree.leaves(zero))
    start = zero, side(tokens(begins)), tokens(begins + 1)
    state, *_ = jax.lax.fori_loop(begins, time, forward, start)
    sync()

    hidden, kernel = output(state), matrix("kernel", classes, size)
    logits = dot(hidden, kernel, (1, 1)) + matrix("bias", 1, classes)
    exists = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) < own["bias"].columns
    logits = jnp.where(exists, logits, NEVER)
    right, highest = one_hot(targets, classes), jnp.max(logits, axis=1)
    exponentials = jnp.exp(logits - highest[:, None])
    total = jnp.sum(exponentials, axis=1)
    losses = jnp.log(total) + highest - jnp.sum(right * logits, axis=1)
    dlogits = weights[:, None] * (exponentials / total[:, None] - right)
    dstate, dbias = add_to_output(zero, dot(dlogits, kernel)), jnp.sum(dlogits, axis=0)[None]

    def backward(turn, carry):
        total, drows, du, dc, new, before, here = carry
        t = time - 1 - turn
        prefetched = state_at(jnp.maximum(t - 1, begins)), tokens(t - 1)
        kept = at(t + 1, cell.states, plan.parts)
        dx, dg, total = plan.residuals.backward(kept, before, new, total)
        for d, one in zip(dg, u, strict=True):
            total = add_to_output(total, dot(d, one, (1, 1)))
        hot, h = one_hot(here, vocabulary), output(before)
        drows = [one + dot(hot, d, (0, 0)) for one, d in zip(drows, dx, strict=True)]
        du = [one + dot(h, d, (0, 0)) for one, d in zip(du, dg, strict=True)]
        dc = [one + jnp.sum(d, axis=0)[None] for one, d in zip(dc, dg, strict=bool(c))]
        return total, drows, du, dc, before, *prefetched

    drows, du = ([jnp.zeros((rows, size))] * cell.gates for rows in (vocabulary, size))
    dc = [jnp.zeros((1, size)) for _ in c]
    end = dstate, drows, du, dc, state, state_at(time - 1), tokens(time - 1)
    _, drows, du, dc, *_ = jax.lax.fori_loop(0, time - begins, backward, end)

    # From here on the gradient takes the place of the states.
    sync()
    hidden = output(state_at(time))
    sync()
    put("kernel", dot(dlogits, hidden, (0, 0)))
    sync()
    pairs = zip(drows, gates("W", embedding), strict=True)
    put("table", sum((dot(d, w, (1, 1)) for d, w in pairs), jnp.zeros(())))
    sync()
    put("W", *[dot(table(), d, (0, 0)) for d in drows])
    put("U", *du)
    put("b", *[jnp.sum(d, axis=0)[None] for d in drows])
    put("c", *dc)
    put("bias", dbias)
    return jnp.sum(weights * losses)


def dot(left: jax.Array, right: jax.Array, contracted: tuple[int, int] = (1, 0)) -> jax.Array:
    """A product over one axis of each, in full precision: float32 multiply-adds, not TF32."""
    dimensions = ((contracted[:1], contracted[1:]), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, precision=jax.lax.Precision.HIGHEST)


def one_hot(numbers: jax.Array, classes: int) -> jax.Array:
    """One-hot rows `[batch, classes]`, zero for a negative number."""
    every = jax.lax.broadcasted_iota(jnp.int32, (numbers.shape[0], classes), 1)
    return (numbers[:, None] == every).astype(jnp.float32)


def launch(kernel: Any, out: Any, interpret: bool, warps: int = 1) -> Any:
    """A kernel as a function of arrays, run by so many warps of 32 threads.

    Its first arguments are a barrier between its threads and x / (sqrt(y) + z), elementwise.
    """
    if interpret:
        own = partial(kernel, lambda: None, lambda x, y, z: x / (jnp.sqrt(y) + z))
        return pl.pallas_call(own, out, interpret=True)
    from jax.experimental.pallas import triton

    def quotient(x, y, z):
        like, given = jax.ShapeDtypeStruct(x.shape, x.dtype), [x, y, jnp.broadcast_to(z, x.shape)]
        asm = partial(triton.elementwise_inline_asm, QUOTIENT, constraints="=f,f,f,f", pack=1)
        return asm(args=given, result_shape_dtypes=[like])[0]

    return pl.pallas_call(
        partial(kernel, triton.debug_barrier, quotient),
        out,
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        name="block_kernel",
    )
