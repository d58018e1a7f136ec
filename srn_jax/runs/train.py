"""Training a run: what it lacks is planned as parts, and each is trained from where it stands.

A part advances interval by interval (about a second), so that it can be watched, saved and stopped.
What happens in between touches no number: a run that was interrupted, or that grew, ends with the
same bytes as one that was not.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srn_jax.config import SweepConfig
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.files import digest_of, read_written
from srn_jax.phases import Phases
from srn_jax.runs import place
from srn_jax.runs.checkpoint import layout_of
from srn_jax.runs.folder import (
    RESULTS_FILE,
    clear,
    holds_run,
    keep_own_files,
    locked,
    make_folder,
    read_run,
    write_run,
)
from srn_jax.runs.networks import Kept, StoredRun
from srn_jax.runs.outcome import (
    collect,
    facts_with,
    join_state,
    like,
    split_state,
)
from srn_jax.runs.processes import agree, check_agreement, from_first, on_first
from srn_jax.runs.reporting import COMPILING, Progress, Reporter, describe, look
from srn_jax.runs.settings import grown, in_order, settings_of, table_of
from srn_jax.runs.signals import Interrupted, stop_requests
from srn_jax.runs.table import FORMAT, facts_as_json, with_parts
from srn_jax.runs.writer import Writer

INTERVAL_SECONDS = 1.0  # between two looks at signals and progress
CHECKPOINT_SECONDS = 30.0  # between two checkpoints, or more where they are dear:
CHECKPOINT_SHARE = 0.02  # of the time may go to them
__all__ = ["COMPILING", "Interrupted", "Progress", "Reporter", "RunOptions", "train_run"]


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of this changes its results."""

    overwrite: bool = False
    checkpoint_every: float | None = None  # seconds; None keeps the cost under CHECKPOINT_SHARE
    chunk: int | None = None  # experiments side by side on a device
    kernel: bool | None = None  # train by the kernels for GPUs; None where they suit
    command: str = ""  # what the user typed, for the report


@dataclass
class Training:
    """What the training of a run is told, and where it stands."""

    run: StoredRun
    reporter: Reporter
    options: RunOptions
    phases: Phases
    stop: list[int]  # signals that came

    @property
    def writes(self) -> bool:
        """Whether this process touches the folder."""
        return self.run.folder is not None and jax.process_index() == 0


def train_run(
    configs: Sequence[SweepConfig],
    folder: Path | None,
    reporter: Reporter,
    options: RunOptions | None = None,
    phases: Phases | None = None,
) -> StoredRun:
    """Make a run, go on with it, or let it grow.

    What is asked for must include what a run in the folder has. Its parts stay as they are, those
    that are half done go on, and experiments that are missing become new parts.

    Args:
        configs: the variants, which differ in `experiment` alone.
        folder: of the run, made if need be; None keeps all of it in memory.
        reporter: told about progress.
        options: how to carry it out.
        phases: of this process so far; those of the run are added.

    Returns:
        The run; in processes other than the first, which alone touches the folder, without results.

    Raises:
        UserError: if the folder holds another run or is in use, or data have changed.
        OSError: if the machine fails; what the folder held is there then.
        Interrupted: if a signal stopped it; its state is saved.
    """
    options, phases = options or RunOptions(), Phases() if phases is None else phases
    configs = in_order(configs)
    run = StoredRun(folder, {}, live=configs)
    with ExitStack() as held:
        stop: list[int] = held.enter_context(stop_requests()) if folder is not None else []
        training = Training(run, reporter, options, phases, stop)
        check_agreement(configs, options.chunk)
        run.info = on_first(lambda: begin(training, held))
        run.live = by_settings(configs, run.info["variants"])
        run.before = run.info["phases"]
        left = [n for n, part in enumerate(run.info["parts"]) if not part["finished"]]
        if not left:
            reporter.say(f"{folder} is finished, nothing is left to train")
        for number in left:
            train_part(training, number)
        if not run.info["finished"] and (training.writes or folder is None):
            with phases("writing"):
                run.keep_results()
        if left:
            run.keep_phases(phases)
    return run


def by_settings(configs: Sequence[SweepConfig], variants: Sequence[Any]) -> list[SweepConfig]:
    """The configurations of variants, of which the settings are known, in their order."""
    told = {digest_of(settings_of(config.experiment)): config for config in configs}
    return [told[digest_of(settings)] for settings in variants]


def begin(training: Training, held: ExitStack) -> dict[str, Any]:
    """Hold the folder, and write what is to be trained; returns what the run file holds."""
    run, options = training.run, training.options
    configs, folder, table = run.configs, run.folder, table_of(run.configs)
    info: dict[str, Any] = {"format": FORMAT, "command": options.command, "facts": []}
    info |= {"parts": [], "phases": {}, "seconds": 0.0, "files": {}, "finished": False}
    if folder is not None:
        if not holds_run(folder, options.overwrite):
            facts_with(configs, run.files)  # what is wrong leaves no folder behind
        make_folder(folder)
        held.enter_context(locked(folder))
        if options.overwrite:
            clear(folder)
        if holds_run(folder):
            info = read_run(folder)
            table, wrong = grown(info, table)
            if wrong:
                raise UserError(
                    f"{folder} holds a run with other settings ({'; '.join(wrong)}): ask for what "
                    "it has and more, choose another `folder`, or `overwrite` to lose that run"
                )
            run.info = info
            check_scores(training)
    run.live = by_settings(configs, table["variants"])
    new = with_parts({**info, **table}, run.live)
    if info["parts"] and len(new["parts"]) > len(info["parts"]):
        new["command"] = " && ".join(filter(None, (info["command"], options.command)))
    if not new["finished"]:
        new["facts"] = facts_as_json(facts_with(run.live, run.files))
        if folder is not None:
            keep_own_files(folder, configs)
            write_run(folder, new)
    return new


def check_scores(training: Training) -> None:
    """Take what is finished in a run as unfinished where its files are damaged."""
    run, info = training.run, training.run.info
    for number, part in enumerate(info["parts"]):
        try:
            run.part(number) if part["finished"] else None
        except UserError as error:
            training.reporter.warn(f"{error}; its results come from its checkpoint again")
            part["finished"] = info["finished"] = False
    if info["finished"] and run.folder is not None:
        try:
            read_written(run.folder / RESULTS_FILE, info["files"].get(RESULTS_FILE, ""))
        except UserError as error:
            training.reporter.warn(f"{error}; it is written again")
            info["finished"] = False


def train_part(training: Training, number: int) -> None:
    """Train a part from its newest checkpoint to its end, or to a signal, and keep its results."""
    run, phases, part = training.run, training.phases, training.run.info["parts"][number]
    kernel = form_of(training, number)
    sweep = run.sweep(number, side_by_side=training.options.chunk, kernel=kernel)
    items: dict[str, Any] = {}

    def newest() -> int:
        if not training.writes:
            return 0
        start = run.restore(number, sweep, warn=training.reporter.warn, set_aside=True)
        items.update({} if start is None else start.items)
        return 0 if start is None else start.block

    block, blocks = on_first(newest), len(sweep.eval_steps)
    training.reporter.say(describe(sweep, part, number, len(run.info["parts"])))
    writer = None
    if block < blocks:  # or results alone are missing
        if training.writes:
            writer = Writer(run.place(number), run.digest(number), layout_of(like(sweep)))
        training.reporter.say(COMPILING)
        with phases("compiling"):
            sweep.compile()
        with phases("drawing data"):
            sweep.prepare()
        if block:
            resume(sweep, items)
            done = sweep.eval_steps[block - 1] + 1
            training.reporter.say(f"resumed after {done:,} of {sweep.steps:,} steps")
        if told := place.note(run.info, number, place.here()):
            told_of = f"{run.folder} goes on in another place ({'; '.join(told)})"
            training.reporter.warn(f"{told_of}: other last digits")
        run.keep_phases(phases)
        items = advance(training, sweep, block, writer, number)
    if training.writes or run.folder is None:
        try:
            with phases("testing"):
                results = collect(sweep, run.files, items)
        finally:  # the last checkpoint is being saved meanwhile
            if writer is not None:
                with phases("checkpoint"):
                    writer.close()
        with phases("writing"):
            run.keep(number, Kept(*results, None if run.folder else items))


def form_of(training: Training, number: int) -> bool | None:
    """The form of the loops for a part: that in which it, or the run, began, unless one is asked.

    Results differ between the forms in their last digits.
    """
    parts, asked = training.run.info["parts"], training.options.kernel
    begun = parts[number if parts[number]["places"] else 0]["kernel"]
    kernel = begun if asked is None else asked
    on_gpu = jax.default_backend() == "gpu"  # elsewhere None means no kernels
    if parts[number]["places"] and kernel != begun and (kernel or begun or on_gpu):
        form = f"`kernel` {str(kernel).lower()}"
        training.reporter.warn(f"{training.run.folder} goes on with {form}: it began without that")
    parts[number]["kernel"] = kernel
    return kernel


def advance(
    training: Training, sweep: Sweep, block: int, writer: Writer | None, number: int
) -> dict[str, Any]:
    """Train from a block to the end, saving now and then.

    Returns the state as the trees of a checkpoint, which may not be saved yet. Raises
    `Interrupted`, with its state saved, if a signal came.
    """
    blocks, stopped_by, items = len(sweep.eval_steps), 0, dict[str, Any]()
    interval, saved_at = 1, time.monotonic()  # interval in blocks
    phases, part, began_all = training.phases, training.run.info["parts"][number], time.monotonic()
    before = part["seconds"]
    try:
        while block < blocks and not stopped_by:
            began = time.monotonic()
            last = min(block + interval, blocks)
            with phases("training"):
                sweep.advance(block, last)
                block = last
                training.reporter.progress(look(sweep, block))
            now = time.monotonic()
            due = False
            if writer is not None and not writer.saving():
                due = now - saved_at > rest(training.options, writer.cost)
            wanted = int(np.clip(interval * INTERVAL_SECONDS / (now - began), 1, 2 * interval))
            stopped_by, save, interval = agree(max(training.stop, default=0), due, wanted)
            if save or stopped_by or block == blocks:
                saved_at = time.monotonic()
                with phases("gathering"):
                    items = gather(sweep)
                if writer is not None:
                    writer.save(block, items, saved_at)
    except BaseException:
        with suppress(OSError):  # what went wrong first is what matters
            if writer is not None:
                writer.close()
        raise
    part["seconds"] = before + time.monotonic() - began_all
    training.run.info["seconds"] = sum(one["seconds"] for one in training.run.info["parts"])
    if stopped_by and block < blocks:
        if writer is not None:
            writer.close()
        training.run.keep_phases(phases)
        raise Interrupted(stopped_by)
    return items


def rest(options: RunOptions, cost: float) -> float:
    """Seconds from one checkpoint to the next, each of which costs some."""
    if options.checkpoint_every is not None:
        return options.checkpoint_every
    return max(CHECKPOINT_SECONDS, cost / CHECKPOINT_SHARE)


def gather(sweep: Sweep) -> dict[str, Any]:
    """State and histories as the trees of a checkpoint."""
    histories = {name: np.ascontiguousarray(a) for name, a in sweep.gather_histories().items()}
    return split_state(sweep.gather(sweep.state), histories)


def resume(sweep: Sweep, items: dict[str, Any]) -> None:
    """Put a checkpoint, which process 0 has, into a sweep."""
    whole = from_first(items or None, like(sweep))
    state, histories = join_state(whole, sweep.state)
    sweep.state, sweep.histories = sweep.scatter(state), sweep.scatter_histories(histories)
