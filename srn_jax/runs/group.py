"""Runs that train together: each in a folder of its own, in one program; a single run is a group.

Process 0 alone touches the folders. What it refuses ends the others before anyone trains.
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax

from srn_jax.analysis.results import (
    Histories,
    Results,
    Run,
    digest_of,
    write_histories,
    write_results,
)
from srn_jax.config import SweepConfig
from srn_jax.ensemble.compiling import code_and_versions
from srn_jax.ensemble.sweep import Sweep
from srn_jax.errors import UserError
from srn_jax.runs import folder as run_folder
from srn_jax.runs.checkpoint import Writer, restore_together
from srn_jax.runs.folder import OpenRun
from srn_jax.runs.loop import (
    AS_USUAL,
    COMPILING,
    Reporter,
    RunOptions,
    advance,
    agree,
    by_run,
    resume,
)
from srn_jax.runs.origin import as_begun, note_place
from srn_jax.runs.outcome import collect
from srn_jax.runs.provenance import describe_devices, provenance
from srn_jax.runs.restore import read_data_of
from srn_jax.runs.settings import digest, flat, settings_of
from srn_jax.runs.signals import Interrupted, stop_requests
from srn_jax.tasks import task_of
from srn_jax.tasks.task import facts_of
from srn_jax.training.experiment import program_of

KERNEL = (None, False, True)  # of `RunOptions`, by the numbers that processes exchange


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


def run_sweep(
    config: SweepConfig, folder: Path | str, reporter: Reporter, options: RunOptions = AS_USUAL
) -> Run | None:
    """Train a sweep in a run folder, from its newest checkpoint if it has one; see `run_group`."""
    return run_group([Member(Path(folder), config)], reporter, options)[0]


def run_group(
    members: Sequence[Member], reporter: Reporter, options: RunOptions = AS_USUAL
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
    runs = [OpenRun(*member) for member in members]
    together: bool | int = True
    with stop_requests() as stop, ExitStack() as held:
        if jax.process_index() == 0:
            there = [
                run_folder.check_folder(own, settings_of(config), options.overwrite)
                for own, config in members
            ]
            if not all(there):
                files()  # what is wrong with them leaves no folder behind
            for folder, _ in members:
                run_folder.make_folder(folder)
            # All before any is changed: one may be in use.
            locks = [held.enter_context(run_folder.locked(folder)) for folder, _ in members]
            runs = [
                open_run(member, lock, reporter, options)
                for member, lock in zip(members, locks, strict=True)
            ]
            together = restore_all([run for run in runs if run.run is None], reporter)
            options = as_begun(options, runs, reporter)
        check_agreement([run.config for run in runs], options)
        blocks = [-1 if run.run else run.start.block if run.start else 0 for run in runs]
        kernel = KERNEL.index(options.kernel)
        _, together, kernel, *blocks = agree(0, together, kernel, *blocks)  # as process 0 found it
        options = dataclasses.replace(options, kernel=KERNEL[kernel])
        going = [number for number, block in enumerate(blocks) if block >= 0]
        for group in [going] if together and going else [[number] for number in going]:
            own = [runs[number] for number in group]
            train(own, blocks[group[0]], files(), reporter, options, stop)
    return [run.run for run in runs]


def open_run(
    member: Member, lock: os.stat_result, reporter: Reporter, options: RunOptions
) -> OpenRun:
    """A run whose folder is held; it is begun if it is not there, and read if it is finished."""
    folder, config = member
    if options.overwrite:
        run_folder.clear(folder)
    settings = settings_of(config)
    if not run_folder.check_folder(folder, settings):
        about = {"settings": settings, "command": options.command, **provenance()}
        about |= {"kernel": options.kernel, "seconds": 0.0, "finished": False}
        run_folder.write_run(folder, about)
    info = run_folder.read_run(folder)
    run_folder.keep_own_files(folder, config)
    stored = run_folder.config_in(folder, info["settings"])
    if config.data is not None and stored.data is not None:  # old runs knew less of their data
        data = dataclasses.replace(stored.data, path=config.data.path)
        config = dataclasses.replace(config, data=data)
    run = OpenRun(folder, config, info, lock)
    if info["finished"]:
        try:
            run.run = run_folder.read_finished(folder, info)
            reporter.say(f"{folder} is finished, nothing is left to train")
        except UserError as error:
            reporter.warn(f"{error}; its results come from its checkpoint again")
            run.write(finished=False)
    return run


def restore_all(runs: Sequence[OpenRun], reporter: Reporter) -> bool:
    """Find where each run goes on; returns whether they can do so together."""
    if not runs:
        return True
    folders = [run.folder for run in runs]
    starts, together = restore_together(folders, reporter.warn, set_aside=True)
    for run, start in zip(runs, starts, strict=True):
        run.start = start
        if start is not None:
            run_folder.check_settings(run.folder, start.settings, run.info["settings"])
    return together


def train(
    runs: Sequence[OpenRun],
    block: int,
    files: Mapping[int, Any] | None,
    reporter: Reporter,
    options: RunOptions,
    stop: list[int],
) -> None:
    """Train a group from a block to the end, or to a signal, and write what each run leaves."""
    held = runs if jax.process_index() == 0 else []
    starts = [run.start for run in runs if run.start is not None]
    items = [start.items for start in starts]
    tests: list[Any] = [None] * len(runs)
    writer = Writer(held)
    blocks = len(program_of(runs[0].config, files=files).eval_steps)
    if block < blocks:  # or results alone are missing
        began = time.monotonic()
        reporter.say(COMPILING)
        configs = [run.config for run in runs]
        sweep = Sweep(configs, files, options.chunk, options.kernel, options.programs)
        if block:
            resume(sweep, starts)
            done = sweep.eval_steps[block - 1] + 1
            reporter.say(f"resumed after {done:,} of {sweep.steps:,} steps")
        note_place(held, block, reporter)
        items, stopped_by = advance(sweep, block, writer, reporter, options, stop)
        if stopped_by:
            writer.close()
        for run in held:
            seconds = run.info["seconds"] + time.monotonic() - began
            run.write(seconds=seconds)
        if stopped_by:
            raise Interrupted(stopped_by)
        tests = by_run(sweep, sweep.gather((sweep.data.test, sweep.data.overlap)))
    try:  # while the last checkpoint is being saved
        outcomes = [
            collect(run.config, files, own, test)
            for run, own, test in zip(held, items, tests, strict=bool(held))
        ]
    finally:
        writer.close()
    for run, outcome in zip(held, outcomes, strict=True):
        finish(run, files, *outcome)


def finish(
    run: OpenRun, files: Mapping[int, Any] | None, table: Results, histories: Histories
) -> None:
    """Write the results of a run, and with their digests that it is finished."""
    config, facts = run.config, facts_of(task_of(run.config))
    if files is not None:
        number = len(files[config.lengths[0]].test)
        facts = dataclasses.replace(facts, test_examples=number, fixed_data=True)
    run.check()
    paths = [write_results(table, run.folder), write_histories(histories, run.folder)]
    digests = {path.name: digest(path.read_bytes()) for path in paths}
    run.write(files=digests, task=dataclasses.asdict(facts), finished=True)
    run.run = Run(table, histories, run.info)


def check_agreement(configs: Sequence[SweepConfig], options: RunOptions) -> None:
    """Raise `UserError` in a process that would train something else than process 0."""
    settings = [flat(settings_of(config)) for config in configs]
    for told, what, advice in (
        ([settings, options.chunk], "settings, data or files", "with the same command"),
        (code_and_versions(), "code or libraries", "from the same version with the same libraries"),
    ):
        own = int(digest_of(told)[:7], 16)
        if agree(0, own)[1] != own:
            raise UserError(
                f"process {jax.process_index()} has other {what} than process 0: start all {advice}"
            )


def counted(number: int, word: str) -> str:
    """`1 seed`, `8 seeds`."""
    return f"{number} {word}{'s' * (number != 1)}"
