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
    def size(self) -> int:
        return self.gates * self.rows * self.columns

    def of(self, gate: int, rows: int, columns: int) -> Any:
        """The places of a gate, of which so many are read or written."""
        return pl.ds(self.start + gate * self.rows * self.columns, rows * columns)


class Optimizer(NamedTuple):
    """What a step does with a gradient; static."""

    decays: Mapping[str, float]  # of the moments: "mu" and "nu" of Adam, "nu" of RMSprop, or none
    root: float = 0.0  # added under the root
    weight_decay: bool = False
    clip: str | None = None  # "global", "per-tensor" or not at all


class Settings(NamedTuple):
    """What is not trained, and differs between experiments."""

    numbers: jax.Array  # [3]: the first step of the block, how many, and where sequences begin
    steps: jax.Array  # [3, place]: the rate, what is added to the root, what is left of a weight
    norm: jax.Array  # [1]: to which gradients are clipped


class Sizes(NamedTuple):
    """Of the arrays in a kernel, each a power of two."""

    rows: int
    vocabulary: int
    classes: int
    embedding: int
    hidden: int


def run(
    cell: Any,
    optimizer: Optimizer,
    batches: Any,
    networks: list[Mapping[str, jax.Array]],
    settings: Settings,
    ragged: bool = False,
) -> tuple[list[dict[str, jax.Array]], jax.Array]:
    """The steps of a block of one experiment.

    Args:
        cell: the class.
        optimizer: static.
        batches: inputs `[batches, batch, time]` (a token below 0 is padding), targets and weights
            `[batches, batch]`.
        networks: parameters and their moments, each `[gates, rows, columns]` by name, in `ORDER`.
        settings: see there.
        ragged: whether sequences begin at different positions.

    Returns:
        The networks after, and the losses `[place]`, of which those of the block are to be read.
    """
    inputs, _, _ = batches
    shapes = {name: networks[0][name].shape for name in ORDER if name in networks[0]}
    sizes = Sizes(
        rows=max(8, pl.next_power_of_2(inputs.shape[1])),
        vocabulary=max(16, pl.next_power_of_2(shapes["table"][1])),
        classes=max(16, pl.next_power_of_2(shapes["bias"][2])),
        embedding=shapes["table"][2],
        hidden=shapes["U"][1],
    )
    own, end, reached = {}, 0, 0
    read = {"kernel": sizes.classes * sizes.hidden, "table": sizes.vocabulary * sizes.embedding}
    for name, shape in shapes.items():
        own[name] = tensor = Tensor(end, *shape)
        reached = max(reached, end + read.get(name, sizes.classes))
        end += tensor.size
    length = pl.cdiv(max(end, reached), TILE) * TILE
    vectors = [
        jnp.pad(jnp.concatenate([jnp.ravel(network[name]) for name in own]), (0, length - end))
        for network in networks
    ]
    missing = sizes.rows - inputs.shape[1]
    filled = (
        jnp.pad(inputs, [(0, 0), (0, missing), (0, 0)], constant_values=-1),
        *(jnp.pad(each, [(0, 0), (0, missing)]) for each in batches[1:]),
    )
    residuals = Residuals(cell, (sizes.rows, sizes.hidden))

    def block_kernel(sync, quotient, settings, data, start, trained, losses, *scratch):
        def copy(tile, nothing):
            here = pl.ds(tile * TILE, TILE)
            for source, target in zip(start, trained, strict=True):
                target[here] = source[here]
            scratch[0][here] = jnp.zeros(TILE)
            return nothing

        def step(place, nothing):
            sync()
            batch = (settings.numbers[0] + place) % len(data[1])
            losses[place] = write_gradient(
                cell, residuals, ragged, sync, trained[0], own, sizes, data, batch, settings, *scratch
            )
            sync()
            update(optimizer, quotient, own, trained, scratch[0], settings, place)
            return nothing

        jax.lax.fori_loop(0, length // TILE, copy, None)
        jax.lax.fori_loop(0, settings.numbers[1], step, None)

    def room(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    time, state, places = inputs.shape[2], (sizes.rows, sizes.hidden), settings.steps.shape[1]
    hidden = room(time + 1, *state)
    out = (
        [room(length)] * len(vectors),
        room(places),
        room(length),
        room(sizes.vocabulary, cell.gates * sizes.hidden),
        hidden if cell.states == 1 else (hidden,) * cell.states,
        [room(time, *state)] * len(residuals.dtypes),
    )
    warps = pl.next_power_of_2(pl.cdiv(own["U"].size, WEIGHTS))
    trained, losses, *_ = jax.lax.platform_dependent(
        settings,
        filled,
        vectors,
        cpu=launch(block_kernel, out, interpret=True),
        default=launch(block_kernel, out, interpret=False, warps=warps),
    )
    return [
        {
            name: vector[t.start : t.start + t.size].reshape(t[1:]) for name, t in own.items()
        }
        for vector in trained
    ], losses


def write_gradient(
    cell: Any,
    residuals: Residuals,
    ragged: bool,
    sync: Callable[[], None],
    network: Any,
    own: Mapping[str, Tensor],
    sizes: Sizes,
    data: Any,
    number: Any,
    settings: Settings,
    gradient: Any,
    sides: Any,
    states: Any,
    stored: Any,
) -> jax.Array:
    """The loss of a batch; writes its gradient.

    The last three are references to what the kernel writes for itself: the input side of every
    token, `[vocabulary, gates * D]`; s_0..s_T, each `[time + 1, batch, D]`; and what `residuals`
    stores, each `[time, batch, D]`.
    """
    inputs, (targets, weights) = data[0], (each[number] for each in data[1:])
    begins, time, size = settings.numbers[2], inputs.shape[2], sizes.hidden

    def matrix(name: str, rows: int, columns: int, gate: int = 0) -> jax.Array:
        return network[own[name].of(gate, rows, columns)].reshape(rows, columns)

    def put_matrix(name: str, value: jax.Array, gate: int = 0) -> None:
        gradient[own[name].of(gate, *value.shape)] = value.reshape(value.size)

    def gates(name: str, rows: int) -> Gates:
        return [matrix(name, rows, size, gate) for gate in range(cell.gates)]

    def put_gates(name: str, values: Gates) -> None:
        for gate, value in enumerate(values):
            put_matrix(name, value, gate)

    # The input side of every token: embedding @ W + b.
    table = partial(matrix, "table", sizes.vocabulary, sizes.embedding)
    pairs = zip(gates("W", sizes.embedding), gates("b", 1), strict=True)
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
        h = [dot(jax.tree.leaves(state)[0], one) for one in u]
        h = h if c is None else [one + bias for one, bias in zip(h, c, strict=True)]
        new, keeps = residuals.forward(x, h, state)
        if ragged:
            new = where(tokens(t) >= 0, new, state)
        put(states, t + 1, new)
        put(stored, t, keeps)
        return new, *prefetched

    zero = jax.tree.map(lambda ref: jnp.zeros(ref.shape[1:], ref.dtype), states)
    put(states, begins, zero)
    start = zero, side(tokens(begins)), tokens(begins + 1)
    state, *_ = jax.lax.fori_loop(begins, time, forward, start)
    sync()

    hidden = jax.tree.leaves(state)[0]
    kernel = matrix("kernel", sizes.classes, size)
    logits = dot(hidden, kernel, (1, 1)) + matrix("bias", 1, sizes.classes)
    exists = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) < own["bias"].columns
    logits = jnp.where(exists, logits, NEVER)
    right = one_hot(targets, sizes.classes)
    highest = jnp.max(logits, axis=1)
    exponentials = jnp.exp(logits - highest[:, None])
    total = jnp.sum(exponentials, axis=1)
    losses = jnp.log(total) + highest - jnp.sum(right * logits, axis=1)
    dlogits = weights[:, None] * (exponentials / total[:, None] - right)
    dlast, *others = jax.tree.leaves(zero)
    dlast, dbias = dlast + dot(dlogits, kernel), jnp.sum(dlogits, axis=0)[None]
    put_matrix("kernel", dot(dlogits, hidden, (0, 0)))

    def backward(turn, carry):
        total, drows, du, dc, new, before, here = carry
        t = time - 1 - turn
        prefetched = at(states, jnp.maximum(t - 1, begins)), tokens(t - 1)
        counts = where(here >= 0, total, nothing) if ragged else total
        dx, dg, dbefore = residuals.backward(at(stored, t), before, new, counts)
        if ragged:
            dbefore = jax.tree.map(jnp.add, dbefore, where(here >= 0, nothing, total))
        dh, *others = jax.tree.leaves(dbefore)
        dh = sum((dot(d, one, (1, 1)) for d, one in zip(dg, u, strict=True)), dh)
        total = jax.tree.unflatten(jax.tree.structure(before), [dh, *others])
        hot, h = one_hot(here, sizes.vocabulary), jax.tree.leaves(before)[0]
        drows = [one + dot(hot, d, (0, 0)) for one, d in zip(drows, dx, strict=True)]
        du = [one + dot(h, d, (0, 0)) for one, d in zip(du, dg, strict=True)]
        if c is not None:
            dc = [one + jnp.sum(d, axis=0)[None] for one, d in zip(dc, dg, strict=True)]
        return total, drows, du, dc, before, *prefetched

    nothing = jax.tree.map(jnp.zeros_like, zero)
    dstate = jax.tree.unflatten(jax.tree.structure(zero), [dlast, *others])
    drows, du, dc = (
        [jnp.zeros((rows, size)) for _ in range(cell.gates)] for rows in (sizes.vocabulary, size, 1)
    )
    sums = dstate, drows, du, dc if c is not None else []
    end = *sums, state, at(states, time - 1), tokens(time - 1)
    _, drows, du, dc, *_ = jax.lax.fori_loop(0, time - begins, backward, end)

    sync()
    pairs = zip(drows, gates("W", sizes.embedding), strict=True)
    dtable = sum((dot(d, w, (1, 1)) for d, w in pairs), jnp.zeros(()))
    put_matrix("table", dtable)
    sync()
    put_gates("W", [dot(table(), d, (0, 0)) for d in drows])
    put_gates("U", du)
    put_gates("b", [jnp.sum(d, axis=0)[None] for d in drows])
    if c is not None:
        put_gates("c", dc)
    put_matrix("bias", dbias)
    return jnp.sum(weights * losses)


def update(
    optimizer: Optimizer,
    quotient: Callable[..., jax.Array],
    own: Mapping[str, Tensor],
    trained: Any,
    gradient: Any,
    settings: Settings,
    place: Any,
) -> None:
    """One step of an optimizer on references to the parameters and their moments.

    Adam is rate m / (sqrt(v) + epsilon), with the corrections of its moments folded into the rate
    and epsilon, and so the factors 1 - decay: m and v are decaying sums here. RMSprop is the same
    without m, SGD without both.
    """
    rate, epsilon, left = (settings.steps[n, place] for n in range(3))
    tiles = gradient.shape[0] // TILE
    factors = clip_factors(optimizer.clip, own, gradient, settings, tiles)

    def one_tile(tile, nothing):
        here = pl.ds(tile * TILE, TILE)
        p, *moments = (ref[here] for ref in trained)
        g = step = factors(tile, gradient[here])
        sums = {}
        for (name, decay), moment in zip(optimizer.decays.items(), moments, strict=True):
            sums[name] = decay * moment + (g if name == "mu" else g * g)
        step = sums.get("mu", g)
        if "nu" in sums:
            step = quotient(step, sums["nu"] + optimizer.root, epsilon)
        p = (left * p if optimizer.weight_decay else p) - rate * step
        for ref, value in zip(trained, (p, *sums.values()), strict=True):
            ref[here] = value
        return nothing

    jax.lax.fori_loop(0, tiles, one_tile, None)


def clip_factors(
    clip: str | None, own: Mapping[str, Tensor], gradient: Any, settings: Settings, tiles: int
) -> Callable[[Any, jax.Array], jax.Array]:
    """A function of a tile and its gradient: that gradient times norm / |g| where |g| > norm."""
    if clip is None:
        return lambda tile, g: g
    each = [(t.start, t.start + t.size) for t in own.values()]
    parts = [(0, gradient.shape[0])] if clip == "global" else each

    def inside(tile, part):
        places = tile * TILE + jax.lax.broadcasted_iota(jnp.int32, (TILE,), 0)
        return (part[0] <= places) & (places < part[1])

    def factor(part):
        def largest(tile, so_far):
            g = jnp.where(inside(tile, part), gradient[pl.ds(tile * TILE, TILE)], 0.0)
            return jnp.maximum(so_far, jnp.max(jnp.abs(g)))

        def squares(tile, so_far):
            g = jnp.where(inside(tile, part), gradient[pl.ds(tile * TILE, TILE)], 0.0)
            return so_far + jnp.sum((g / scale) ** 2)

        scale = jnp.maximum(jax.lax.fori_loop(0, tiles, largest, 0.0), 1e-30)  # no overflow
        size = scale * jnp.sqrt(jax.lax.fori_loop(0, tiles, squares, 0.0))
        return jnp.where(size > settings.norm[0], settings.norm[0] / size, 1.0)

    factors = [factor(part) for part in parts]

    def clipped(tile, g):
        for part, one in zip(parts, factors, strict=True):
            g = g * jnp.where(inside(tile, part), one, 1.0)
        return g

    return clipped


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


def at(refs: Any, t: Any) -> Any:
    """Arrays at position t."""
    return jax.tree.map(lambda ref: ref[t], refs)


def put(refs: Any, t: Any, values: Any) -> None:
    """Write arrays at position t."""
    for ref, value in zip(jax.tree.leaves(refs), jax.tree.leaves(values), strict=True):
        ref[t] = value.astype(ref.dtype)


def launch(
    kernel: Callable[..., None], out: Any, interpret: bool, warps: int = 1
) -> Callable[..., Any]:
    """A kernel as a function of arrays, run by so many warps of 32 threads.

    Its first arguments are a barrier between its threads and x / (sqrt(y) + z), elementwise.
    """
    if interpret:
        own = partial(kernel, lambda: None, lambda x, y, z: x / (jnp.sqrt(y) + z))
        return pl.pallas_call(own, out, interpret=True)
    from jax.experimental.pallas import triton  # which takes as long to load as all our own

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
