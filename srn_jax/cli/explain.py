"""From a run's networks, before training, at the best step and at the end, to their explanation."""

import argparse
import shlex
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from srn_jax.analysis import memory
from srn_jax.analysis.explanation import STAGES, Explanation
from srn_jax.analysis.explanation_figures import write_comparison, write_explanation
from srn_jax.analysis.figures import gate_figure
from srn_jax.analysis.look import DEFAULT_LOOK, Look, save_figure
from srn_jax.cells import cell_class
from srn_jax.cli.answers import parse_tokens
from srn_jax.cli.options import called
from srn_jax.errors import UserError, warn
from srn_jax.own_files import own_mistakes
from srn_jax.runs.examine import NothingToExplain, examine
from srn_jax.runs.folder import (
    EXPLANATION_FOLDER,
    check_place,
    make_folder,
    read_configs,
    read_finished,
    read_run,
    runs_in,
)
from srn_jax.runs.restore import Networks, check_trained, find_experiment, restore
from srn_jax.runs.settings import own_paths
from srn_jax.tasks import task_of
from srn_jax.tasks.task import Tokens

FAMILY_NOTE = (
    "The cell is not of the family (`srn_jax.Cell`), so only its hidden states are known: there "
    "are no gradients through time and no Jacobians."
)


def explain_all(given: Path, options: argparse.Namespace, look: Look) -> list[Path]:
    """Explain a run, or each of a folder of variants and all side by side; returns what it wrote.

    Raises `UserError` as `explain`, and for a run that is not finished.
    """
    runs = runs_in(given)
    out = Path(options.out or given / EXPLANATION_FOLDER)
    found: dict[str, Explanation] = {}
    paths: list[Path] = []
    check_place(out)
    for run in runs:
        if not read_run(run)["finished"]:
            again = shlex.join([*called("sweep"), "--resume", str(given)])
            raise UserError(f"{run} is not finished, {again} goes on")
    if len(runs) == 1:
        return explain(runs[0], out, options, look)[1]
    cells = [cell_class(config.experiment.cell) for config in read_configs(given)]
    if options.gates is not None and not any(map(memory.has_gates, cells)):
        raise UserError(f"no cell in {given} has gates to show, leave out --gates")
    for run in runs:
        try:
            found[run.name], written = explain(run, out / run.name, options, look, alone=False)
        except NothingToExplain as error:
            warn(f"{run} is left out: {error}")
            continue
        paths += written
    if not found:
        raise UserError(f"{given}: no run has a trained network, so there is nothing to explain")
    return paths + (write_comparison(found, out, look) if len(found) > 1 else [])


def explain(
    run: Path,
    folder: Path,
    options: argparse.Namespace,
    look: Look = DEFAULT_LOOK,
    alone: bool = True,
) -> tuple[Explanation, list[Path]]:
    """Do for one run what the options of `scripts/explain.py` say; returns also what was written.

    A cell without gates is an error only where the run is alone.

    Raises `UserError` for a run that cannot be explained, and for gates that cannot be shown.
    """
    trained = {which: restore(run, which=which) for which in STAGES[1:]}
    config = trained["best"].config
    gates: dict[str, np.ndarray] = {}
    wanted = alone or memory.has_gates(cell_class(config.experiment.cell))
    if options.gates is not None and wanted:  # what is wrong with the sequence should show now
        with own_mistakes(*own_paths(config)):
            gates, tokens = gates_along(trained["best"], options.gates, options.seed)
    results = read_finished(run, read_run(run)).results
    shown = Progress(transient=True, disable=not sys.stdout.isatty())
    with own_mistakes(*own_paths(config)), shown as bar:
        task = bar.add_task("examining networks", total=None)
        found = examine(
            config,
            {which: networks.parameters for which, networks in trained.items()},
            results.diverged | results.unscored,
            options.threshold,
            options.lengths,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    make_folder(folder)
    notes = [FAMILY_NOTE] if np.isnan(found.gradient).all() else []
    paths = write_explanation(found, folder, task_of(config).question, notes, look)
    for name, values in gates.items():
        figure = gate_figure(name, values, tokens, look)
        paths += save_figure(figure, folder / f"gate_{name}", look)
    return found, paths


def gates_along(
    best: Networks, text: str, seed: int | None
) -> tuple[dict[str, np.ndarray], list[int]]:
    """The gates of the network of a sequence's length along it, `[D, time]` each, and its tokens.

    Raises `UserError` for a sequence, length or seed that cannot be, or a cell without gates.
    """
    config = best.config
    task = task_of(config)
    if not isinstance(task.inputs, Tokens):
        raise UserError("--gates is for tasks of whole numbers, this one has vectors")
    tokens = parse_tokens(text, task.inputs.vocabulary, "--gates")
    try:
        row = find_experiment(config, len(tokens), config.seeds[0] if seed is None else seed)
    except UserError as error:
        raise UserError(f"--gates has {len(tokens)} tokens: {error}") from None
    check_trained(best, row, "best")
    found = memory.gates_of(best.network(row), jnp.asarray(tokens)[None])
    return {name: np.asarray(values) for name, values in found.items()}, tokens.tolist()
