"""One run: a sweep that trains interval by interval, survives interruption and writes its results.

The training loop hands over control after every interval (about a second); what happens there -
progress, checkpoints, signals - touches no number, so a run that was interrupted and resumed ends
with the same bytes as one that was not.
"""

import signal
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from srn_jax.analysis.results import Histories, Results, write_histories, write_results
from srn_jax.config import SweepConfig
from srn_jax.ensemble.sweep import Sweep
from srn_jax.runs import checkpoint
from srn_jax.runs import folder as run_folder
from srn_jax.runs.outcome import collect
from srn_jax.runs.signals import Interrupted, stop_requests

INTERVAL_SECONDS = 1.0  # between two looks at signals and progress
CHECKPOINT_SECONDS = 30.0  # between two checkpoints, or more where they are dear:
CHECKPOINT_SHARE = 0.02  # of the time may go to them
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "matplotlib", "srn_jax")


@dataclass(frozen=True)
class Progress:
    """How far a sweep is, for whoever watches it."""

    block: int
    blocks: int
    step: int  # the last global step taken
    train_loss: np.ndarray  # [experiment], of that step
    dev_accuracy: np.ndarray  # [experiment], after that step
    diverged: np.ndarray  # [experiment]


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
    command: str = ""  # what the user typed, for the report


def run_sweep(
    config: SweepConfig,
    folder: Path,
    reporter: Reporter,
    options: RunOptions = RunOptions(),
) -> tuple[Results, Histories, dict[str, Any]]:
    """Train a sweep in a run folder, from its newest checkpoint if it has one.

    Args:
        config: the sweep.
        folder: the run folder, created if need be.
        reporter: told about progress.
        options: how to carry it out.

    Returns:
        Results, histories, and the content of the run file.

    Raises:
        UserError: if the folder holds another run or is in use.
        OSError: if the disk is full or the folder went away.
        Interrupted: if a signal stopped it; its state is saved.
    """
    reporter.say(
        f"{describe_devices()}: {len(config.experiments)} experiments "
        f"({len(config.lengths)} lengths x {len(config.seeds)} seeds)"
    )
    with stop_requests() as stop:
        if jax.process_index() != 0:  # process 0 alone touches the folder
            results, histories, _ = train(config, reporter, options, None, None, stop)
            return results, histories, {}
        settings = run_folder.settings_of(config)
        run_folder.check_folder(folder, settings, options.overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        with run_folder.locked(folder) as check_lock:
            if options.overwrite:
                run_folder.clear(folder)
            if not run_folder.check_folder(folder, settings):
                run_folder.write_run(folder, describe_run(settings, options.command))
            info = run_folder.read_run(folder)
            newest = checkpoint.restore(folder, warn=reporter.warn)
            if newest is not None:
                run_folder.check_settings(folder, newest.settings, settings)
            checkpoint.tidy(folder, newest)
            writer = checkpoint.Writer(folder, settings, check_lock)
            began = time.monotonic()
            try:
                results, histories, trained = train(config, reporter, options, writer, newest, stop)
            finally:
                writer.close()
                check_lock()
                info["seconds"] = info.get("seconds", 0) + time.monotonic() - began
                run_folder.write_run(folder, info)
            write_results(results, folder)
            write_histories(histories, folder)
            info["finished"] = True
            if trained:
                info["device"] = describe_devices()
            run_folder.write_run(folder, info)
            return results, histories, info


def train(
    config: SweepConfig,
    reporter: Reporter,
    options: RunOptions,
    writer: checkpoint.Writer | None,
    newest: checkpoint.Checkpoint | None,
    stop: list[int],
) -> tuple[Results, Histories, bool]:
    """Train from a checkpoint, or the start, to the end; the last value is whether it trained."""
    sweep = Sweep(config, options.chunk)
    blocks = len(sweep.eval_steps)
    block = resume(sweep, newest)
    if block:
        reporter.say(f"resumed after {sweep.eval_steps[block - 1] + 1:,} of {sweep.steps:,} steps")
    trained = block < blocks
    interval, saved_at = 1, time.monotonic()  # interval in blocks
    while block < blocks:
        began = time.monotonic()
        last = min(block + interval, blocks)
        sweep.advance(block, last)
        block = last
        reporter.progress(look(sweep, block))
        now = time.monotonic()
        due = writer is not None and not writer.saving() and now - saved_at > rest(options, writer)
        wanted = int(np.clip(interval * INTERVAL_SECONDS / (now - began), 1, 2 * interval))
        stopped_by = max(*stop, signal.SIGTERM * preemption_announced(block), 0)
        stopped_by, save, interval = agree(stopped_by, due, wanted)
        if save or stopped_by or block == blocks:
            state = sweep.gather(sweep.state)
            if writer is not None:
                writer.save(block, state)
            saved_at = now
        if stopped_by and block < blocks:
            raise Interrupted(stopped_by)
    return *collect(sweep), trained


def resume(sweep: Sweep, newest: checkpoint.Checkpoint | None) -> int:
    """Put a checkpoint's state, if there is one, into the sweep; returns the blocks behind it."""
    block = agree(newest.block if newest else 0)[0]
    if block:
        state = sweep.gather(sweep.state)
        if newest:
            state = checkpoint.join_state(newest.items, like=state)
        if jax.process_count() > 1:
            state = multihost_utils.broadcast_one_to_all(state)
        sweep.state = sweep.scatter(jax.tree.map(np.asarray, state))
    return block


def preemption_announced(block: int) -> bool:
    """Whether the machine will be taken away, as Cloud TPU announces it for Spot machines.

    Needs JAX's distributed runtime (`--distributed`); every process asks after the same blocks.
    """
    return bool(multihost_utils.reached_preemption_sync_point(block))


def rest(options: RunOptions, writer: checkpoint.Writer) -> float:
    """Seconds from one checkpoint to the next."""
    if options.checkpoint_every is not None:
        return options.checkpoint_every
    return max(CHECKPOINT_SECONDS, writer.cost / CHECKPOINT_SHARE)


def agree(first: int, *others: int) -> tuple[int, ...]:
    """Make processes decide alike: the largest of `first`, and of the others those of process 0."""
    if jax.process_count() == 1:
        return first, *others
    everyones = multihost_utils.process_allgather(np.array([first, *others]))
    return int(everyones[:, 0].max()), *(int(value) for value in everyones[0, 1:])


def look(sweep: Sweep, block: int) -> Progress:
    """How the sweep stands after `block` blocks."""
    step = int(sweep.eval_steps[block - 1])
    state = sweep.state
    loss, accuracy, diverged = sweep.gather(
        (state.train_loss[..., step], state.dev_accuracy[..., block - 1], state.diverged)
    )
    return Progress(block, len(sweep.eval_steps), step, loss, accuracy, diverged)


def describe_run(settings: dict[str, Any], command: str) -> dict[str, Any]:
    """The content of a new run's file."""
    return {
        "settings": settings,
        "command": command,
        "device": describe_devices(),
        "versions": {name: version_of(name) for name in PACKAGES}
        | {"python": sys.version.split()[0]},
        "seconds": 0.0,
        "finished": False,
    }


def describe_devices() -> str:
    """Kind and number of the devices, as in `2 x cpu` or `8 x TPU v5 lite`."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def version_of(package: str) -> str:
    """The installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
