"""What the state of a sweep says, finished or not: its results and histories."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srn_jax.analysis.results import Histories, Results
from srn_jax.config import SweepConfig
from srn_jax.ensemble.sweep import (
    as_fraction,
    evaluate_experiments,
    files_by_experiment,
    map_experiments,
)
from srn_jax.tasks.task import Dataset, Examples, overlap
from srn_jax.training.experiment import Program, data_of, program_of


def collect(
    config: SweepConfig,
    files: Mapping[int, Any] | None,
    items: Mapping[str, Any],
    tests: tuple[Examples, np.ndarray] | None = None,
) -> tuple[Results, Histories]:
    """Results and histories of a sweep, finished or not; nothing is compiled for training.

    Args:
        config: the sweep.
        files: its data, where they are not drawn.
        items: of its newest checkpoint, `[experiment, ...]`.
        tests: what `test_sets` gives, if it is at hand; else it is drawn again.
    """
    training, program = items["training"], program_of(config, files=files)
    histories = histories_of(
        program, config.experiments, training["steps"], training["evaluations"]
    )
    test, overlaps = tests or test_sets(config, config.experiments, files)
    lengths = histories.length
    loss, accuracy = evaluate_experiments(program, items["models"]["best"], test, lengths)
    answers = int(np.prod(test.targets.shape[1:]))  # as many as in a development set that is drawn
    if files is not None:
        answers = len(files[config.lengths[0]].dev)
    best = np.searchsorted(program.eval_steps, np.maximum(training["best_step"], 0))

    def scored(values: np.ndarray) -> np.ndarray:
        return np.where(without_best(training), np.nan, np.asarray(values, float))

    table = Results(
        length=lengths,
        seed=histories.seed,
        best_dev_accuracy=scored(as_fraction(training["best_accuracy"], answers)),
        best_step=np.asarray(training["best_step"]),
        dev_loss=scored(histories.dev_loss[np.arange(len(best)), best]),
        test_accuracy=scored(accuracy),
        test_loss=scored(loss),
        final_train_loss=np.where(
            training["diverged"], np.nan, histories.epoch_loss[:, -1].astype(float)
        ),
        overlap=overlaps,
        diverged=np.asarray(training["diverged"]),
    )
    return table, histories


def histories_of(
    program: Program,
    experiments: Sequence[tuple[int, int]],
    steps: Mapping[str, Any],
    evaluations: Mapping[str, Any],
) -> Histories:
    """The histories of experiments (length, seed), from arrays by name, `[experiment, ...]`."""
    lengths, seeds = np.array(experiments).T
    return Histories(
        length=lengths,
        seed=seeds,
        eval_steps=program.eval_steps,
        steps={name: np.asarray(values) for name, values in steps.items()},
        evaluations={name: np.asarray(values) for name, values in evaluations.items()},
        steps_an_epoch=program.steps_an_epoch,
    )


def without_best(training: Mapping[str, Any]) -> np.ndarray:
    """Which experiments kept no best parameters, so that nothing is to be scored: `[experiment]`.

    They diverged before their first evaluation, or never gave a right answer in the development
    set. Their scores are NaN wherever they are shown.
    """
    return np.asarray(training["best_step"]) < 0


def test_sets(
    config: SweepConfig, experiments: Sequence[tuple[int, int]], files: Mapping[int, Any] | None
) -> tuple[Examples, np.ndarray]:
    """The test sets of experiments (length, seed), padded as the longest of their sweep.

    The other value is how much of each is in the training set too, `[experiment]`.
    """
    program, width = program_of(config, files=files), max(config.lengths)
    lengths, seeds = np.array(experiments).T
    data = None if files is None else files_by_experiment(files, lengths, width)
    places = seeds.astype(np.uint32), lengths.astype(np.int32)
    return map_experiments(test_set, *places, data, given=(program, width))


def test_set(
    program: Program, width: int, seed: Any, length: Any, files: Dataset | None
) -> tuple[Examples, Any]:
    """The test set of one experiment, and how much of it is in the training set too."""
    dataset, _, _ = data_of(program, width, seed, length, files)
    return dataset.test, 0 if program.config.fresh_data else overlap(dataset)
