"""From settings to answers: runs of one or several variants, with tables, figures and a report."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from srn_jax.analysis import report
from srn_jax.analysis.drawing import helper
from srn_jax.analysis.results import (
    HISTORIES_FILE,
    RESULTS_FILE,
    Results,
    Run,
    write_atomically,
)
from srn_jax.cli.progress import reporter_for
from srn_jax.cli.publish import publish, publish_comparison
from srn_jax.config import SweepConfig
from srn_jax.runs import folder as run_folder
from srn_jax.runs.checkpoint import CHECKPOINTS_FOLDER
from srn_jax.runs.loop import Member, RunOptions, groups_of, run_group
from srn_jax.runs.settings import variants_of
from srn_jax.runs.trial import try_out

VARIANTS_FILE = "variants.csv"


def run_study(configs: Sequence[SweepConfig], folder: Path, options: RunOptions) -> None:
    """Train sweeps that differ in their settings and compare them.

    A single sweep is a run in `folder` itself; several get a folder each below it. All have the
    same lengths and seeds, so comparisons are paired.

    Raises:
        UserError: if a folder holds something else.
    """
    for config in configs:
        try_out(config)
    if len(configs) == 1:
        run_and_publish({folder.name: Member(folder, configs[0])}, options)
        return
    variants = {
        name: Member(folder / name, config) for name, config in variants_of(configs).items()
    }
    if jax.process_index() == 0:
        run_folder.check_folders(folder, configs, options.overwrite)
        run_folder.write_study(folder, configs)
    runs: dict[str, Run] = {}
    for group in groups_of([*variants.values()]):
        named = {name: member for name, member in variants.items() if member in group}
        say(f"\n{'variants' if len(named) > 1 else 'variant'} {', '.join(named)}")
        runs |= run_and_publish(named, options)
    if jax.process_index() == 0:
        runs = {name: runs[name] for name in variants}
        write_variants(folder / VARIANTS_FILE, dict(zip(variants, configs, strict=True)), runs)
        say("")
        publish_comparison(folder, runs)


def say(message: str) -> None:
    """Print a line, on the first of several processes alone."""
    if jax.process_index() == 0:
        print(message, flush=True)


def run_and_publish(members: Mapping[str, Member], options: RunOptions) -> dict[str, Run]:
    """Runs that train together, and after them the table, figures and report of each."""
    config = next(iter(members.values())).config
    done = {}
    with helper(wanted=jax.process_index() == 0) as process:
        with reporter_for(config) as reporter:
            runs = run_group([*members.values()], reporter, options)
        for (name, (folder, _)), run in zip(members.items(), runs, strict=True):
            if run is not None:  # another process publishes it
                done[name] = run
                publish_run(folder, run, process)
    return done


def publish_run(folder: Path, run: Run, process: Any) -> None:
    """Publish a run and say what its folder holds."""
    paths = [folder / name for name in (RESULTS_FILE, HISTORIES_FILE, CHECKPOINTS_FOLDER)]
    paths += publish(folder, run, process=process)
    results = run.results
    say(f"\n{report.results_table(results)}\n")
    say(f"in {folder}: {', '.join(str(path.relative_to(folder)) for path in paths)}")
    diverged = int(results.diverged.sum())
    if diverged:
        say(f"{diverged} of {len(results)} experiments diverged, see {folder / RESULTS_FILE}")


def write_variants(
    path: Path, variants: Mapping[str, SweepConfig], runs: Mapping[str, Run]
) -> None:
    """Write the rows of all variants as one tidy CSV, with a column for each setting."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = [field.name for field in dataclasses.fields(Results)]
    for name, config in variants.items():
        settings = dataclasses.asdict(config.experiment)
        if text.tell() == 0:
            writer.writerow(["variant", *settings, *columns])
        for row in zip(*(getattr(runs[name].results, c).tolist() for c in columns), strict=True):
            writer.writerow([name, *settings.values(), *row])
    write_atomically(path, text.getvalue().encode())
