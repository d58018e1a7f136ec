"""Training a run: what it lacks is planned as parts, and each is trained from where it stands.

A part advances interval by interval (about a second), so that it can be watched, saved and stopped.
What happens in between touches no number: a run that was interrupted, or that grew, ends with the
same bytes as one that was not.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from srn_jax.analysis.records import Histories
from srn_jax.config import SweepConfig
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.files import digest_of, write_manifest
from srn_jax.phases import Phases
from srn_jax.runs import folder as folders
from srn_jax.runs import outcome, place, settings
from srn_jax.runs.checkpoint import Writer, layout_of
from srn_jax.runs.networks import StoredRun

INTERVAL_SECONDS = 1.0  # between two looks at signals and progress
CHECKPOINT_SECONDS = 30.0  # between two checkpoints, or more where they are dear:
CHECKPOINT_SHARE = 0.02  # of the time may go to them
# Ctrl-C, a cluster's notice, a closed terminal, and what Slurm's --signal sends.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class Interrupted(Exception):
    """The run was asked to stop and has saved its state; `signal` is what asked."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal = signal_number


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; none of this changes its results."""

    overwrite: bool = False
    checkpoint_every: float | None = None  # seconds; None keeps the cost under CHECKPOINT_SHARE
    chunk: int | None = None  # experiments side by side on a device
    kernel: bool | None = None  # train by the kernels for GPUs; None where they suit
    command: str = ""  # what the user typed, for the report


@dataclass(frozen=True)
class Progress:
    """How far a part is, for whoever watches it; its variants stand one after another."""

    block: int
    blocks: int
    step: int  # the last global step taken
    length: np.ndarray  # [experiment]
    train_loss: np.ndarray  # [experiment], the mean of the epoch so far
    dev_accuracy: np.ndarray  # [experiment], after that step
    diverged: np.ndarray  # [experiment]
    histories: Callable[[], Histories]  # of all steps so far


class Reporter(Protocol):
    """What a run tells while it goes on: lines, warnings, and how far it is."""

    def say(self, message: str) -> None: ...  # noqa: D102
    def warn(self, message: str) -> None: ...  # noqa: D102
    def progress(self, progress: Progress) -> None: ...  # noqa: D102


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

    Raises `UserError` if the folder holds another run or is in use, or data have changed; `OSError`
    if the machine fails; `Interrupted`, with the state saved, if a signal stopped it.
    """
    run = StoredRun(folder, {}, live=settings.in_order(configs))
    run.phases = run.phases if phases is None else phases
    with ExitStack() as held:
        stop: list[int] = held.enter_context(stop_requests()) if folder is not None else []
        training = Training(run, reporter, options or RunOptions(), stop)
        training.begin(held)
        left = [n for n, part in enumerate(run.info["parts"]) if not part["finished"]]
        before = run.info["phases"]
        if not left:
            reporter.say(f"{folder} is finished, nothing is left to train")
        for number in left:
            run.before = before
            training.part(number)
        if training.keeps:
            with run.phases("writing"):
                run.keep_results()
        run.keep_phases()
    return run


class Training:
    """The training of a run: its parts one after another, in one or several processes."""

    def __init__(self, run: StoredRun, reporter: Reporter, options: RunOptions, stop: list[int]):
        self.run, self.reporter, self.options, self.stop = run, reporter, options, stop
        first = jax.process_index() == 0  # which alone touches the folder, and knows the results
        self.writes, self.keeps = run.folder is not None and first, run.folder is None or first

    def begin(self, held: ExitStack) -> None:
        """Hold the folder, and write what is to be trained."""
        run, asked = self.run, self.run.configs
        table = settings.table_of(asked)
        place.check_agreement(table, self.options.chunk)
        run.info = place.on_first(lambda: self.planned(table, held))
        self.order(asked)

    def order(self, asked: Sequence[SweepConfig]) -> None:
        """Put the variants in the order of the run file."""
        told = {digest_of(settings.settings_of(one.experiment)): one for one in asked}
        self.run.live = [told[digest_of(variant)] for variant in self.run.info["variants"]]

    def planned(self, table: dict[str, Any], held: ExitStack) -> dict[str, Any]:
        """The run file, which is written, with parts for all that is asked for."""
        run, options, folder, asked = self.run, self.options, self.run.folder, self.run.configs
        info: dict[str, Any] = {"format": settings.FORMAT, "command": options.command, "facts": []}
        info |= {"parts": [], "phases": {}, "seconds": 0.0, "files": {}, "finished": False}
        if folder is not None:
            if not folders.holds_run(folder, options.overwrite):
                outcome.facts_with(asked, run.files)  # what is wrong leaves no folder behind
            folders.make_folder(folder)
            held.enter_context(folders.locked(folder))
            if options.overwrite:
                folders.clear(folder)
            if folders.holds_run(folder):
                run.info = info = folders.read_run(folder)
                table, wrong = settings.grown(info, table)
                if wrong:
                    raise UserError(
                        f"{folder} holds a run with other settings ({'; '.join(wrong)}): ask for "
                        "what it has and more, choose another `folder`, or `overwrite` to lose it"
                    )
                for number, part in enumerate(info["parts"]):
                    try:
                        run.part(number) if part["finished"] else None
                    except UserError as error:
                        self.reporter.warn(f"{error}; it is made again, from its checkpoint")
                        part["finished"] = False
        before, run.info = len(info["parts"]), {**info, **table}
        self.order(asked)
        run.info = settings.with_parts(run.info, run.configs)
        if 0 < before < len(run.info["parts"]):
            run.info["command"] = " && ".join(filter(None, (info["command"], options.command)))
        if not run.info["finished"]:
            run.info["facts"] = outcome.facts_with(run.configs, run.files)
            if folder is not None:
                folders.keep_own_files(folder, asked)
                write_manifest(folder / folders.RUN_FILE, run.info)
        return run.info

    def part(self, number: int) -> None:
        """Train a part from its newest checkpoint to its end, or to a signal, and keep its results.

        Raises `Interrupted`, with its state saved, if a signal came.
        """
        run, say, warn = self.run, self.reporter.say, self.reporter.warn
        part, phases, writer = run.info["parts"][number], run.phases, None
        if self.options.kernel is not None:  # last digits differ, so it goes on as it began
            part["kernel"] = self.options.kernel
        sweep = run.sweep(number, side_by_side=self.options.chunk, kernel=part["kernel"])
        items: dict[str, Any] = {}

        def newest() -> int:
            start = run.restore(number, sweep, warn, True) if self.writes else None
            items.update(start[1] if start else {})
            return start[0] if start else 0

        block = place.on_first(newest)
        by = ", ".join(f"{name}: {len(part[name])}" for name in ("variants", "lengths", "seeds"))
        which = f"part {number + 1} of {len(run.info['parts'])}"
        say(f"{place.devices()}: {len(sweep.experiments)} experiments ({by}), {which}")
        if block < len(sweep.eval_steps):  # or results alone are missing
            layout = outcome.like(sweep)
            if self.writes:
                writer = Writer(run.place(number), run.digest(sweep), layout_of(layout))
            say("compiling")
            with phases("compiling"):
                sweep.compile()
            with phases("drawing data"):
                sweep.prepare()
            if block:
                whole = place.from_first(items or None, layout)
                state, past = outcome.join_state(whole, sweep.state)
                sweep.state, sweep.histories = sweep.scatter(state), sweep.scatter_histories(past)
                done = sweep.eval_steps[block - 1] + 1
                say(f"resumed after {done:,} of {sweep.steps:,} steps")
            if told := "; ".join(place.note(run.info)):
                warn(f"{run.folder} goes on in another place ({told}): other last digits")
            run.keep_phases()
        try:
            if block < len(sweep.eval_steps):
                items = self.advance(sweep, block, writer, part)
            if self.keeps:
                with phases("testing"):
                    results = outcome.collect(sweep, run.files, items)
        finally:  # the last checkpoint is being saved meanwhile
            if writer is not None:
                with phases("checkpoint"):
                    writer.close()
        if self.keeps:
            with phases("writing"):
                run.keep(number, outcome.Kept(*results, None if run.folder else items))

    def advance(
        self, sweep: Sweep, block: int, writer: Writer | None, part: dict[str, Any]
    ) -> dict[str, Any]:
        """Train a part from a block to the end, saving now and then.

        Returns the state as the trees of a checkpoint, which may not be saved yet.
        """
        blocks, stopped_by, items = len(sweep.eval_steps), 0, dict[str, Any]()
        interval, saved_at = 1, time.monotonic()  # interval in blocks
        every, phases, info = self.options.checkpoint_every, self.run.phases, self.run.info
        while block < blocks and not stopped_by:
            began, due = time.monotonic(), False
            last = min(block + interval, blocks)
            with phases("training"):
                sweep.advance(block, last)
                block = last
                self.reporter.progress(look(sweep, block))
            now = time.monotonic()
            if writer is not None and not writer.saving():
                rest = max(CHECKPOINT_SECONDS, writer.cost / CHECKPOINT_SHARE)
                due = now - saved_at > (rest if every is None else every)
            wanted = int(np.clip(interval * INTERVAL_SECONDS / (now - began), 1, 2 * interval))
            stopped_by, save, interval = place.agree(max(self.stop, default=0), due, wanted)
            if save or stopped_by or block == blocks:
                saved_at = time.monotonic()
                with phases("gathering"):
                    histories = sweep.gather_histories()
                    items = outcome.split_state(sweep.gather(sweep.state), histories)
                if writer is not None:
                    writer.save(block, items, saved_at)
            part["seconds"] += time.monotonic() - began
        info["seconds"] = sum(one["seconds"] for one in info["parts"])
        if stopped_by and block < blocks:
            self.run.keep_phases()
            raise Interrupted(stopped_by)
        return items


def look(sweep: Sweep, block: int) -> Progress:
    """How a sweep stands after `block` blocks."""
    step, found = int(sweep.eval_steps[block - 1]), sweep.histories
    epoch = step // sweep.program.steps_an_epoch
    newest = found["epoch_loss"][..., epoch], found["dev_accuracy"][..., block - 1]
    loss, accuracy, diverged = sweep.gather((*newest, sweep.state.diverged))
    lengths = np.array([length for length, _ in sweep.experiments])
    told = block, len(sweep.eval_steps), step, lengths, loss, accuracy, diverged
    return Progress(*told, lambda: outcome.histories_of(sweep, sweep.gather_histories()))


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect signals that ask to stop; a second Ctrl-C leaves at once.

    A signal that is ignored, as SIGHUP is by nohup, stays ignored. Raises `Interrupted` at the end
    if one came and did not stop the training any more.
    """
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            os._exit(128 + number)
        received.append(number)

    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    numbers = [n for n in numbers if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield received
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
    if received:
        raise Interrupted(received[0])
