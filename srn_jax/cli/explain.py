"""From a run's networks, before training, at the best step and at the end, to their explanation."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from srn_jax.analysis import memory
from srn_jax.analysis.explanation import BEST, STAGES, Explanation
from srn_jax.analysis.explanation_figures import write_comparison, write_explanation
from srn_jax.analysis.figures import gate_figure
from srn_jax.analysis.look import DEFAULT_LOOK, Look, save_figure
from srn_jax.cli.answers import parse_tokens
from srn_jax.config import SweepConfig
from srn_jax.ensemble.sweep import as_fraction, map_experiments, pad_splits
from srn_jax.errors import UserError
from srn_jax.runs.folder import read_finished, read_run, runs_in
from srn_jax.runs.outcome import program_in
from srn_jax.runs.restore import find_experiment, read_data_of, restore
from srn_jax.tasks import task_of
from srn_jax.tasks.task import Dataset, Tokens, draw_dataset
from srn_jax.training import experiment
from srn_jax.training.experiment import Program
from srn_jax.training.model import Parameters, hyperparameters_of, network_with

SHOWN = 8  # test sequences along which Jacobians are taken
FAMILY_NOTE = (
    "The cell is not of the family (`srn_jax.Cell`), so only its hidden states are known: there "
    "are no gradients through time and no Jacobians."
)


def explain_all(given: Path, options: argparse.Namespace, look: Look) -> list[Path]:
    """Explain a run, or each of a folder of variants and all side by side; returns what it wrote.

    Raises `UserError` as `explain`.
    """
    runs = runs_in(given)
    out = Path(options.out or given / "explanation")
    found: dict[str, Explanation] = {}
    paths: list[Path] = []
    for run in runs:
        folder = out if len(runs) == 1 else out / run.name
        found[run.name], written = explain(run, folder, options, look)
        paths += written
    return paths + (write_comparison(found, out, look) if len(runs) > 1 else [])


def explain(
    run: Path, folder: Path, options: argparse.Namespace, look: Look = DEFAULT_LOOK
) -> tuple[Explanation, list[Path]]:
    """Do for one run what the options of `scripts/explain.py` say; returns also what was written.

    Raises `UserError` for a run that is not finished or cannot be explained, and for gates that
    cannot be shown.
    """
    info = read_run(run)
    if not info["finished"]:
        raise UserError(f"{run} is not finished, python scripts/sweep.py --resume {run} goes on")
    trained = {which: restore(run, which=which) for which in STAGES[1:]}
    config = trained["best"].config
    gates: dict[str, np.ndarray] = {}
    if options.gates is not None:  # what is wrong with the sequence should show now
        gates, tokens = gates_along(config, trained["best"].parameters, options.gates, options.seed)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("examining networks", total=None)
        found = examine(
            config,
            {which: networks.parameters for which, networks in trained.items()},
            read_finished(run, info).results.diverged,
            options.threshold,
            options.lengths,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    notes = [FAMILY_NOTE] if np.isnan(found.gradient).all() else []
    paths = write_explanation(found, folder, task_of(config).question, notes, look)
    for name, values in gates.items():
        figure = gate_figure(name, values, tokens, look)
        paths += save_figure(figure, folder / f"gate_{name}", look)
    return found, paths


def examine(
    config: SweepConfig,
    trained: dict[str, Parameters],
    diverged: np.ndarray,
    threshold: float,
    lengths: Sequence[int] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Explanation:
    """Examine all networks of a sweep that did not diverge, each on the data of its own seed.

    Args:
        config: the sweep.
        trained: its "best" and "last" parameters, `[experiment, ...]`.
        diverged: `[experiment]`; these are left out.
        threshold: test accuracy above which a network is a solver.
        lengths: networks of these lengths alone; None for all.
        report: told how many examinations are done, and of how many.

    Raises:
        UserError: for a length that the sweep does not have, or nothing but diverged experiments.
    """
    chosen = list(dict.fromkeys(lengths or config.lengths))
    for length in chosen:
        find_experiment(config, length, config.seeds[0])
    every, seeds = (np.array(column) for column in zip(*config.experiments, strict=True))
    rows = np.concatenate([np.flatnonzero((every == n) & ~diverged) for n in chosen])
    if not rows.size:
        raise UserError("every experiment diverged, so there is no network to explain")
    files = read_data_of(config)
    program = program_in(config, files)
    done, total = 0, len(rows) * (len(STAGES) + len(chosen))

    def mapped(function: Any, *arrays: Any) -> Any:
        nonlocal done
        before, done = done, done + len(jax.tree.leaves(arrays)[0])
        return map_experiments(function, *arrays, done=lambda n: report(before + n, total))

    unseen = np.empty((len(rows), len(chosen)))
    parts: list[dict[str, np.ndarray]] = []
    for column, length in enumerate(chosen):
        splits = None if files is None else pad_splits(files[length], length)
        start, material, names = draw(config, program, length, seeds[rows], splits)
        answers = material.test.targets[0, 0].size
        evaluate = partial(experiment.evaluate, program)
        accuracy = mapped(evaluate, take(trained["best"], rows), material.test)[1]
        unseen[:, column] = as_fraction(accuracy, len(material.test.targets[0]) * answers)
        own = np.flatnonzero(every[rows] == length)
        if not own.size:
            continue
        material = take(material, own)
        classes = memory.number_of_classes(material.train_labels, material.test_labels)
        stages = [take(start, own), *(take(trained[name], rows[own]) for name in STAGES[1:])]
        found = mapped(
            partial(memory.analyse, program, classes, SHOWN),
            jax.tree.map(lambda *arrays: np.concatenate(arrays), *stages),
            jax.tree.map(lambda array: np.concatenate([array] * len(STAGES)), material),
        )
        found["accuracy"] = as_fraction(found["accuracy"], len(material.test.targets[0]) * answers)
        parts.append({k: a.reshape(len(STAGES), -1, *a.shape[1:]) for k, a in found.items()})
    joined = {name: join([part[name] for part in parts]) for name in parts[0]}
    return Explanation(
        length=every[rows],
        seed=seeds[rows],
        targets=np.array(names),
        chance=joined.pop("chance")[BEST],
        is_answer=np.all(joined.pop("is_answer"), axis=(0, 1)),
        **joined,
        tested=np.array(chosen),
        unseen=unseen,
        diverged=int(np.sum(np.isin(every, chosen) & diverged)),
        threshold=threshold,
    )


def draw(
    config: SweepConfig, program: Program, length: int, seeds: np.ndarray, files: Dataset | None
) -> tuple[Parameters, memory.Material, list[str]]:
    """Of each of `seeds`: parameters before training, data of a length, and the targets' names."""
    hyper = hyperparameters_of(config.experiment)
    names: list[str] = []

    def one(seed):
        key, _ = jax.random.split(experiment.experiment_key(seed, length))
        units = config.experiment.multiplicity
        data = files or draw_dataset(program.task, key, units, length, length)
        data = jax.tree.map(jnp.asarray, data)
        state, _, _ = experiment.prepare(program, length, seed, jnp.asarray(length), hyper, files)
        found = [memory.labels_of(program.task, part) for part in (data.train, data.test)]
        names[:] = found[0]
        train, test = (jnp.stack([*labels.values()]).astype(jnp.int32) for labels in found)
        shuffled = jax.random.permutation(jax.random.fold_in(key, 1), train, axis=1)
        material = memory.Material(data.train.inputs, train, shuffled, data.test, test)
        return state.parameters, material

    return *map_experiments(one, seeds.astype(np.uint32)), names


def take(tree: Any, rows: np.ndarray | int) -> Any:
    """Some rows of every array."""
    return jax.tree.map(lambda array: array[rows], tree)


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays `[stage, experiment, ...]` one after the other, filled up with NaN where shorter."""
    shape = np.max([part.shape for part in parts], axis=0)
    joined = np.full((len(STAGES), sum(part.shape[1] for part in parts), *shape[2:]), np.nan)
    start = 0
    for part in parts:
        inner = tuple(slice(size) for size in part.shape[2:])
        joined[:, start : start + part.shape[1], *inner] = part
        start += part.shape[1]
    return joined


def gates_along(
    config: SweepConfig, best: Parameters, text: str, seed: int | None
) -> tuple[dict[str, np.ndarray], list[int]]:
    """The gates of the network of a sequence's length along it, `[D, time]` each, and its tokens.

    Raises `UserError` for a sequence, length or seed that cannot be, or a cell without gates.
    """
    task = task_of(config)
    if not isinstance(task.inputs, Tokens):
        raise UserError("--gates is for tasks of whole numbers, this one has vectors")
    tokens = parse_tokens(text, task.inputs.vocabulary, "--gates")
    row = find_experiment(config, len(tokens), config.seeds[0] if seed is None else seed)
    network = network_with(task, config.experiment, take(best, row))
    found = memory.gates_of(network, jnp.asarray(tokens)[None])
    return {name: np.asarray(values) for name, values in found.items()}, tokens.tolist()
