"""The training loop: interval by interval, so that it can be watched, saved and stopped.

It hands over control after every interval (about a second); what happens there - progress,
checkpoints, signals - touches no number, so a run that was interrupted and resumed ends with the
same bytes as one that was not.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from srn_jax.analysis import results
from srn_jax.ensemble.sweep import Sweep
from srn_jax.runs import checkpoint
from srn_jax.runs.checkpoint import check_like, join_state, split_state
from srn_jax.runs.outcome import histories_of
from srn_jax.runs.storage import Checkpoint

INTERVAL_SECONDS = 1.0  # between two looks at signals and progress
CHECKPOINT_SECONDS = 30.0  # between two checkpoints, or more where they are dear:
CHECKPOINT_SHARE = 0.02  # of the time may go to them
COMPILING = "compiling"


@dataclass(frozen=True)
class Progress:
    """How far training is, for whoever watches it.

    Experiments are in the order of their lengths, whatever run they belong to.
    """

    block: int
    blocks: int
    step: int  # the last global step taken
    train_loss: np.ndarray  # [experiment], of that step
    dev_accuracy: np.ndarray  # [experiment], after that step
    diverged: np.ndarray  # [experiment]
    histories: Callable[[], results.Histories]  # of all steps so far, runs one after another


class Reporter(Protocol):
    """What a run tells while it goes on."""

    def say(self, message: str) -> None:
        """A line for the user."""

    def warn(self, message: str) -> None:
        """A line about something that went wrong and did not stop the run."""

    def progress(self, progress: Progress) -> None:
        """Called after every interval."""


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of this changes its results."""

    overwrite: bool = False
    checkpoint_every: float | None = None  # seconds; None keeps the cost under CHECKPOINT_SHARE
    chunk: int | None = None  # experiments side by side on a device
    kernel: bool | None = None  # train by the kernels for GPUs; None where they suit
    command: str = ""  # what the user typed, for the report
    programs: Path | None = None  # where compiled programs are kept; None to trace them anyway


AS_USUAL = RunOptions()


def advance(
    sweep: Sweep,
    block: int,
    writer: checkpoint.Writer,
    reporter: Reporter,
    options: RunOptions,
    stop: list[int],
) -> tuple[list[dict[str, Any]], int]:
    """Train from a block to the end, or to a signal, saving now and then.

    Returns the state of each run, as items of a checkpoint that may not be saved yet, and the
    signal that stopped it, or 0; signals come in `stop`.
    """
    blocks, stopped_by = len(sweep.eval_steps), 0
    items: list[dict[str, Any]] = []
    interval, saved_at = 1, time.monotonic()  # interval in blocks
    try:
        while block < blocks and not stopped_by:
            began = time.monotonic()
            last = min(block + interval, blocks)
            sweep.advance(block, last)
            block = last
            reporter.progress(look(sweep, block))
            now = time.monotonic()
            due = not writer.saving() and now - saved_at > rest(options, writer.cost)
            wanted = int(np.clip(interval * INTERVAL_SECONDS / (now - began), 1, 2 * interval))
            stopped_by, save, interval = agree(max(stop, default=0), due, wanted)
            if save or stopped_by or block == blocks:
                saved_at = time.monotonic()
                items = gather(sweep)
                writer.save(block, items, saved_at)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what matters
            writer.close()
        raise
    return items, stopped_by if block < blocks else 0


def rest(options: RunOptions, cost: float) -> float:
    """Seconds from one checkpoint to the next, each of which costs some."""
    if options.checkpoint_every is not None:
        return options.checkpoint_every
    return max(CHECKPOINT_SECONDS, cost / CHECKPOINT_SHARE)


def gather(sweep: Sweep) -> list[dict[str, Any]]:
    """The state and histories of each run of a group, as items of a checkpoint."""
    histories = jax.tree.map(np.ascontiguousarray, sweep.gather_histories())
    return by_run(sweep, split_state(sweep.gather(sweep.state), histories))


def by_run(sweep: Sweep, arrays: Any) -> list[Any]:
    """A pytree `[experiment, ...]` of a group's sweep, as one for each run."""
    number = len(sweep.configs[0].experiments)
    return [
        jax.tree.map(lambda array, k=k: array[k * number : (k + 1) * number], arrays)
        for k in range(len(sweep.configs))
    ]


def resume(sweep: Sweep, starts: Sequence[Checkpoint]) -> None:
    """Put the checkpoints of a group, which process 0 has, into its sweep."""
    parts = like = gather(sweep)
    if starts:
        parts = [start.items for start in starts]
        for own, wanted in zip(parts, like, strict=True):
            check_like(own, wanted)
    items = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
    if jax.process_count() > 1:
        items = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(items))
    state, histories = join_state(items, sweep.state)
    sweep.state, sweep.histories = sweep.scatter(state), sweep.scatter_histories(histories)


def agree(first: int, *others: int) -> tuple[int, ...]:
    """Make processes decide alike: the largest of `first`, and of the others those of process 0."""
    if jax.process_count() == 1:
        return first, *others
    everyones = multihost_utils.process_allgather(np.array([first, *others]))
    return int(everyones[:, 0].max()), *(int(value) for value in everyones[0, 1:])


@jax.jit
def _newest(loss: Any, accuracy: Any, block: Any, place: Any) -> tuple[Any, Any]:
    """What was recorded last, as one program: indexing from Python is four."""
    return loss[..., block, place], accuracy[..., block]


def look(sweep: Sweep, block: int) -> Progress:
    """How the sweep stands after `block` blocks."""
    place = int((sweep.program.step_of[block - 1] >= 0).sum()) - 1
    losses, accuracies = sweep.histories.steps["train_loss"], sweep.histories.evaluations
    newest = _newest(losses, accuracies["dev_accuracy"], np.int32(block - 1), np.int32(place))
    gathered = sweep.gather((*newest, sweep.state.diverged))
    shape = (len(sweep.configs), len(sweep.configs[0].lengths), -1)
    loss, accuracy, diverged = (
        values.reshape(shape).swapaxes(0, 1).reshape(-1) for values in gathered
    )
    return Progress(
        block=block,
        blocks=len(sweep.eval_steps),
        step=int(sweep.eval_steps[block - 1]),
        train_loss=loss,
        dev_accuracy=accuracy,
        diverged=diverged,
        histories=lambda: histories_of(sweep.program, sweep.experiments, *sweep.gather_histories()),
    )
