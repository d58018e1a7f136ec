"""What is kept of the steps and evaluations of ONE experiment, thinned before it is stored.

On a device a history of steps is `[block, place]`, since a block is what runs at once; outside it
is a row. Neither is carried through the loop over steps: a block's own record is, `[place]`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.training.probes import LOSS
from srn_jax.training.program import Program

Histories = dict[str, Any]  # arrays by name, NaN for what is not reached yet
PROBE = "probe."  # begins the names of what probes record


def empty_histories(program: Program, names: Any) -> Histories:
    """Histories of an experiment that has not begun, in which `names` are recorded of a step."""
    blocks = len(program.eval_steps)
    shapes = {"dev_loss": (blocks,), "dev_accuracy": (blocks,)}
    shapes[LOSS] = kept_places(program).shape
    shapes["epoch_loss"] = (epochs(program) + spanned(program) - 1,)
    shapes |= {PROBE + name: (blocks, program.places) for name in names if name != LOSS}
    return {name: jnp.full(shape, jnp.nan, jnp.float32) for name, shape in sorted(shapes.items())}


def with_block(
    program: Program,
    histories: Histories,
    block: jax.Array,
    recorded: dict[str, jax.Array],
    evaluated: dict[str, jax.Array],
) -> Histories:
    """Histories with what a block has recorded of its steps, `[place]` each, and its evaluation."""
    places = jnp.asarray(kept_places(program))[block]
    kept = jnp.where(places < 0, jnp.nan, recorded[LOSS][jnp.maximum(places, 0)])
    entries = {LOSS: kept, **evaluated}
    entries |= {PROBE + name: row for name, row in recorded.items() if name != LOSS}
    new = {name: histories[name].at[block].set(entry) for name, entry in entries.items()}
    new["epoch_loss"] = with_epochs(program, histories["epoch_loss"], block, recorded[LOSS])
    return new


def with_epochs(
    program: Program, means: jax.Array, block: jax.Array, losses: jax.Array
) -> jax.Array:
    """Mean losses of epochs, `[epoch]`, with those of a block: a mean of the steps taken so far."""
    size, span = program.steps_an_epoch, spanned(program)
    start, end = (jnp.asarray(ends)[block] for ends in (program.starts, program.eval_steps))
    first, before = start // size, start % size
    losses = jnp.where(start + jnp.arange(len(losses)) <= end, losses, 0)
    room = jnp.zeros(span * size + len(losses), losses.dtype)
    room = jax.lax.dynamic_update_slice(room, losses, (before,))
    sums = jnp.sum(room[: span * size].reshape(span, size), axis=1)
    reached = jnp.clip(end + 1 - (first + jnp.arange(span)) * size, 0, size)  # steps in each epoch
    earlier = jnp.where(jnp.arange(span) == 0, before, 0)
    old = jax.lax.dynamic_slice(means, (first,), (span,))
    sums = sums + jnp.where(earlier > 0, old * earlier, 0)
    new = jnp.where(reached > earlier, sums / jnp.maximum(reached, 1), old)
    return jax.lax.dynamic_update_slice(means, new, (first,))


def as_rows(program: Program, packed: Histories) -> dict[str, np.ndarray]:
    """Histories of many experiments, `[experiment, ...]` each, as rows in the order of steps."""
    rows = {}
    for name, array in packed.items():
        if name == "epoch_loss":
            array = array[:, : epochs(program)]
        elif array.ndim > 2:
            array = array[:, _taken(program, name)]
        rows[name] = array
    return rows


def as_blocks(program: Program, rows: dict[str, np.ndarray]) -> Histories:
    """The inverse of `as_rows`."""
    packed = {}
    for name, array in rows.items():
        if name == "epoch_loss":
            missing = [(0, 0), (0, spanned(program) - 1)]
            array = np.pad(array, missing, constant_values=np.nan)
        elif name not in ("dev_loss", "dev_accuracy"):
            taken = _taken(program, name)
            blocks = np.full((len(array), *taken.shape), np.nan, np.float32)
            blocks[:, taken] = array
            array = blocks
        packed[name] = np.asarray(array, np.float32)
    return packed


def _taken(program: Program, name: str) -> np.ndarray:
    """Where a history `[block, place]` has a value, by the end."""
    return (kept_places(program) if name == LOSS else program.step_of) >= 0


def kept_places(program: Program) -> np.ndarray:
    """The places of a block whose training losses are kept, `[block, kept]`; -1 where fewer are."""
    of_block = np.searchsorted(program.eval_steps, program.loss_steps)
    number = np.bincount(of_block, minlength=len(program.eval_steps))
    place = np.full((len(number), max(1, number.max())), -1, np.int32)
    nth = np.arange(len(of_block)) - np.concatenate([[0], np.cumsum(number)[:-1]])[of_block]
    place[of_block, nth] = program.loss_steps - program.starts[of_block]
    return place


def epochs(program: Program) -> int:
    """Epochs of an experiment, of which the last may end early."""
    return -(-program.steps // program.steps_an_epoch)


def spanned(program: Program) -> int:
    """The epochs that a block takes part in, at most."""
    size = program.steps_an_epoch
    return int((program.eval_steps // size - program.starts // size).max()) + 1
