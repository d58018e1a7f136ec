"""Every knob of the experiment: its default, its one-line help and its check.

This module imports neither JAX nor NumPy, so a command line can answer `--help` or refuse a
wrong value before anything expensive starts.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from srn_jax.errors import UserError

NUM_DIGITS = 10  # the inputs 0..9
NUM_CLASSES = 19  # the sums 0..18
NUM_PAIRS = NUM_DIGITS**2
DEV_MULTIPLICITY = TEST_MULTIPLICITY = 1
TEXTBOOK_LENGTHS = (5, 10, 15, 20, 25, 30, 35)
RECURRENT_INITS = ("xavier", "orthogonal", "identity", "pytorch")


Check = Callable[[str, Any], None]


def whole(low: int, high: int) -> Check:
    """A check that a value is an integer in low..high, both included."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UserError(f"{name} must be a whole number from {low} to {high}, got {value!r}")

    return check


def positive(high: float) -> Check:
    """A check that a value is a finite number above 0 and at most `high`."""

    def check(name: str, value: Any) -> None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not 0 < value <= high:
            raise UserError(f"{name} must be a number above 0 and at most {high:g}, got {value!r}")

    return check


def one_of(*choices: str) -> Check:
    """A check that a value is one of the given words."""

    def check(name: str, value: Any) -> None:
        if value not in choices:
            raise UserError(f"{name} must be one of {', '.join(choices)}, got {value!r}")

    return check


def knob(default: Any, help: str, check: Check) -> Any:
    """A dataclass field with the help line and the check that the command line shows and runs."""
    return field(default=default, metadata={"help": help, "check": check})


def option_name(field_name: str) -> str:
    """The command-line spelling of a field: `hidden_size` -> `--hidden-size`."""
    return "--" + field_name.replace("_", "-")


@dataclass(frozen=True)
class ExperimentConfig:
    """The settings of one experiment, apart from its sequence length and its seed.

    The defaults are the textbook's. Raises `UserError` for a value out of its range.
    """

    hidden_size: int = knob(32, "hidden units of the recurrent network", whole(1, 4096))
    embedding_size: int = knob(32, "size of a digit's embedding", whole(1, 4096))
    learning_rate: float = knob(1e-3, "learning rate of Adam", positive(1e30))
    epochs: int = knob(500, "passes over the training set", whole(1, 1_000_000))
    batch_size: int = knob(8, "sequences in a batch", whole(1, 1_000_000))
    multiplicity: int = knob(3, "training examples for each pair of digits", whole(1, 10_000))
    eval_interval: int = knob(100, "training steps between evaluations", whole(1, 1_000_000_000))
    recurrent_init: str = knob(
        "xavier",
        "initial recurrent weights: " + ", ".join(RECURRENT_INITS),
        one_of(*RECURRENT_INITS),
    )

    def __post_init__(self) -> None:
        for knob_field in dataclasses.fields(self):
            knob_field.metadata["check"](
                option_name(knob_field.name), getattr(self, knob_field.name)
            )


def number_of_steps(config: ExperimentConfig, train_examples: int) -> int:
    """Training steps of the whole experiment: 19,000 with the textbook's settings."""
    return config.epochs * -(-train_examples // config.batch_size)


@dataclass(frozen=True)
class SweepConfig:
    """A sweep: one experiment for each sequence length and seed, all with the same settings.

    Raises `UserError` for empty, repeated or impossible lengths and seeds.
    """

    lengths: tuple[int, ...] = TEXTBOOK_LENGTHS
    seeds: tuple[int, ...] = tuple(range(8))
    experiment: ExperimentConfig = ExperimentConfig()
    data: str | None = None  # a folder of data files; None draws fresh data for every seed

    def __post_init__(self) -> None:
        check_list("--lengths", self.lengths, whole(3, 100_000))
        check_list("--seeds", self.seeds, whole(0, 2**32 - 1))
        steps = number_of_steps(self.experiment, NUM_PAIRS * self.experiment.multiplicity)
        if self.data is None and steps >= 2**31:  # as they are counted on the devices
            raise UserError(
                f"{steps:,} training steps are too many, at most {2**31 - 1:,}: "
                "fewer --epochs, or a larger --batch-size"
            )

    @property
    def experiments(self) -> tuple[tuple[int, int], ...]:
        """The (length, seed) of each experiment: lengths in the outer loop, seeds in the inner."""
        return tuple((length, seed) for length in self.lengths for seed in self.seeds)


def check_list(name: str, values: tuple[Any, ...], check: Check) -> None:
    """Raise `UserError` for a list that is empty, repeats a value or holds a bad one."""
    if not values:
        raise UserError(f"{name} is empty, expected at least one value")
    for value in values:
        check(name, value)
    repeated = sorted(value for value, times in Counter(values).items() if times > 1)
    if repeated:
        raise UserError(f"{name} names {repeated[0]} more than once, expected different values")
