"""Every knob of the experiment: its default, its one-line help and its check.

This module imports neither JAX nor NumPy, so a command line can answer `--help` or refuse a
wrong value before anything expensive starts.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from srn_jax.checks import (
    Check,
    between,
    check_list,
    one_of,
    one_of_or_own,
    or_none,
    positive,
    switch,
    whole,
)
from srn_jax.errors import UserError

TEXTBOOK_LENGTHS = (5, 10, 15, 20, 25, 30, 35)
CELLS = ("srn", "residual-srn", "lstm", "gru")
TASKS = ("digit-sum", "adding", "recall")
PROBES = ("gradient-norm", "update-norm", "parameter-norm")
RECURRENT_INITS = ("xavier", "orthogonal", "identity", "pytorch")
OPTIMIZERS = ("adam", "sgd", "rmsprop")


def knob(default: Any, help: str, check: Check, *, is_data: bool = False) -> Any:
    """A dataclass field with its help line and its check.

    Experiments that differ in a field that `is_data` can share a program: it changes no shape.
    """
    return field(default=default, metadata={"help": help, "check": check, "is_data": is_data})


def option_name(field_name: str) -> str:
    """The command-line spelling of a field: `hidden_size` -> `--hidden-size`."""
    return "--" + field_name.replace("_", "-")


@dataclass(frozen=True)
class ExperimentConfig:
    """The settings of one experiment, apart from its sequence length and its seed.

    The defaults are those of the textbook's section 6.1. Raises `UserError` for a value out of its
    range.
    """

    task: str = knob(
        "digit-sum",
        f"what must be remembered: {', '.join(TASKS)}, or FILE.py:NAME",
        one_of_or_own(*TASKS),
    )
    cell: str = knob(
        "srn", f"what remembers: {', '.join(CELLS)}, or FILE.py:NAME", one_of_or_own(*CELLS)
    )
    hidden_size: int = knob(32, "hidden units of the recurrent network", whole(1, 4096))
    embedding_size: int = knob(32, "size of a digit's embedding", whole(1, 4096))
    recurrent_init: str = knob(
        "xavier",
        "initial recurrent weights: " + ", ".join(RECURRENT_INITS),
        one_of(*RECURRENT_INITS),
        is_data=True,
    )
    forget_bias: float = knob(
        0.0,
        "added to an LSTM's initial forget bias; 1 is common",
        between(-1e6, 1e6),
        is_data=True,
    )
    optimizer: str = knob("adam", "optimizer: " + ", ".join(OPTIMIZERS), one_of(*OPTIMIZERS))
    learning_rate: float = knob(1e-3, "its learning rate", positive(1e30), is_data=True)
    loss_reduction: str = knob(
        "mean", "of the losses in a batch: mean or sum", one_of("mean", "sum")
    )
    clip_norm: float | None = knob(
        None, "clip gradients to this L2 norm, or none", or_none(positive(1e30)), is_data=True
    )
    clip: str = knob(
        "per-tensor",
        "what --clip-norm limits: per-tensor or global",
        one_of("per-tensor", "global"),
    )
    epochs: int = knob(500, "passes over the training set", whole(1, 1_000_000))
    steps: int | None = knob(
        None, "training steps, in place of --epochs", or_none(whole(1, 2**31 - 1))
    )
    batch_size: int = knob(8, "sequences in a batch", whole(1, 1_000_000))
    multiplicity: int = knob(
        3, "size of the training set, in units of the development set's", whole(1, 10_000)
    )
    fresh_data: bool = knob(False, "draw new training examples at every step", switch)
    eval_interval: int = knob(100, "training steps between evaluations", whole(1, 1_000_000_000))

    def __post_init__(self) -> None:
        for knob_field in dataclasses.fields(self):
            knob_field.metadata["check"](
                option_name(knob_field.name), getattr(self, knob_field.name)
            )

    @property
    def program(self) -> "ExperimentConfig":
        """These settings with all that changes no shape at its default: what is compiled.

        Experiments with equal programs train side by side. Whether gradients are clipped at all is
        part of the program.
        """
        names = [f.name for f in dataclasses.fields(self) if f.metadata["is_data"]]
        defaults: dict[str, Any] = {name: getattr(DEFAULTS, name) for name in names}
        clip_norm = None if self.clip_norm is None else 1.0
        return dataclasses.replace(self, **{**defaults, "clip_norm": clip_norm})


DEFAULTS = ExperimentConfig()


@dataclass(frozen=True)
class DataFolder:
    """A folder of data files, and what was read from it when the run began."""

    path: str
    sha256: str
    vocabulary: int = 10  # tokens are 0..vocabulary - 1
    classes: int = 19  # labels are 0..classes - 1
    chance: float = 0.10  # accuracy of the commonest training label, the mean over lengths
    digests: tuple[str, ...] = ()  # of the three files of each length; old runs have none

    def same(self, other: "DataFolder") -> bool:
        """Whether both have the same files."""
        known = self.digests and other.digests
        return self.digests == other.digests if known else self.sha256 == other.sha256


@dataclass(frozen=True)
class SweepConfig:
    """A sweep: one experiment for each sequence length and seed, all with the same settings.

    Raises `UserError` for empty, repeated or impossible lengths and seeds.
    """

    lengths: tuple[int, ...] = TEXTBOOK_LENGTHS
    seeds: tuple[int, ...] = tuple(range(8))
    experiment: ExperimentConfig = ExperimentConfig()
    data: DataFolder | None = None  # None draws fresh data for every seed
    probes: tuple[str, ...] = ()  # what is recorded at every step beside the loss

    def __post_init__(self) -> None:
        check_list("--lengths", self.lengths, whole(1, 100_000))
        check_list("--seeds", self.seeds, whole(0, 2**32 - 1))
        if self.probes:
            check_list("--probe", self.probes, one_of_or_own(*PROBES))
        if self.data is not None and self.experiment.task != DEFAULTS.task:
            raise UserError("--data holds digits and a label, leave out --task")
        if self.data is not None and self.experiment.fresh_data:
            raise UserError("--fresh-data draws its examples, leave out --data or --textbook")

    @property
    def experiments(self) -> tuple[tuple[int, int], ...]:
        """The (length, seed) of each experiment: lengths in the outer loop, seeds in the inner."""
        return tuple((length, seed) for length in self.lengths for seed in self.seeds)


@dataclass(frozen=True)
class Facts:
    """What a task tells those who show its results; it is kept with every run."""

    question: str = "the sum of the first two digits"
    title: str = "How long a recurrent network remembers"
    chance: float = 0.10  # accuracy of the best constant answer
    chance_loss: float = math.log(19)  # loss of an answer that knows nothing
    test_examples: int = 100  # sequences
    fixed_data: bool = False  # every seed saw the same files
