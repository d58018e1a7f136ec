"""Testing restored networks: of which experiments, on which data, and what they answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srn_jax.analysis import report
from srn_jax.config import NUM_DIGITS, SweepConfig
from srn_jax.ensemble.sweep import draw_test_sets, evaluate_experiments
from srn_jax.errors import UserError, warn
from srn_jax.interop.textbook_files import read_sequences
from srn_jax.runs import checkpoint
from srn_jax.runs.folder import check_data, config_of
from srn_jax.runs.outcome import untrained
from srn_jax.tasks.digit_sum import pad_examples
from srn_jax.training.model import DigitSumClassifier, Parameters, classifier_with


class Models(NamedTuple):
    """Restored parameters `[experiment, ...]` of some experiments of a run."""

    config: SweepConfig  # of the whole run
    experiments: list[tuple[int, int]]  # (length, seed) of each
    parameters: Parameters
    untrained: np.ndarray  # [experiment]: see `outcome.untrained`
    data_sha256: str | None = None  # of the files that the run was trained on


def restore(
    run: Path,
    lengths: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    which: str = "best",
) -> Models:
    """Restore the best or last parameters of a run's experiments, all or some of them.

    Raises:
        UserError: if there is no readable checkpoint, or no such length or seed in the run.
    """
    if which not in ("best", "last"):
        raise UserError(f"which must be 'best' or 'last', got {which!r}")
    newest = checkpoint.restore(run, warn=warn)
    if newest is None:
        raise UserError(f"{run}: no checkpoint in it, expected the folder of a run (see --out)")
    config = config_of(newest.settings)
    experiments = [(n, s) for n in lengths or config.lengths for s in seeds or config.seeds]
    rows = np.array([find_experiment(config, *one) for one in experiments])
    chosen = jax.tree.map(lambda array: array[rows], newest.items["models"][which])
    training = newest.items["training"]
    nothing = untrained(training["diverged"], training["best_step"])
    digest = newest.settings.get("data_sha256")
    return Models(config, experiments, chosen, nothing[rows], digest)


def find_experiment(config: SweepConfig, length: int, seed: int) -> int:
    """The index of an experiment in its sweep; raises `UserError` if it has no such one."""
    if length not in config.lengths:
        has = ", ".join(map(str, config.lengths))
        raise UserError(f"the run has no length {length}, it has {has}")
    if seed not in config.seeds:
        has = ", ".join(map(str, config.seeds[:20]))
        raise UserError(f"the run has no seed {seed}, it has {has}")
    return config.lengths.index(length) * len(config.seeds) + config.seeds.index(seed)


def restore_classifier(
    run: Path | str, length: int, seed: int, which: str = "best"
) -> DigitSumClassifier:
    """The trained network of one experiment, on whatever platform JAX runs on.

    Args:
        run: a run folder, finished or not.
        length: sequence length it was trained on.
        seed: its seed.
        which: `best` (on the development set) or `last` parameters.

    Raises:
        UserError: if the run has no such experiment or no readable checkpoint.
    """
    parameters = restore(Path(run), [length], [seed], which).parameters
    return classifier_with(jax.tree.map(lambda array: array[0], parameters))


def accuracies(models: Models, data: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Test loss and accuracy of each model, `[experiment]`; NaN for one that is untrained.

    Args:
        models: restored models.
        data: a folder with `<length>/test.txt`; None takes the data that the run was tested on.

    Raises:
        UserError: for data that cannot be read, or the run's own that has changed since.
    """
    config = models.config
    if data is None:
        check_data(config, models.data_sha256)
    folder = data if data is not None else config.data
    width = max(config.lengths)  # as the run did, so that its results come out to the bit
    if folder is None:
        examples = draw_test_sets(config.experiment, width, models.experiments)
    else:
        lengths = dict.fromkeys(length for length, _ in models.experiments)
        sets = {n: read_sequences(Path(folder) / str(n) / "test.txt", n) for n in lengths}
        if len({len(one) for one in sets.values()}) > 1:
            raise UserError(f"{folder}: test sets of different sizes, test one length at a time")
        padded = [pad_examples(sets[length], width) for length, _ in models.experiments]
        examples = jax.tree.map(lambda *arrays: np.stack(arrays), *padded)
    scores = evaluate_experiments(config.experiment, models.parameters, examples)
    loss, accuracy = (np.where(models.untrained, np.nan, values) for values in scores)
    return loss, accuracy


def print_accuracies(models: Models, data: str | None) -> None:
    """A line for each experiment, and the means."""
    loss, accuracy = accuracies(models, data)
    rows = [
        [str(length), str(seed), "-" if np.isnan(a) else str(a), "-" if np.isnan(b) else f"{b:.4f}"]
        for (length, seed), a, b in zip(models.experiments, accuracy, loss, strict=True)
    ]
    print(report.plain_table([["length", "seed", "test accuracy", "test loss"], *rows]))
    lengths = np.array([length for length, _ in models.experiments])
    scored = ~models.untrained
    means = [
        f"{n}: {accuracy[scored & (lengths == n)].mean():.3f}"
        for n in dict.fromkeys(lengths[scored].tolist())
    ]
    print(f"mean test accuracy by length  {'  '.join(means)}")


def parse_digits(text: str) -> np.ndarray:
    """Digits `[length]` out of `3 4 0` or `340`; raises `UserError` for anything else."""
    parts = text.split() if len(text.split()) > 1 else list(text.strip())
    if not parts or not all(len(part) == 1 and part in "0123456789" for part in parts):
        raise UserError(f"--predict wants digits 0 to {NUM_DIGITS - 1} like '3 4 0', got {text!r}")
    return np.array([int(part) for part in parts], np.int8)


def print_predictions(models: Models, text: str) -> None:
    """What each network answers to a sequence, with its probability."""
    digits = jnp.asarray(parse_digits(text))[None]

    def answer(parameters: Parameters) -> jax.Array:
        return jax.nn.softmax(classifier_with(parameters)(digits)[0])

    probabilities = np.asarray(jax.lax.map(answer, models.parameters))
    rows = [
        [str(length), str(seed), str(row.argmax()), f"{row.max():.3f}"]
        for (length, seed), row in zip(models.experiments, probabilities, strict=True)
    ]
    print(report.plain_table([["trained on length", "seed", "answer", "probability"], *rows]))
    if digits.shape[1] >= 2:
        print(f"the first two digits add up to {int(digits[0, 0] + digits[0, 1])}")
