"""Runs that train interval by interval, survive interruption and write their results.

The training loop hands over control after every interval (about a second); what happens there -
progress, checkpoints, signals - touches no number, so a run that was interrupted and resumed ends
with the same bytes as one that was not. Runs whose programs are equal train together, each in a
folder of its own; a single run is a group of one.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from srn_jax.analysis import results
from srn_jax.analysis.results import Run, digest_of, write_histories, write_results
from srn_jax.config import SweepConfig, steps_an_epoch
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.runs import checkpoint
from srn_jax.runs import folder as run_folder
from srn_jax.runs.checkpoint import join_state, split_state
from srn_jax.runs.outcome import collect
from srn_jax.runs.provenance import provenance
from srn_jax.runs.restore import read_data_of
from srn_jax.runs.settings import digest, flat, settings_of
from srn_jax.runs.signals import Interrupted, stop_requests
from srn_jax.tasks import task_of
from srn_jax.tasks.task import facts_of
from srn_jax.training.experiment import Histories, TrainState

INTERVAL_SECONDS = 1.0  # between two looks at signals and progress
CHECKPOINT_SECONDS = 30.0  # between two checkpoints, or more where they are dear:
CHECKPOINT_SHARE = 0.02  # of the time may go to them
COMPILING = "compiling"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "matplotlib", "srn_jax")


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
    command: str = ""  # what the user typed, for the report


class Member(NamedTuple):
    """A run of a group."""

    folder: Path
    config: SweepConfig


def groups_of(members: Sequence[Member]) -> list[list[Member]]:
    """The runs whose programs are equal, so that they can train together."""
    groups: dict[Any, list[Member]] = {}
    for member in members:
        config = member.config
        shared = dataclasses.replace(config, experiment=config.experiment.program)
        groups.setdefault(shared, []).append(member)
    return list(groups.values())


@dataclass
class OpenRun:
    """A run whose folder this process holds."""

    folder: Path
    config: SweepConfig
    info: dict[str, Any]  # the content of its run file
    check: Callable[[], None]  # raises OSError if the folder is no longer the one that is held
    run: Run | None = None  # once it is finished

    def write(self, **changes: Any) -> None:
        """Write the run file, with some of its content changed."""
        self.check()
        self.info |= changes
        run_folder.write_run(self.folder, self.info)


def run_sweep(
    config: SweepConfig, folder: Path | str, reporter: Reporter, options: RunOptions = RunOptions()
) -> Run | None:
    """Train a sweep in a run folder, from its newest checkpoint if it has one; see `run_group`."""
    return run_group([Member(Path(folder), config)], reporter, options)[0]


def run_group(
    members: Sequence[Member], reporter: Reporter, options: RunOptions = RunOptions()
) -> list[Run | None]:
    """Train runs whose programs are equal, each in its folder, from where they can all go on.

    Where they can't go on together, since no block has a checkpoint of each, they train one after
    another.

    Args:
        members: the runs; folders are created if need be.
        reporter: told about progress.
        options: how to carry it out.

    Returns:
        The runs; None in processes other than the first, which alone touches the folders.

    Raises:
        UserError: if a folder holds another run or is in use, or data have changed.
        OSError: if the disk is full or a folder went away.
        Interrupted: if a signal stopped it; its state is saved.
    """
    first = members[0].config
    variants = f" x {len(members)} variants" if len(members) > 1 else ""
    reporter.say(
        f"{describe_devices()}: {counted(len(members) * len(first.experiments), 'experiment')} "
        f"({counted(len(first.lengths), 'length')} x {counted(len(first.seeds), 'seed')}{variants})"
    )
    files = cache(lambda: read_data_of(first))  # read once, and only if there is need
    opened: list[OpenRun] = []
    starts: dict[int, checkpoint.Checkpoint | None] = {}
    together: bool | int = True
    with stop_requests() as stop, ExitStack() as held:
        if jax.process_index() == 0:
            there = [check_member(member, options.overwrite) for member in members]
            if not all(there):
                files()  # what is wrong with them leaves no folder behind
            opened = [held.enter_context(open_run(m, reporter, options)) for m in members]
            going = [number for number, run in enumerate(opened) if run.run is None]
            newest, together = restore_all([opened[n] for n in going], reporter)
            starts = dict(zip(going, newest, strict=True))
        configs = [run.config for run in opened] or [member.config for member in members]
        check_agreement(configs)
        blocks = [(-1 if n not in starts else block_of(starts[n])) for n in range(len(members))]
        together, *blocks = broadcast([together, *blocks])
        going = [number for number, block in enumerate(blocks) if block >= 0]
        for group in [going] if together and going else [[number] for number in going]:
            train(
                [configs[n] for n in group],
                files(),
                [opened[n] for n in group if opened],
                [starts[n] for n in group if opened],
                blocks[group[0]],
                reporter,
                options,
                stop,
            )
    return [run.run for run in opened] or [None] * len(members)


def check_member(member: Member, overwrite: bool) -> bool:
    """Whether its folder holds the run already; raises `UserError` if it holds something else."""
    return run_folder.check_folder(member.folder, settings_of(member.config), overwrite)


@contextmanager
def open_run(member: Member, reporter: Reporter, options: RunOptions) -> Iterator[OpenRun]:
    """Hold the folder of a run, which is begun if it is not there; a finished one is read."""
    folder, config = member
    run_folder.make_folder(folder)
    with run_folder.locked(folder) as check:
        if options.overwrite:
            run_folder.clear(folder)
        if not check_member(member, overwrite=False):
            run_folder.write_run(folder, describe_run(config, options.command))
        info = run_folder.read_run(folder)
        run_folder.keep_own_files(folder, config)
        stored = run_folder.config_in(folder, info["settings"])
        if config.data is not None and stored.data is not None:  # old runs knew less of their data
            data = dataclasses.replace(stored.data, path=config.data.path)
            config = dataclasses.replace(config, data=data)
        run = OpenRun(folder, config, info, check)
        if info["finished"]:
            try:
                run.run = run_folder.read_finished(folder, info)
                reporter.say(f"{folder} is finished, nothing is left to train")
            except UserError as error:
                reporter.warn(f"{error}; its results come from its checkpoint again")
                run.write(finished=False)
        yield run


def restore_all(
    runs: Sequence[OpenRun], reporter: Reporter
) -> tuple[list[checkpoint.Checkpoint | None], bool]:
    """Where each run goes on, and whether they can do so together."""
    if not runs:
        return [], True
    folders = [run.folder for run in runs]
    starts, together = checkpoint.restore_together(folders, reporter.warn, set_aside=True)
    for run, start in zip(runs, starts, strict=True):
        if start is not None:
            run_folder.check_settings(run.folder, start.settings, run.info["settings"])
    return starts, together


def block_of(start: checkpoint.Checkpoint | None) -> int:
    """How many blocks of training are behind it."""
    return start.block if start else 0


def train(
    configs: Sequence[SweepConfig],
    files: Mapping[int, Any] | None,
    runs: Sequence[OpenRun],
    starts: Sequence[checkpoint.Checkpoint | None],
    block: int,
    reporter: Reporter,
    options: RunOptions,
    stop: list[int],
) -> None:
    """Train a group from a block to the end, or to a signal, and write what each run leaves.

    Args:
        configs: its sweeps.
        files: their data, where they are not drawn.
        runs: the runs, whose folders this process holds; empty in other processes.
        starts: their checkpoints after `block` blocks, None for all at the start.
        block: how many blocks are behind them.
        reporter: told about progress.
        options: how to carry it out.
        stop: the signals that have come.
    """
    began, spent = time.monotonic(), [run.info["seconds"] for run in runs]

    def keep_time() -> None:
        for run, seconds in zip(runs, spent, strict=True):
            run.write(seconds=seconds + time.monotonic() - began)

    try:
        reporter.say(COMPILING)
        sweep = Sweep(configs, files, options.chunk)
        trained = block < len(sweep.eval_steps)
        if block:
            resume(sweep, starts)
            done = sweep.eval_steps[block - 1] + 1
            if trained:
                reporter.say(f"resumed after {done:,} of {sweep.steps:,} steps")
        items, stopped_by = advance(sweep, block, runs, reporter, options, stop)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what matters
            keep_time()
        raise
    keep_time()
    if stopped_by:
        raise Interrupted(stopped_by)
    for run, own in zip(runs, items, strict=bool(runs)):
        finish(run, files, own, trained)


def advance(
    sweep: Sweep,
    block: int,
    runs: Sequence[OpenRun],
    reporter: Reporter,
    options: RunOptions,
    stop: list[int],
) -> tuple[list[dict[str, Any]], int]:
    """Train to the end, saving now and then; the state of each run, and what signal stopped it."""
    blocks, stopped_by = len(sweep.eval_steps), 0

    def check() -> None:
        for run in runs:
            run.check()

    settings = [run.info["settings"] for run in runs]
    writer = checkpoint.Writer([run.folder for run in runs], settings, check)
    items = None if block < blocks else gather(sweep)
    interval, saved_at = 1, time.monotonic()  # interval in blocks
    while block < blocks and not stopped_by:
        began = time.monotonic()
        last = min(block + interval, blocks)
        sweep.advance(block, last)
        block = last
        reporter.progress(look(sweep, block))
        now = time.monotonic()
        due = bool(runs) and not writer.saving() and now - saved_at > rest(options, writer)
        wanted = int(np.clip(interval * INTERVAL_SECONDS / (now - began), 1, 2 * interval))
        stopped_by, save, interval = agree(max(stop, default=0), due, wanted)
        if save or stopped_by or block == blocks:
            saved_at = time.monotonic()
            items = gather(sweep)
            if runs:
                writer.save(block, items, saved_at)
    writer.close()
    return items or [], stopped_by if block < blocks else 0


def gather(sweep: Sweep) -> list[dict[str, Any]]:
    """The state and histories of each run of a group, as items of a checkpoint."""
    histories = jax.tree.map(np.ascontiguousarray, sweep.gather_histories())
    items = split_state(sweep.gather(sweep.state), histories)
    number = len(sweep.configs[0].experiments)
    return [
        jax.tree.map(lambda array, k=k: array[k * number : (k + 1) * number], items)
        for k in range(len(sweep.configs))
    ]


def resume(sweep: Sweep, starts: Sequence[checkpoint.Checkpoint | None]) -> None:
    """Put the checkpoints of a group, which process 0 has, into its sweep."""
    number = len(sweep.configs[0].experiments)

    def empty(rows: int) -> tuple[TrainState, Histories]:
        def zeros(array: Any, *shape: int) -> np.ndarray:
            return np.zeros((rows, *(shape or array.shape[2:])), array.dtype)

        steps = jax.tree.map(lambda a: zeros(a, sweep.steps), sweep.histories.steps)
        evaluations = jax.tree.map(zeros, sweep.histories.evaluations)
        return jax.tree.map(zeros, sweep.state), Histories(steps, evaluations)

    like = empty(number)
    joined = [join_state(start.items, like) for start in starts if start is not None]
    if joined:
        arrays = jax.tree.map(lambda *parts: np.concatenate(parts), *joined)
    else:
        arrays = empty(number * len(sweep.configs))
    if jax.process_count() > 1:
        arrays = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(arrays))
    state, histories = arrays
    sweep.state, sweep.histories = sweep.scatter(state), sweep.scatter_histories(histories)


def finish(
    run: OpenRun, files: Mapping[int, Any] | None, items: Mapping[str, Any], trained: bool
) -> None:
    """Write the results of a run, and with their digests that it is finished."""
    table, histories = collect(run.config, files, items)
    run.check()
    paths = [write_results(table, run.folder), write_histories(histories, run.folder)]
    if trained:
        run.info["device"] = describe_devices()
    digests = {path.name: digest(path.read_bytes()) for path in paths}
    run.write(files=digests, task=describe_task(run.config, files), finished=True)
    run.run = Run(table, histories, run.info)


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


def broadcast(values: Sequence[int]) -> tuple[int, ...]:
    """The values of process 0, on every process."""
    return agree(0, *values)[1:]


def check_agreement(configs: Sequence[SweepConfig]) -> None:
    """Raise `UserError` in a process that was started with other settings than process 0."""
    own = int(digest_of([flat(settings_of(config)) for config in configs])[:7], 16)
    if broadcast([own])[0] != own:
        raise UserError(
            f"process {jax.process_index()} has other settings, data or files than process 0: "
            "start all with the same command"
        )


def look(sweep: Sweep, block: int) -> Progress:
    """How the sweep stands after `block` blocks."""
    place = int((sweep.program.step_of[block - 1] >= 0).sum()) - 1
    histories = sweep.histories
    gathered = sweep.gather(
        (
            histories.steps["train_loss"][..., block - 1, place],
            histories.evaluations["dev_accuracy"][..., block - 1],
            sweep.state.diverged,
        )
    )
    shape = (len(sweep.configs), len(sweep.configs[0].lengths), -1)
    loss, accuracy, diverged = (
        values.reshape(shape).swapaxes(0, 1).reshape(-1) for values in gathered
    )
    step = int(sweep.eval_steps[block - 1])

    def everything() -> results.Histories:
        lengths, seeds = (np.array(column) for column in zip(*sweep.experiments, strict=True))
        epoch = steps_an_epoch(sweep.program.config, sweep.program.train_examples)
        recorded = sweep.gather_histories()
        return results.Histories(lengths, seeds, sweep.eval_steps, *recorded, epoch)

    return Progress(block, len(sweep.eval_steps), step, loss, accuracy, diverged, everything)


def describe_run(config: SweepConfig, command: str) -> dict[str, Any]:
    """The content of a new run's file."""
    return {
        "settings": settings_of(config),
        "command": command,
        "device": describe_devices(),
        **provenance(),
        "versions": {name: version_of(name) for name in PACKAGES}
        | {"python": sys.version.split()[0]},
        "seconds": 0.0,
        "finished": False,
    }


def describe_task(config: SweepConfig, files: Mapping[int, Any] | None) -> dict[str, Any]:
    """What the run file keeps of the task, for those who show results."""
    facts = facts_of(task_of(config))
    if files is not None:
        number = len(files[config.lengths[0]].test)
        facts = dataclasses.replace(facts, test_examples=number, fixed_data=True)
    return dataclasses.asdict(facts)


def counted(number: int, word: str) -> str:
    """`1 seed`, `8 seeds`."""
    return f"{number} {word}{'s' * (number != 1)}"


def describe_devices() -> str:
    """Kind and number of the devices, as in `2 x cpu` or `8 x TPU v5 lite`."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def version_of(package: str) -> str:
    """The installed version of a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
