"""From settings to answers: runs of one or several variants, with tables, figures and a report."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill

import jax
import numpy as np

from srn_jax.analysis import report
from srn_jax.analysis.drawing import Helper
from srn_jax.analysis.memory import gates_of, has_gates
from srn_jax.analysis.results import HISTORIES_FILE, RESULTS_FILE, Results, Run, write_atomically
from srn_jax.analysis.tables import csv_table
from srn_jax.cells import cell_class
from srn_jax.cli.progress import WIDTH, reporter_for
from srn_jax.cli.publish import attempt, publish, publish_comparison
from srn_jax.config import SweepConfig
from srn_jax.runs import folder as run_folder
from srn_jax.runs.checkpoint import CHECKPOINTS_FOLDER
from srn_jax.runs.group import Member, groups_of, run_group
from srn_jax.runs.loop import RunOptions
from srn_jax.runs.more_seeds import add_seeds
from srn_jax.runs.restore import restore_network
from srn_jax.runs.settings import shown_settings, variants_of
from srn_jax.runs.trial import try_out
from srn_jax.tasks import task_of

VARIANTS_FILE = "variants.csv"
GATES_SEQUENCE = (6, 7, 0, 0, 1, 0, 0, 0, 0, 0)  # of the textbook's figure 6.13


def run_study(
    configs: Sequence[SweepConfig],
    folder: Path,
    options: RunOptions,
    helpers: Sequence[Helper] = (),
    textbook: bool = False,
) -> dict[str, Run]:
    """Train sweeps that differ in their settings and compare them; returns the runs by name.

    A single sweep is a run in `folder` itself; several get a folder each below it. All have the
    same lengths and seeds, so comparisons are paired. A helper draws half of the figures. With
    `textbook`, what is printed is what the textbook's program prints.

    Raises:
        UserError: if a folder holds something else.
    """
    for config in configs:
        try_out(config, options.kernel)
    if len(configs) == 1:
        return run_and_publish([Member(folder, configs[0])], options, helpers, textbook)
    variants = variants_of(configs)
    if jax.process_index() == 0:
        run_folder.check_folders(folder, configs, options.overwrite)
        run_folder.check_free([folder / name for name in variants])
        if options.overwrite:  # what is told of the variants that were compared
            shutil.rmtree(folder / run_folder.EXPLANATION_FOLDER, ignore_errors=True)
        run_folder.write_study(folder, configs)
    runs: dict[str, Run] = {}
    for group in groups_of([Member(folder / name, own) for name, own in variants.items()]):
        names = ", ".join(member.folder.name for member in group)
        say(f"\n{'variants' if len(group) > 1 else 'variant'} {names}")
        runs |= run_and_publish(group, options, helpers, textbook)
    if jax.process_index() == 0:
        runs = {name: runs[name] for name in variants}
        write_variants(folder / VARIANTS_FILE, variants, runs)
        say("")
        publish_comparison(folder, runs)
    return runs


def begin_with_more_seeds(
    run: Path, configs: Sequence[SweepConfig], folder: Path, options: RunOptions
) -> None:
    """Train the seeds that a finished run, or variants, lack; `run_study` then does the rest."""
    if len(configs) > 1:
        run_folder.write_study(folder, configs)
    for old, config in zip(run_folder.runs_in(run), configs, strict=True):
        own = folder / old.name if len(configs) > 1 else folder
        with reporter_for(config) as reporter:
            add_seeds(old, config, own, reporter, options)


def say(message: str) -> None:
    """Print a line, on the first of several processes alone."""
    if jax.process_index() == 0:
        print(message, flush=True)


def run_and_publish(
    members: Sequence[Member],
    options: RunOptions,
    helpers: Sequence[Helper] = (),
    textbook: bool = False,
) -> dict[str, Run]:
    """Runs that train together, and after them the table, figures and report of each."""
    done = {}
    with reporter_for(members[0].config, textbook) as reporter:
        runs = run_group(members, reporter, options)
    for (folder, own), run in zip(members, runs, strict=True):
        if run is not None:  # another process publishes it
            done[folder.name] = run
            gates = partial(draw_gates, folder, own, run.results)
            meanwhile = partial(attempt, "the gates could not be drawn", gates, asked=False)
            publish_run(folder, run, helpers, meanwhile)
            for line in closing_lines(run, own) if textbook else ():
                say(line)
    return done


def publish_run(
    folder: Path, run: Run, helpers: Sequence[Helper], meanwhile: Callable[[], None]
) -> None:
    """Publish a run and say what its folder holds; for the rest see `publish`."""
    paths = [folder / name for name in (RESULTS_FILE, HISTORIES_FILE, CHECKPOINTS_FOLDER)]
    paths += publish(folder, run, None, helpers, meanwhile)
    results = run.results
    say(f"\n{report.results_table(results)}\n")
    names = ", ".join(str(path.relative_to(folder)) for path in paths)
    say(fill(f"in {folder}: {names}", WIDTH, break_long_words=False, break_on_hyphens=False))
    diverged = int(results.diverged.sum())
    if diverged:
        say(f"{diverged} of {len(results)} experiments diverged, see {folder / RESULTS_FILE}")
    if results.unscored.any():
        say(fill(report.unscored_note(results), WIDTH))


def closing_lines(run: Run, config: SweepConfig) -> list[str]:
    """What the textbook's program prints at its end, of each length's first seed."""
    results, cell = run.results, config.experiment.cell.upper()
    return [
        f"[{cell}] length:{results.length[row]}, dev_score: {results.best_dev_accuracy[row]}, "
        f"test_score: {results.test_accuracy[row]: .5f}"
        for row in np.unique(results.length, return_index=True)[1]
    ]


def draw_gates(folder: Path, config: SweepConfig, results: Results) -> None:
    """Draw figure 6.13 of a run whose cell has gates to show and which has the textbook's length.

    They are the gates of the first network that was trained, along the textbook's sequence.
    """
    vocabulary, length = getattr(task_of(config).inputs, "vocabulary", 0), len(GATES_SEQUENCE)
    shown = has_gates(cell_class(config.experiment.cell)) and vocabulary > max(GATES_SEQUENCE)
    seeds = results.seed[(results.length == length) & ~np.isnan(results.best_dev_accuracy)]
    if not shown or not len(seeds):
        return
    from srn_jax.analysis.figures import gate_figure
    from srn_jax.analysis.look import save_figure

    (folder / "figures").mkdir(exist_ok=True)
    network = restore_network(folder, length, int(seeds[0]))
    for name, values in gates_of(network, np.array([GATES_SEQUENCE])).items():
        figure = gate_figure(name, np.asarray(values), GATES_SEQUENCE)
        save_figure(figure, folder / "figures" / f"6.13_{name}")


def write_variants(
    path: Path, variants: Mapping[str, SweepConfig], runs: Mapping[str, Run]
) -> None:
    """Write the rows of all variants as one tidy CSV, with a column for each setting."""
    columns = [field.name for field in dataclasses.fields(Results)]
    rows = []
    for name, config in variants.items():
        settings, results = shown_settings(config.experiment), runs[name].results
        for row in zip(*(getattr(results, column).tolist() for column in columns), strict=True):
            rows.append({"variant": name, **settings, **dict(zip(columns, row, strict=True))})
    write_atomically(path, csv_table(rows).encode())
