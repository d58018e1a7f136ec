"""A whole block of training steps as one GPU kernel, with one program for each experiment.

Look-up, both loops over time, cross-entropy, all gradients and Adam, step after step, in a single
launch: a step by itself is so small that launching its operations is most of its cost. It does what
`experiment.train_step` does for tokens, one answer, cross-entropy and Adam without clipping, with
any cell of the family whose sizes are powers of two. Parameters and moments stay in the memory of
the device between steps, which in practice is its cache. Threads read what others wrote only after
a barrier.

Little of a GPU's arithmetic is used: a program waits, for its own products and for memory. So it
has few threads, that many fit beside each other; loads what a position needs while the one before
is computed; and begins where its own sequences do. On an H200 these three made 1,000 seeds 2.7
times as fast.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.flatten_util import ravel_pytree

from srn_jax.cells import Cell
from srn_jax.cells.kernels import (
    HIDDEN_SIZES,
    Kernels,
    at,
    derivative,
    dot,
    launch,
    like,
    one_step,
    planes,
    put,
    put_planes,
    through,
)
from srn_jax.cells.loops import add_to_output
from srn_jax.cells.planes import Planes
from srn_jax.tasks.task import PADDING, Batches, Task, Tokens

BETAS, EPSILON = (0.9, 0.999), 1e-8
NEVER = -1e9  # bias of a class that does not exist
# Of U, for each warp: their gradient takes 64 registers of a thread. With fewer one experiment is
# faster, with more many are, until the registers spill.
WEIGHTS = 2048


class Settings(NamedTuple):
    """What is not trained."""

    numbers: jax.Array  # [3]: the first step of the block, how many, and where sequences begin
    rate: jax.Array  # [1]
    corrections: jax.Array  # [2, steps]: by which the moments of Adam are multiplied


def applies(program: Any) -> bool:
    """Whether a program that asks for kernels can have its steps as one, not only its loops."""
    config, task, cell = program.config, program.task, program.cell
    return (
        isinstance(program.form, Kernels)
        and issubclass(cell, Cell)
        and {config.hidden_size, config.embedding_size} <= set(HIDDEN_SIZES)
        and isinstance(task.inputs, Tokens)
        and task.answers == 1
        and type(task).loss is Task.loss
        and (config.optimizer, config.clip_norm, config.fresh_data) == ("adam", None, False)
        and not program.probes
    )


def train_block(
    program: Any,
    data: Any,
    mask: jax.Array | None,
    parameters: Any,
    optimizer: Any,
    first: jax.Array,
    last: jax.Array,
) -> tuple[Any, Any, jax.Array]:
    """The training steps first <= step < last of an experiment.

    Args:
        program: an `experiment.Program` to which this applies.
        data: `ExperimentData`, padded.
        mask: `[1, time]` or None.
        parameters: by module and name.
        optimizer: the state of `optimizer.new_optimizer`'s Adam.
        first: scalar.
        last: scalar, at most the places of a block further.

    Returns:
        Parameters, optimizer, and the losses `[place]`, NaN where the block has ended.
    """
    cell, batches = program.cell, data.train
    places, count = program.step_of.shape[1], last - first
    begins = 0 if mask is None else jnp.argmax(mask[0])
    adam, unravel = optimizer[0], ravel_pytree(parameters)[1]
    trained = [padded(parameters, NEVER), *(padded(unravel(m)) for m in (adam.mu, adam.nu))]
    taken = adam.count + 1 + jnp.arange(places)
    settings = Settings(
        numbers=jnp.stack([first, count, begins]).astype(jnp.int32),
        rate=jnp.reshape(jnp.float32(data.hyper.learning_rate), 1),
        corrections=jnp.stack([1 / (1 - jnp.float32(beta) ** taken) for beta in BETAS]),
    )
    _, batch, time = batches.inputs.shape
    rows = max(8, pl.next_power_of_2(batch))
    missing = [(0, 0), (0, rows - batch)]
    filled = Batches(
        jnp.pad(batches.inputs, [*missing, (0, 0)], constant_values=PADDING),
        jnp.pad(batches.targets, missing),
        jnp.pad(batches.weights, missing),
    )
    weights = parameters["cell"]["U"]
    size, warps = len(weights), pl.next_power_of_2(pl.cdiv(weights.size, WEIGHTS))
    hidden = jax.ShapeDtypeStruct((time + 1, rows, size), jnp.float32)
    states = hidden if cell.states == 1 else (hidden,) * cell.states
    kept = None if cell.keeps_state else like(hidden, (time, rows, cell.gates * size))

    def block_kernel(sync, settings_ref, data_ref, start_ref, trained_ref, losses_ref, *scratch):
        jax.tree.map(copy, start_ref, trained_ref)

        def step(place, nothing):
            sync()
            batch = (settings_ref.numbers[0] + place) % len(data_ref.targets)
            network, begins = trained_ref[0], settings_ref.numbers[2]
            loss, gradient = gradients(cell, sync, network, data_ref, batch, begins, *scratch)
            losses_ref[place] = loss
            adam_update(sync, trained_ref, gradient, settings_ref, place)
            return nothing

        jax.lax.fori_loop(0, settings_ref.numbers[1], step, None)

    table = like(hidden, (len(trained[0]["embedding"]["table"]), cell.gates * size))
    out = jax.tree.map(like, trained), like(hidden, (places,)), table, states, kept
    trained, losses, *_ = jax.lax.platform_dependent(
        settings,
        filled,
        trained,
        cpu=launch(block_kernel, out, interpret=True),
        default=launch(block_kernel, out, interpret=False, warps=warps),
    )
    new, mu, nu = (
        jax.tree.map(lambda a, b: a[tuple(map(slice, b.shape))], tree, parameters)
        for tree in trained
    )
    moments = {"mu": ravel_pytree(mu)[0], "nu": ravel_pytree(nu)[0]}
    adam = adam._replace(count=adam.count + count, **moments)
    losses = jnp.where(jnp.arange(places) < count, losses, jnp.nan)
    return new, (adam, *optimizer[1:]), losses


def gradients(
    cell: type[Cell],
    sync: Any,
    parameters: Any,
    data: Any,
    number: Any,
    begins: Any,
    sides: Any,
    states: Any,
    kept: Any,
) -> tuple[jax.Array, Any]:
    """The loss of a batch and its gradient, as functions that give an array for each gate.

    Positions before `begins` are blank. The last three are references to what the kernel writes for
    itself: the input side of every token, `[vocabulary, gates * D]`; s_0..s_T, each `[time + 1,
    batch, D]`; and what the cell keeps, `[time, batch, gates * D]`, or None if that is its state.
    """
    table, output, own = parameters["embedding"]["table"], parameters["output"], parameters["cell"]
    u = planes(cell, own["U"])
    c = planes(cell, own["c"]) if cell.recurrent_bias else None
    targets, weights = data.targets[number], data.weights[number]
    time, classes, vocabulary = data.inputs.shape[2], output["bias"].shape[0], table.shape[0]

    # The input side of every token: embedding @ W + b.
    pairs = zip(planes(cell, own["W"]), planes(cell, own["b"]), strict=True)
    put_planes(sides, Planes([dot(table[...], w) + b for w, b in pairs]))
    sync()

    def tokens(t):
        return data.inputs[number, :, jnp.clip(t, begins, time - 1)].astype(jnp.int32)

    def side(rows):  # of PADDING in place of a row any, since nobody looks at its states
        return list(planes(cell, sides, jnp.maximum(rows, 0)))

    def forward(t, carry):
        state, x, following = carry  # and this loads what the next position needs
        prefetched = side(following), tokens(t + 2)
        new, keeps = one_step(cell, Planes(x), state, u, c, None, t)
        put(states, t + 1, new)
        if kept is not None:
            put_planes(kept, keeps, t)
        return new, *prefetched

    zero = jax.tree.map(lambda ref: jnp.zeros(ref.shape[1:], ref.dtype), states)
    put(states, begins, zero)
    start = zero, side(tokens(begins)), tokens(begins + 1)
    state, *_ = jax.lax.fori_loop(begins, time, forward, start)
    sync()

    hidden = jax.tree.leaves(state)[0]
    logits = dot(hidden, output["kernel"][...]) + output["bias"][...][None]
    right = compare(targets, classes)
    highest = jnp.max(logits, axis=1)
    exponentials = jnp.exp(logits - highest[:, None])
    total = jnp.sum(exponentials, axis=1)
    losses = jnp.log(total) + highest - jnp.sum(right * logits, axis=1)
    dlogits = weights[:, None] * (exponentials / total[:, None] - right)

    def backward(turn, carry):
        total, drows, du, dc, after, before, here = carry
        t = time - 1 - turn
        prefetched = at(states, jnp.maximum(t - 1, begins)), tokens(t - 1)
        keeps = Planes([after]) if cell.keeps_state else planes(cell, kept, t)
        dx, dg, total = derivative(cell, keeps, before, total, u, c, None, t)
        hot, h = compare(here, vocabulary), jax.tree.leaves(before)[0]
        drows = [one + dot(hot, d, (0, 0)) for one, d in zip(drows, dx, strict=True)]
        du = [one + dot(h, d, (0, 0)) for one, d in zip(du, dg, strict=True)]
        if c is not None:
            dc = [one + jnp.sum(d, axis=0) for one, d in zip(dc, dg, strict=True)]
        return total, drows, du, dc, before, *prefetched

    last = add_to_output(zero, dot(dlogits, output["kernel"][...], (1, 1)))
    size = hidden.shape[1]
    nothing = [
        [jnp.zeros(shape, jnp.float32) for _ in range(cell.gates)]
        for shape in ((vocabulary, size), (size, size), (size,))
    ]
    sums = nothing[0], nothing[1], nothing[2] if cell.recurrent_bias else []
    end = last, *sums, state, at(states, time - 1), tokens(time - 1)
    _, drows, du, dc, *_ = jax.lax.fori_loop(0, time - begins, backward, end)

    # Each is computed as it is used, so that registers hold one at a time, but for the table's: it
    # needs W as it was, and that of W the table.
    of_table = through(Planes(drows), planes(cell, own["W"]))
    gradient: dict[str, dict[str, Callable[[], list[jax.Array]]]] = {
        "cell": {
            "U": lambda: du,
            "b": lambda: [jnp.sum(d, axis=0)[None] for d in drows],
            "W": lambda: [dot(table[...], d, (0, 0)) for d in drows],
        },
        "output": {
            "kernel": lambda: [dot(hidden, dlogits, (0, 0))],
            "bias": lambda: [jnp.sum(dlogits, axis=0)],
        },
        "embedding": {"table": lambda: [of_table]},
    }
    if c is not None:
        gradient["cell"]["c"] = lambda: [d[None] for d in dc]
    return jnp.sum(weights * losses), gradient


def adam_update(sync: Any, trained: Any, gradient: Any, settings: Settings, place: Any) -> None:
    """One step of Adam on references to the parameters and their two moments."""
    rate, (first, second) = settings.rate[0], (settings.corrections[n, place] for n in range(2))
    parameters, mu, nu = trained
    for module, tensors in gradient.items():
        for name, gradient_of in tensors.items():
            gates = gradient_of()
            refs = parameters[module][name], mu[module][name], nu[module][name]
            size = refs[0].shape[-1] // len(gates)
            for number, g in enumerate(gates):
                index = (*[slice(None)] * (g.ndim - 1), pl.ds(number * size, size))
                p, m, v = (ref[index] for ref in refs)
                sync()  # before a thread writes what another has still to read
                m = BETAS[0] * m + (1 - BETAS[0]) * g
                v = BETAS[1] * v + (1 - BETAS[1]) * g * g
                p = p - rate * (m * first) / (jnp.sqrt(v * second) + EPSILON)
                for ref, value in zip(refs, (p, m, v), strict=True):
                    ref[index] = value


def copy(source: Any, target: Any) -> None:
    """Copy one reference to another, by as many columns as are a power of two."""
    columns = source.shape[-1] & -source.shape[-1]
    for start in range(0, source.shape[-1], columns):
        target[..., pl.ds(start, columns)] = source[..., pl.ds(start, columns)]


def compare(numbers: Any, classes: int) -> jax.Array:
    """One-hot rows `[batch, classes]`, zero for a negative number."""
    every = jax.lax.broadcasted_iota(jnp.int32, (numbers.shape[0], classes), 1)
    return (numbers[:, None] == every).astype(jnp.float32)


def padded(parameters: Any, never: float = 0.0) -> Any:
    """Parameters with the sides of their tensors as powers of two, where those can differ."""
    table, output = parameters["embedding"]["table"], parameters["output"]
    tokens = max(16, pl.next_power_of_2(len(table))) - len(table)
    classes = max(16, pl.next_power_of_2(len(output["bias"]))) - len(output["bias"])
    return parameters | {
        "embedding": {"table": jnp.pad(table, [(0, tokens), (0, 0)])},
        "output": {
            "kernel": jnp.pad(output["kernel"], [(0, 0), (0, classes)]),
            "bias": jnp.pad(output["bias"], (0, classes), constant_values=never),
        },
    }
