"""All networks of a run examined at once: before training, at the best step and at the end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.analysis import memory
from srn_jax.analysis.explanation import BEST, STAGES, Explanation
from srn_jax.config import SweepConfig
from srn_jax.ensemble.sweep import as_fraction, evaluate_one, files_by_experiment, map_experiments
from srn_jax.errors import UserError
from srn_jax.runs.restore import find_experiment, read_data_of
from srn_jax.tasks.task import Dataset, Examples, Task, cut_inputs
from srn_jax.training import experiment
from srn_jax.training.experiment import Program, program_of
from srn_jax.training.model import Parameters, hyperparameters_of

SHOWN = 8  # test sequences along which Jacobians are taken


class NothingToExplain(UserError):
    """No experiment has a trained network."""


def examine(
    config: SweepConfig,
    trained: dict[str, Parameters],
    left_out: np.ndarray,
    threshold: float,
    lengths: Sequence[int] | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Explanation:
    """Examine the trained networks of a sweep, each on the data of its own seed.

    Args:
        config: the sweep.
        trained: its "best" and "last" parameters, `[experiment, ...]`.
        left_out: `[experiment]`, those that diverged or have no best parameters.
        threshold: test accuracy above which a network is a solver.
        lengths: networks of these lengths alone; None for all.
        report: told how many examinations are done, and of how many.

    Raises:
        UserError: for a length that the sweep does not have, or nothing but what is left out.
    """
    chosen = list(dict.fromkeys(lengths or config.lengths))
    for length in chosen:
        find_experiment(config, length, config.seeds[0])
    every, seeds = (np.array(column) for column in zip(*config.experiments, strict=True))
    rows = np.concatenate([np.flatnonzero((every == n) & ~left_out) for n in chosen])
    if not rows.size:
        raise NothingToExplain(
            "every experiment diverged or never gave a right answer in an evaluation, so there is "
            "no network to explain"
        )
    files = read_data_of(config)
    program = program_of(config, files=files)
    start, data, order = draw(config, program, chosen, files)
    place = np.array([config.seeds.index(seed) for seed in seeds[rows]])
    done, total = 0, len(rows) * (1 + len(STAGES))

    def mapped(function: Any, given: tuple[Any, ...], *arrays: Any) -> Any:
        nonlocal done
        before, done = done, done + len(jax.tree.leaves(arrays)[0])
        told: Any = {"given": given, "done": lambda n: report(before + n, total)}
        return map_experiments(function, *arrays, **told)

    answers = data.test.targets[0, 0].size  # of a test set
    tests = jax.tree.map(lambda array: array[:, place].swapaxes(0, 1), data.test)
    given = program, max(config.lengths), tuple(chosen)
    unseen = as_fraction(mapped(scores_at, given, take(trained["best"], rows), tests), answers)
    names: list[str] = []
    parts: list[dict[str, np.ndarray]] = []
    for column, length in enumerate(chosen):
        own = np.flatnonzero(every[rows] == length)
        if not own.size:
            continue
        here = (column, place[own])
        material, names = material_of(program.task, length, *take((data, order), here))
        classes = memory.number_of_classes(material.train_labels, material.test_labels)
        stages = [take(start, here), *(take(trained[name], rows[own]) for name in STAGES[1:])]
        found = mapped(
            memory.analyse,
            (program, classes, SHOWN),
            jax.tree.map(lambda *arrays: np.concatenate(arrays), *stages),
            jax.tree.map(lambda array: np.concatenate([array] * len(STAGES)), material),
        )
        found["accuracy"] = as_fraction(found["accuracy"], answers)
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
        left_out=int(np.sum(np.isin(every, chosen) & left_out)),
        threshold=threshold,
    )


def draw(
    config: SweepConfig, program: Program, lengths: Sequence[int], files: Mapping[int, Any] | None
) -> tuple[Parameters, Dataset, np.ndarray]:
    """What experiments began with, as training drew it, padded; arrays `[length, seed, ...]`.

    Returns the parameters before training, the data, and an order `[..., example]` in which to
    shuffle the training set.
    """
    number, width = len(config.seeds), max(config.lengths)
    each, seeds = np.repeat(lengths, number), np.tile(config.seeds, len(lengths))
    settings = hyperparameters_of(config.experiment)
    hyper = jax.tree.map(lambda value: np.full(len(each), value), settings)
    data = None if files is None else files_by_experiment(files, each, width)
    places = seeds.astype(np.uint32), each.astype(np.int32)
    drawn = map_experiments(draw_one, *places, hyper, data, given=(program, width))
    return jax.tree.map(lambda a: a.reshape(len(lengths), number, *a.shape[1:]), drawn)


def draw_one(program: Program, width: int, *arguments: Any) -> tuple[Parameters, Dataset, Any]:
    """What one experiment began with; arguments as `experiment.begin`."""
    parameters, data, key = experiment.begin(program, width, *arguments)
    order = jax.random.permutation(jax.random.fold_in(key, 1), len(data.train.targets))
    return parameters, data, order


def scores_at(
    program: Program, width: int, lengths: Sequence[int], parameters: Parameters, tests: Examples
) -> jax.Array:
    """Accuracies `[length]` of one network on test sets of several lengths, `[length, ...]`."""

    def score(arguments):
        test, length = arguments
        return evaluate_one(program, width, parameters, test, length)[1]

    return jax.lax.map(score, (tests, jnp.asarray(lengths)))


def material_of(
    task: Task, length: int, data: Dataset, order: np.ndarray
) -> tuple[memory.Material, list[str]]:
    """What networks of a length are examined with, `[network, ...]`, and the names of targets."""

    def cut(part: Examples) -> Examples:
        return part._replace(inputs=cut_inputs(jnp.asarray(part.inputs), task.inputs, length))

    def labels(part: Examples) -> jax.Array:
        found = memory.labels_of(task, part)
        names[:] = found
        return jnp.stack([*found.values()]).astype(jnp.int32)

    names: list[str] = []
    train, test = cut(data.train), cut(data.test)
    labels_of_all = jax.jit(jax.vmap(labels))
    train_labels, test_labels = labels_of_all(train), labels_of_all(test)
    shuffled = np.take_along_axis(np.asarray(train_labels), order[:, None], axis=2)
    material = memory.Material(train.inputs, train_labels, shuffled, test, test_labels)
    return jax.tree.map(np.asarray, material), names


def take(tree: Any, rows: Any) -> Any:
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
