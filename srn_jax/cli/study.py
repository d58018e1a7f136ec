"""From settings to answers: runs of one or several variants, with tables, figures and a report."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

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
from srn_jax.runs.loop import RunOptions, run_sweep

VARIANTS_FILE = "variants.csv"


def run_study(configs: Sequence[SweepConfig], folder: Path, options: RunOptions) -> None:
    """Train sweeps that differ in their settings and compare them.

    A single sweep is a run in `folder` itself; several get a folder each below it. All have the
    same lengths and seeds, so comparisons are paired.

    Raises:
        UserError: if a folder holds something else.
    """
    if len(configs) == 1:
        run_and_publish(configs[0], folder, options)
        return
    variants = run_folder.variants_of(configs)
    if jax.process_index() == 0:
        run_folder.check_folders(folder, configs, options.overwrite)
        run_folder.write_study(folder, configs)
    runs = {}
    for number, (name, config) in enumerate(variants.items(), start=1):
        say(f"\nvariant {number} of {len(variants)}: {name}")
        runs[name] = run_and_publish(config, folder / name, options)
    if jax.process_index() == 0:
        write_variants(folder / VARIANTS_FILE, variants, runs)
        say("")
        publish_comparison(folder, runs)


def say(message: str) -> None:
    """Print a line, on the first of several processes alone."""
    if jax.process_index() == 0:
        print(message, flush=True)


def run_and_publish(config: SweepConfig, folder: Path, options: RunOptions) -> Run:
    """One run, and after it its table, figures and report."""
    first = jax.process_index() == 0
    with helper(wanted=first) as process:
        with reporter_for(config) as reporter:
            run = Run(*run_sweep(config, folder, reporter, options))
        paths = [folder / name for name in (RESULTS_FILE, HISTORIES_FILE, CHECKPOINTS_FOLDER)]
        paths += publish(folder, run, process=process) if first else []
    if first:
        results = run.results
        say(f"\n{report.results_table(results)}\n")
        say(f"in {folder}: {', '.join(str(path.relative_to(folder)) for path in paths)}")
        diverged = int(results.diverged.sum())
        if diverged:
            say(f"{diverged} of {len(results)} experiments diverged, see {folder / RESULTS_FILE}")
    return run


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
