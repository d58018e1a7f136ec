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
from srn_jax.analysis.explanation import BEST, STAGES, Explanation, write_explanation
from srn_jax.analysis.results import read_results
from srn_jax.config import SweepConfig
from srn_jax.ensemble.sweep import as_fraction, map_experiments, pad_splits
from srn_jax.errors import UserError, warn
from srn_jax.interop.textbook_files import read_data
from srn_jax.runs import checkpoint
from srn_jax.runs.folder import config_of, read_run
from srn_jax.tasks.task import Dataset, Tokens, draw_dataset
from srn_jax.training import experiment
from srn_jax.training.experiment import Program, program_of
from srn_jax.training.model import Network, Parameters, hyperparameters_of, network_with

SHOWN = 8  # test sequences along which Jacobians are taken
Trained = dict[str, Parameters]  # "best" and "last" of a checkpoint, `[experiment, ...]`


def read_networks(run: Path) -> tuple[SweepConfig, np.ndarray, Trained]:
    """The settings of a run, which experiments diverged, and its trained networks.

    Raises:
        UserError: for a run that is not finished or has no checkpoint.
    """
    if not read_run(run)["finished"]:
        raise UserError(f"{run} is not finished, scripts/sweep.py --resume {run} goes on with it")
    newest = checkpoint.restore(run, warn=warn)
    if newest is None:
        raise UserError(f"{run}: no checkpoint in it, expected the folder of a run with one")
    return config_of(newest.settings), read_results(run).diverged, newest.items["models"]


def explain(run: Path, folder: Path, options: argparse.Namespace) -> list[Path]:
    """Do for one run what the options of `scripts/explain.py` say; returns what was written.

    Raises:
        UserError: for a run that cannot be explained, or gates that cannot be shown.
    """
    config, diverged, trained = read_networks(run)
    shown = None
    if options.gates is not None:  # what is wrong with them should show now
        seed = config.seeds[0] if options.seed is None else options.seed
        shown = gates(config, trained, options.gates, seed)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("examining networks", total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        found = examine(config, trained, diverged, options.threshold, options.lengths, report)
    from srn_jax.analysis.figures import gate_figure
    from srn_jax.analysis.look import save_figure

    question = program_of(config).task.question
    paths = write_explanation(found, folder, question)
    for name, values in (shown[0] if shown else {}).items():
        paths += save_figure(gate_figure(name, values, shown[1]), folder / f"gate_{name}")
    return paths


def examine(
    config: SweepConfig,
    trained: Trained,
    diverged: np.ndarray,
    threshold: float,
    lengths: Sequence[int] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Explanation:
    """Examine all networks of a sweep that did not diverge, each on the data of its own seed.

    Args:
        config: the sweep.
        trained: its networks.
        diverged: `[experiment]`; these are left out.
        threshold: test accuracy above which a network is a solver.
        lengths: networks of these lengths alone; None for all.
        report: told how many examinations are done, and of how many.

    Raises:
        UserError: for a length that the sweep does not have, or one where nothing can be examined.
    """
    chosen = list(config.lengths if lengths is None else lengths)
    for length in chosen:
        check_length(config, length)
    every, seeds = (np.array(column) for column in zip(*config.experiments, strict=True))
    order = [np.flatnonzero((every == length) & ~diverged) for length in chosen]
    rows = np.concatenate(order)
    if not rows.size:
        raise UserError("every experiment diverged, there is nothing to explain (--lengths, RUN)")
    files = None if config.data is None else read_data(config.data.path, config.lengths)[1]
    number = None if files is None else len(files[chosen[0]].train)
    program = program_of(config, train_examples=number)
    done, total = 0, len(rows) * (len(STAGES) + len(chosen))

    def mapped(function: Any, *arrays: Any) -> Any:
        nonlocal done
        before = done
        result = map_experiments(function, *arrays, done=lambda n: report(before + n, total))
        done += len(jax.tree.leaves(arrays)[0])
        return result

    unseen, parts, names = np.empty((len(rows), len(chosen))), [], []
    for column, length in enumerate(chosen):
        splits = None if files is None else pad_splits(files[length], length)
        start, material, names = draw(config, program, length, seeds[rows], splits)
        best = take(trained["best"], rows)
        answers = int(np.prod(material.test.targets.shape[1:]))
        _, accuracy = mapped(partial(experiment.evaluate, program), best, material.test)
        unseen[:, column] = as_fraction(accuracy, answers)
        own = np.flatnonzero(every[rows] == length)
        if own.size:
            material = take(material, own)
            labels = np.concatenate([material.train_labels, material.test_labels], axis=2)
            classes = memory.number_of_classes(labels, names)
            stages = [take(start, own), *(take(trained[s], rows[own]) for s in STAGES[1:])]
            found = mapped(
                partial(memory.analyse, program, classes, SHOWN),
                jax.tree.map(lambda *arrays: np.concatenate(arrays), *stages),
                jax.tree.map(lambda array: np.concatenate([array] * len(STAGES)), material),
            )
            found["accuracy"] = as_fraction(found["accuracy"], answers)
            by_stage = {k: a.reshape(len(STAGES), -1, *a.shape[1:]) for k, a in found.items()}
            parts.append(by_stage)
    joined = {name: join([part[name] for part in parts]) for name in parts[0]}
    return Explanation(
        length=every[rows],
        seed=seeds[rows],
        targets=np.array(names),
        chance=joined.pop("chance")[BEST],
        is_answer=joined.pop("is_answer").all(axis=(0, 1)),
        **joined,
        tested=np.array(chosen),
        unseen=unseen,
        diverged=int((np.isin(every, chosen) & diverged).sum()),
        threshold=threshold,
    )


def check_length(config: SweepConfig, length: int) -> None:
    """Raise `UserError` for a length that a sweep does not have."""
    if length not in config.lengths:
        has = ", ".join(map(str, config.lengths))
        raise UserError(f"the run has no length {length}, it has {has}")


def draw(
    config: SweepConfig, program: Program, length: int, seeds: np.ndarray, files: Dataset | None
) -> tuple[Parameters, memory.Material, list[str]]:
    """Of each of `seeds`: parameters before training, data of a length, and the targets' names."""
    hyper, names = hyperparameters_of(config.experiment), []

    def one(seed):
        key, _ = jax.random.split(experiment.experiment_key(seed, length))
        units = config.experiment.multiplicity
        data = files or draw_dataset(program.task, key, units, length, length)
        state, _, _ = experiment.prepare(program, length, seed, length, hyper, files)
        train, test = (memory.labels_of(program.task, part) for part in (data.train, data.test))
        names[:] = train
        train, test = (jnp.stack([*labels.values()]).astype(jnp.int32) for labels in (train, test))
        shuffled = jax.random.permutation(jax.random.fold_in(key, 1), train, axis=1)
        inputs = jnp.asarray(data.train.inputs)
        test_set = jax.tree.map(jnp.asarray, data.test)
        return state.parameters, memory.Material(inputs, train, shuffled, test_set, test)

    return *map_experiments(one, seeds.astype(np.uint32)), names


def take(tree: Any, rows: np.ndarray) -> Any:
    """Some rows of every array."""
    return jax.tree.map(lambda array: array[rows], tree)


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays `[stage, experiment, ...]` one after the other, filled up with NaN where shorter."""
    shape = np.max([part.shape for part in parts], axis=0)

    def fill(part: np.ndarray) -> np.ndarray:
        missing = [(0, 0) if n < 2 else (0, shape[n] - part.shape[n]) for n in range(part.ndim)]
        return np.pad(part, missing, constant_values=np.nan) if part.ndim > 2 else part

    return np.concatenate([fill(part) for part in parts], axis=1)


def gates(
    config: SweepConfig, trained: Trained, text: str, seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The gates of the best network of a sequence's length along it, and its inputs.

    Raises:
        UserError: for a sequence, length or seed that cannot be, or a cell without gates.
    """
    program = program_of(config)
    kind = program.task.inputs
    words = text.split() if len(text.split()) > 1 else list(text.strip())
    if not isinstance(kind, Tokens):
        raise UserError("--gates wants whole numbers, and this task's inputs are vectors")
    if not words or not all(
        w.isascii() and w.isdigit() and int(w) < kind.vocabulary for w in words
    ):
        wanted = f"whole numbers from 0 to {kind.vocabulary - 1} like '3 4 0'"
        raise UserError(f"--gates wants {wanted}, got {text!r}")
    check_length(config, len(words))
    if seed not in config.seeds:
        raise UserError(f"the run has no seed {seed}, it has {config.seeds[0]}..{config.seeds[-1]}")
    row = config.experiments.index((len(words), seed))
    parameters = jax.tree.map(lambda array: array[row], trained["best"])
    network: Network = network_with(program.task, config.experiment, parameters)
    found = memory.gates_of(network, jnp.array([[int(word) for word in words]]))
    return {name: np.asarray(values) for name, values in found.items()}, words
