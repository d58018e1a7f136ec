"""Networks out of a run's checkpoints: as modules, and what they score."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srn_jax.config import SweepConfig
from srn_jax.ensemble.mapping import draw_tests, evaluate_experiments, pad_examples
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import read_sequences
from srn_jax.tasks import task_of
from srn_jax.training.experiment import Scores
from srn_jax.training.network import Network, network_with
from srn_jax.training.program import Program, program_of


@dataclass(frozen=True)
class Networks:
    """Networks of some experiments of a variant."""

    config: SweepConfig  # of the variant, with all of its lengths and seeds
    experiments: tuple[tuple[int, int], ...]  # (length, seed) of each
    parameters: Any  # [experiment, ...]
    trained: np.ndarray  # [experiment]: whether these parameters are anything but the first ones
    which: str = "best"
    files: Mapping[int, Any] | None = None  # their own data, where they are not drawn

    def __len__(self) -> int:
        return len(self.experiments)

    @cached_property
    def program(self) -> Program:
        """The program that trained them."""
        return program_of([self.config], self.files)

    def network(self, index: int) -> Network:
        """One of them as a module; raises `UserError` if it is as it was before training."""
        if not self.trained[index]:
            length, seed = self.experiments[index]
            why = "it diverged before its first evaluation"
            if self.which == "best":
                why = "no evaluation was any good (unless it diverged, 'last' has the last ones)"
            raise UserError(f"length {length}, seed {seed} has no {self.which} parameters: {why}")
        parameters = jax.tree.map(lambda array: array[index], self.parameters)
        return network_with(self.program, parameters)

    def scores(self, data: Path | str | None = None) -> Scores:
        """Loss, accuracy and whole sequences on test sets, each `[experiment]`; NaN if untrained.

        Args:
            data: a folder with `<length>/test.txt`; None takes the data that they were tested on.

        Raises:
            UserError: for data that cannot be read or that the networks cannot take, or the run's
                own that have changed since.
        """
        config, experiments = self.config, list(self.experiments)
        lengths = np.array([length for length, _ in experiments])
        if data is None:
            examples, _ = draw_tests(config, experiments, self.files)
        else:
            sets = read_test_sets(config, Path(data), set(lengths.tolist()))
            padded = [pad_examples(sets[n], max(config.lengths)) for n in lengths.tolist()]
            examples = jax.tree.map(lambda *arrays: np.stack(arrays), *padded)
        found = evaluate_experiments(self.program, self.parameters, examples, lengths)
        return jax.tree.map(lambda values: np.where(self.trained, values, np.nan), found)


def read_test_sets(config: SweepConfig, folder: Path, lengths: set[int]) -> dict[int, Any]:
    """Test sets by length; raises `UserError` for what the networks of a run cannot take."""
    task = task_of(config)
    tokens = getattr(task.inputs, "vocabulary", 0)
    if not tokens or task.answers != 1:
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
