"""Networks out of the checkpoint of a run: of which experiments, and what they score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srn_jax.analysis.results import Run
from srn_jax.config import SweepConfig
from srn_jax.ensemble.sweep import evaluate_experiments, pad_examples
from srn_jax.errors import UserError, warn
from srn_jax.interop.textbook_files import read_data, read_sequences
from srn_jax.runs import checkpoint
from srn_jax.runs import folder as run_folder
from srn_jax.runs.outcome import collect, test_sets, without_best
from srn_jax.tasks import task_of
from srn_jax.training.experiment import program_of
from srn_jax.training.model import Network, Parameters, network_with


@dataclass(frozen=True)
class Networks:
    """Restored networks of some experiments of a run."""

    config: SweepConfig  # of the whole run
    experiments: tuple[tuple[int, int], ...]  # (length, seed) of each
    parameters: Parameters  # [experiment, ...]
    trained: np.ndarray  # [experiment]: whether these parameters are anything but the first ones

    def __len__(self) -> int:
        return len(self.experiments)

    def network(self, index: int) -> Network:
        """One of them as a module."""
        parameters = jax.tree.map(lambda array: array[index], self.parameters)
        return network_with(task_of(self.config), self.config.experiment, parameters)


def restore(
    run: Path | str,
    lengths: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    which: str = "best",
) -> Networks:
    """Restore the best or last parameters of a run's experiments, all or some of them.

    Those of an experiment that kept none, see `without_best`, are the ones that it began with.

    Args:
        run: a run folder, finished or not, of whatever platform.
        lengths: only of these; None for all.
        seeds: only of these; None for all.
        which: `best` (on the development set) or `last` parameters.

    Raises:
        UserError: if there is no readable checkpoint, or no such length or seed in the run.
    """
    if which not in ("best", "last"):
        raise UserError(f"which must be 'best' or 'last', got {which!r}")
    run_folder.check_single(Path(run))
    newest = checkpoint.restore(Path(run), warn=warn)
    if newest is None:
        raise UserError(f"{run}: no checkpoint in it, expected the folder of a run")
    config = run_folder.config_in(Path(run), newest.settings)
    chosen = dict.fromkeys(lengths or config.lengths)  # each once
    experiments = tuple((n, s) for n in chosen for s in seeds or config.seeds)
    rows = np.array([find_experiment(config, *one) for one in experiments])
    parameters = jax.tree.map(lambda array: array[rows], newest.items["models"][which])
    training = newest.items["training"]
    if which == "best":
        trained = ~without_best(training)
    else:
        trained = np.isfinite(training["evaluations"]["dev_loss"]).any(axis=1)
    return Networks(config, experiments, parameters, trained[rows])


def restore_network(run: Path | str, length: int, seed: int, which: str = "best") -> Network:
    """The trained network of one experiment; arguments and errors are those of `restore`.

    Raises:
        UserError: also if the experiment kept no such parameters.
    """
    networks = restore(run, [length], [seed], which)
    check_trained(networks, 0, which)
    return networks.network(0)


def check_trained(networks: Networks, index: int, which: str) -> None:
    """Raise `UserError` if one of restored networks is as it was before training."""
    if not networks.trained[index]:
        length, seed = networks.experiments[index]
        why = "it diverged before its first evaluation"
        if which == "best":
            why = "no evaluation had a right answer (unless it diverged, 'last' has the last ones)"
        raise UserError(f"length {length}, seed {seed} has no {which} parameters: {why}")


def find_experiment(config: SweepConfig, length: int, seed: int) -> int:
    """The index of an experiment in its sweep; raises `UserError` if it has no such one."""
    if length not in config.lengths:
        has = ", ".join(map(str, config.lengths))
        raise UserError(f"the run has no length {length!r}, it has {has}")
    if seed not in config.seeds:
        has = ", ".join(map(str, config.seeds[:20]))
        raise UserError(f"the run has no seed {seed!r}, it has {has}")
    return config.lengths.index(length) * len(config.seeds) + config.seeds.index(seed)


def read_data_of(config: SweepConfig) -> dict[int, Any] | None:
    """The data files of a run, None if its data were drawn.

    Raises:
        UserError: if they cannot be read, or are not those that the run began with.
    """
    if config.data is None:
        return None
    path = config.data.path
    if not Path(path).is_dir():
        raise UserError(
            f"{path}: no such folder, and the run's own data were there: put it back, or test on "
            "others (evaluate RUN --data DIR)"
        )
    try:
        found, files = read_data(path, config.lengths)
    except UserError as error:
        raise UserError(
            f"{path} cannot be read as the run read it, put the old files back ({error})"
        ) from None
    if not found.same(config.data):
        raise UserError(
            f"{path} has changed since the run, which had other data: put the old files back"
        )
    return files


def accuracies(networks: Networks, data: str | Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Test loss and accuracy of each network, `[experiment]`; NaN where none was kept.

    Args:
        networks: restored networks.
        data: a folder with `<length>/test.txt`; None takes the data that the run was tested on.

    Raises:
        UserError: for data that cannot be read or that the networks cannot take, or the run's own
            that have changed since.
    """
    config, experiments = networks.config, networks.experiments
    lengths = np.array([length for length, _ in experiments])
    if data is None:
        examples, _ = test_sets(config, experiments, read_data_of(config))
    else:
        width, sets = max(config.lengths), read_test_sets(config, Path(data), set(lengths.tolist()))
        padded = [pad_examples(sets[length], width) for length in lengths.tolist()]
        examples = jax.tree.map(lambda *arrays: np.stack(arrays), *padded)
    scores = evaluate_experiments(program_of(config), networks.parameters, examples, lengths)
    loss, accuracy = (np.where(networks.trained, values, np.nan) for values in scores)
    return loss, accuracy


def read_test_sets(config: SweepConfig, folder: Path, lengths: set[int]) -> dict[int, Any]:
    """Test sets by length; raises `UserError` for what the networks of a run cannot take."""
    task = task_of(config)
    tokens = getattr(task.inputs, "vocabulary", 0)
    if not tokens or task.answers > 1:
        raise UserError(f"{folder} has tokens and one label each, the networks have another task")
    sets = {length: read_sequences(folder / str(length) / "test.txt", length) for length in lengths}
    if len({len(one) for one in sets.values()}) > 1:
        raise UserError(f"{folder}: test sets of different sizes, test one length at a time")
    for length, one in sets.items():
        if one.digits.max() >= tokens or one.labels.max() >= task.outputs:
            raise UserError(
                f"{folder / str(length) / 'test.txt'}: the networks know {tokens} tokens and "
                f"{task.outputs} classes, it has more"
            )
    return sets


def load_unfinished(folder: Path, info: dict[str, Any]) -> Run:
    """Results and histories of a run that is still going on, as of its newest checkpoint.

    Raises:
        UserError: if there is nothing to read yet.
    """
    newest = checkpoint.restore(folder, warn=warn)
    if newest is None:
        raise UserError(f"{folder}: this run has no checkpoint yet, wait for its first")
    run_folder.check_settings(folder, newest.settings, info["settings"])
    config = run_folder.config_in(folder, info["settings"])
    return Run(*collect(config, read_data_of(config), newest.items), info)
