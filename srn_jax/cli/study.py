"""From settings to answers: runs of one or several variants, with tables, figures and a report."""

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from srn_jax.analysis import report
from srn_jax.analysis.results import (
    HISTORIES_FILE,
    RESULTS_FILE,
    Histories,
    Results,
    read_histories,
    read_results,
    write_atomically,
    write_log,
)
from srn_jax.cli.progress import reporter_for
from srn_jax.config import SweepConfig
from srn_jax.errors import UserError, warn
from srn_jax.runs import folder as run_folder
from srn_jax.runs.checkpoint import CHECKPOINTS_FOLDER, join_state, restore
from srn_jax.runs.loop import RunOptions, run_sweep

VARIANTS_FILE = "variants.csv"
COMPARISON_FILE = "comparison.md"


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
    results = {}
    for number, (name, config) in enumerate(variants.items(), start=1):
        say(f"\nvariant {number} of {len(variants)}: {name}")
        results[name] = run_and_publish(config, folder / name, options)
    if jax.process_index() == 0:
        write_variants(folder / VARIANTS_FILE, variants, results)
        say("")
        publish_comparison(folder, results)


def say(message: str) -> None:
    """Print a line, on the first of several processes alone."""
    if jax.process_index() == 0:
        print(message, flush=True)


def run_and_publish(config: SweepConfig, folder: Path, options: RunOptions) -> Results:
    """One run, and after it its table, figures and report."""
    with reporter_for(config) as reporter:
        results, histories, info = run_sweep(config, folder, reporter, options)
    if jax.process_index() == 0:
        paths = [folder / name for name in (RESULTS_FILE, HISTORIES_FILE, CHECKPOINTS_FOLDER)]
        paths += publish(folder, results, histories, info)
        say(f"\n{report.results_table(results)}\n")
        say(f"in {folder}: {', '.join(str(path.relative_to(folder)) for path in paths)}")
        diverged = int(results.diverged.sum())
        if diverged:
            say(f"{diverged} of {len(results)} experiments diverged, see {folder / RESULTS_FILE}")
    return results


def publish(
    folder: Path, results: Results, histories: Histories, info: Mapping[str, Any]
) -> list[Path]:
    """Draw the figures and write the report and the log of a run; returns the files and folders.

    A figure that cannot be drawn costs neither the results nor the report.
    """
    pictures: list[Path] = []

    def draw() -> None:
        from srn_jax.analysis.figures import save_figures

        pictures.extend(save_figures(folder, results, histories))

    attempt("the figures could not be drawn", draw)
    log = write_log(histories, folder)
    shown = [path.relative_to(folder) for path in pictures if path.suffix == ".png"]
    text = report.run_report({**info, "config": info.get("settings", {})}, results, shown)
    write_atomically(folder / run_folder.REPORT_FILE, text.encode())
    return [*([folder / "figures"] if pictures else []), folder / run_folder.REPORT_FILE, log]


def attempt(complaint: str, action: Callable[[], None]) -> None:
    """Do what must not cost more than itself when it fails; say so if it does."""
    try:
        action()
    except Exception as error:  # Matplotlib and file systems fail in many ways
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        say(f"warning: {complaint} ({reason}); the results are safe")


def publish_comparison(folder: Path, named: Mapping[str, Results]) -> None:
    """Print, draw and write the comparison of several runs."""
    run_folder.check_place(folder)
    table = report.comparison_table(named)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / COMPARISON_FILE]

    def draw() -> None:
        from srn_jax.analysis.figures import comparison_figure, save_figure

        (folder / "figures").mkdir(exist_ok=True)
        paths.extend(save_figure(comparison_figure(named), folder / "figures" / "comparison"))

    attempt("the comparison could not be drawn", draw)
    text = report.comparison_report(named, [path.relative_to(folder) for path in paths[1:]])
    write_atomically(paths[0], text.encode())
    say(f"{table}\n\nwritten: {', '.join(map(str, paths))}")


def write_variants(
    path: Path, variants: Mapping[str, SweepConfig], named: Mapping[str, Results]
) -> None:
    """Write the rows of all variants as one tidy CSV, with a column for each setting."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = [field.name for field in dataclasses.fields(Results)]
    for name, config in variants.items():
        settings = dataclasses.asdict(config.experiment)
        if text.tell() == 0:
            writer.writerow(["variant", *settings, *columns])
        for row in zip(*(getattr(named[name], c).tolist() for c in columns), strict=True):
            writer.writerow([name, *settings.values(), *row])
    write_atomically(path, text.getvalue().encode())


def load_run(folder: Path) -> tuple[Results, Histories, dict[str, Any]]:
    """Results, histories and run file of a run folder, also of a run that is still going on.

    Of a run that has not ended, they are those of its newest checkpoint.

    Raises:
        UserError: if there is nothing to read yet.
    """
    info = run_folder.read_run(folder)
    config = run_folder.config_of(info["settings"])
    if info["finished"]:
        results, histories = read_results(folder), read_histories(folder)
        check_experiments(folder / RESULTS_FILE, results, config)
        check_experiments(folder / HISTORIES_FILE, histories, config)
        return results, histories, info
    newest = restore(folder, warn=warn)
    if newest is None:
        raise UserError(f"{folder}: this run has no checkpoint yet, wait for its first")
    run_folder.check_settings(folder, newest.settings, info["settings"])
    from srn_jax.ensemble.sweep import Sweep
    from srn_jax.runs.outcome import collect

    run_folder.check_data(config, info["settings"].get("data_sha256"))
    sweep = Sweep(config)
    like = sweep.gather(sweep.state)
    sweep.state = sweep.scatter(join_state(newest.items, like))
    return *collect(sweep), info


def check_experiments(path: Path, table: Results | Histories, config: SweepConfig) -> None:
    """Raise `UserError` if a file's experiments are not exactly those of its sweep."""
    lengths, seeds = zip(*config.experiments, strict=True)
    if (table.length.tolist(), table.seed.tolist()) != ([*lengths], [*seeds]):
        raise UserError(f"{path}: its experiments are not those of the run")


def short_names(runs: Sequence[Path]) -> list[str]:
    """Names that tell runs apart: the last part of each path, or all of it where two share that."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]
