"""Data and scores of many experiments: what is read from files, drawn again, and measured."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from srn_jax.config import SweepConfig
from srn_jax.ensemble.mapping import map_experiments
from srn_jax.tasks import task_of
from srn_jax.tasks.task import PADDING, Dataset, Examples, Task, draw_set, mask_of, overlap
from srn_jax.training import experiment
from srn_jax.training.data import keys_of
from srn_jax.training.experiment import Scores
from srn_jax.training.program import Program


def files_by_experiment(
    files: Mapping[int, Any], lengths: Sequence[int] | np.ndarray, width: int
) -> Dataset:
    """The data of each experiment, padded: NumPy arrays `[experiment, example, ...]`."""

    def of(name: str) -> Examples:
        padded = {n: pad_examples(getattr(sets, name), width) for n, sets in files.items()}
        chosen = [padded[int(length)] for length in lengths]
        stacked: list[Any] = [
            None if one[0] is None else np.stack(one) for one in zip(*chosen, strict=True)
        ]
        return Examples(*stacked)

    return Dataset(of("train"), of("dev"), of("test"))


def pad_examples(sequences: Any, width: int) -> Examples:
    """Sequences read from a file as NumPy arrays, padded on the left to `width`.

    They have `digits [example, length]`, `labels [example]` and, where lines differ in length,
    `lengths [example]`.
    """
    missing = width - sequences.digits.shape[1]
    digits = np.pad(sequences.digits, ((0, 0), (missing, 0)), constant_values=PADDING)
    return Examples(digits, sequences.labels, getattr(sequences, "lengths", None))


def draw_tests(
    config: SweepConfig,
    experiments: Sequence[tuple[int, int]],
    files: Mapping[int, Any] | None = None,
) -> tuple[Examples, np.ndarray | None]:
    """The test set of each experiment, and how many of its sequences it has been trained on.

    Args:
        config: the sweep.
        experiments: (length, seed) of each.
        files: the data of each length, where they are not drawn.

    Returns:
        Examples `[experiment, example, ...]`, padded to the longest, and the overlap
        `[experiment]`, which is None where every step draws examples of its own.
    """
    lengths, seeds = (np.array(column) for column in zip(*experiments, strict=True))
    width = int(lengths.max())
    if files is not None:
        data: Any = files_by_experiment(files, lengths, width)
        return data.test, map_experiments(overlap, data.train, data.test)
    settings = config.experiment
    units = 0 if settings.fresh_data else settings.multiplicity
    found = map_experiments(
        draw_test,
        seeds.astype(np.uint32),
        lengths.astype(np.int32),
        given=(task_of(config), units, width),
    )
    return found[0], found[1]


def draw_test(task: Task, units: int, width: int, seed: Any, length: Any) -> Any:
    """The test set of one experiment, and its overlap with so many units of training data."""
    key = keys_of(seed, length)[0]
    test = draw_set(task, key, 2, 1, length, width)
    if not units:
        return test, None
    return test, overlap(draw_set(task, key, 0, units, length, width), test)


def evaluate_experiments(
    program: Program,
    parameters: Any,
    examples: Examples,
    lengths: Any,
    done: Callable[[int], None] | None = None,
) -> Scores:
    """Scores, each a NumPy array `[experiment]`, of parameters and examples `[experiment, ...]`."""
    given, lengths = (program, examples.inputs.shape[2]), np.asarray(lengths, np.int32)
    found = map_experiments(evaluate_one, parameters, examples, lengths, given=given, done=done)
    weights = examples.weights
    counts = [
        np.sum(program.task.counts(targets, None if weights is None else weights[n]))
        for n, targets in enumerate(examples.targets)
    ]
    return Scores(
        found.loss.astype(float),
        as_fraction(found.accuracy, np.array(counts)),
        as_fraction(found.sequences, examples.targets.shape[1]),
    )


def evaluate_one(program: Program, width: int, parameters: Any, examples: Examples, length: Any):
    """Scores of one experiment on examples padded to a width."""
    return experiment.evaluate(program, parameters, examples, mask_of(length, width)[None])


def as_fraction(shares: np.ndarray, of: Any) -> np.ndarray:
    """A float32 share of that many as the float64 that prints as 0.47."""
    return np.round(np.asarray(shares, float) * of) / of
