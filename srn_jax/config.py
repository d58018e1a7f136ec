"""Every knob of the experiment: its default, its one-line help and its check.

This module imports neither JAX nor NumPy, so a command line can answer `--help` or refuse a
wrong value before anything expensive starts.
"""

# ruff: noqa: RUF009 (a knob is a field)
import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, get_args

from srn_jax.errors import UserError, shown
from srn_jax.own_files import path_of

TEXTBOOK_LENGTHS = (5, 10, 15, 20, 25, 30, 35)
CELLS = (
    *("srn", "residual-srn", "lstm", "gru", "irnn", "irnn-xavier", "mingru", "minlstm", "lru"),
    *("srn-2026", "lstm-2026"),  # as the textbook's new edition starts them
)
TASKS = (
    *("digit-sum", "adding", "copying", "variable-copying", "selective-copying"),
    *("associative-recall", "parity", "parity-everywhere", "variable-parity"),
    *("digit-sum-2026", "first-tokens-2026"),  # of the textbook's new edition
)
PROBES = ("gradient-norm", "update-norm", "parameter-norm")
RECURRENT_INITS = ("xavier", "orthogonal", "identity", "pytorch")
OPTIMIZERS = ("adam", "sgd", "rmsprop", "adamw")
SCHEDULES = ("constant", "cosine", "warmup-cosine")
SMALLEST, LARGEST = 1.1754944e-38, 3.4028234e38  # of float32's normal numbers
LONGEST, LAST_SEED = 100_000, 2**32 - 1


def knob(
    default: Any, help: str, *, own: bool = False, is_data: bool = False, **limits: Any
) -> Any:
    """A dataclass field with its help line and its limits; its type is the annotation.

    It may be an object of the user's, or FILE.py:NAME, if it may be its `own`; experiments that
    differ in what `is_data` can share a program, since it changes no shape; and the `limits` are
    `low`, `high`, `above` (low itself is too low) and `choices`.
    """
    nothing = {"low": None, "high": None, "above": False, "choices": ()}
    told = {"help": help, "own": own, "is_data": is_data, **nothing, **limits}
    return field(default=default, metadata=told)


def option_name(field_name: str) -> str:
    """The command-line spelling of a field: `hidden_size` -> `--hidden-size`."""
    return "--" + field_name.replace("_", "-")


def check(
    name: str,
    value: Any,
    kind: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    above: bool = False,
    choices: Sequence[str] = (),
    own: bool = False,
) -> None:
    """Raise `UserError` for a value that a setting of this name cannot have.

    `kind` is `int`, `float`, `bool` or `str`, or a union of one of them with None; the rest is as
    in `knob`.
    """
    kinds = set(get_args(kind)) or {kind}
    if value is None and NoneType in kinds:
        return
    if own and (path_of(value) is not None or is_object(value)):
        return
    if bool in kinds:
        wanted, fits = "true or false", isinstance(value, bool)
    elif int in kinds or float in kinds:
        wanted, fits = _number(value, float not in kinds, low, high, above)
    elif choices:
        wanted = f"one of {', '.join(choices)}"
        fits = isinstance(value, str) and value in choices
    else:
        wanted, fits = "a line of text", isinstance(value, str) and "\n" not in value
    if not fits:
        wanted += ", an object of yours, or its FILE.py:NAME" if own else ""
        wanted += ", or none" if NoneType in kinds else ""
        raise UserError(f"`{name}` must be {wanted}, got {shown(value)}")


def _number(value: Any, whole: bool, low: Any, high: Any, above: bool) -> tuple[str, bool]:
    """What a number must be, in words, and whether a value is that."""
    fits = is_number(value) and (isinstance(value, int) or not whole)
    fits = fits and (low is None or (value > low if above else value >= low))
    fits = fits and (high is None or value <= high)
    form, wanted = "" if whole else "g", "a whole number" if whole else "a number"
    if low is not None:
        wanted += f" above {low:g}" if above else f" from {low:{form}}"
    if high is not None:
        wanted += f" and at most {high:g}" if above else f" to {high:{form}}"
    if fits and not whole and value != 0 and not SMALLEST <= abs(value) <= LARGEST:
        return f"{wanted} that is neither 0 nor infinite in float32", False
    return wanted, fits


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    if isinstance(value, int):  # of any size: a float could not hold it
        return not isinstance(value, bool)
    return isinstance(value, float) and math.isfinite(value)


def is_object(value: Any) -> bool:
    """Whether a value can be an object of the user's: programs are found by it, so it is hashed."""
    try:
        hash(value)
    except TypeError:  # a list, say
        return False
    return not isinstance(value, NoneType | str | bytes | bool | int | float | complex)


def check_list(name: str, values: Sequence[Any], kind: Any, **as_check: Any) -> None:
    """Raise `UserError` for a list that is empty, repeats a value or holds a bad one."""
    if not values:
        raise UserError(f"`{name}` is empty, expected at least one value")
    for value in values:
        check(name, value, kind, **as_check)
    for value, times in Counter(values).items():
        if times > 1:
            raise UserError(
                f"`{name}` names {shown(value)} more than once, expected different values"
            )


@dataclass(frozen=True)
class ExperimentConfig:
    """The settings of one experiment, apart from its sequence length and its seed.

    The defaults are those of the textbook's section 6.1. Where a setting may be the user's own it
    is an object, or a name: one of ours or FILE.py:NAME. Raises `UserError` for a value out of its
    range.
    """

    task: str | Any = knob("digit-sum", "what must be remembered", choices=TASKS, own=True)
    cell: str | Any = knob("srn", "what remembers", choices=CELLS, own=True)
    layers: int = knob(1, "cells on top of each other", low=1, high=16)
    bidirectional: bool = knob(False, "read every sequence from its end, too")
    hidden_size: int = knob(32, "hidden units of the recurrent network", low=1, high=4096)
    embedding_size: int = knob(32, "size of a digit's embedding", low=1, high=4096)
    embedding_init: str = knob(
        "xavier",
        "initial embedding: Xavier uniform, or normal with a deviation of 1",
        choices=("xavier", "normal"),
    )
    recurrent_init: str = knob("xavier", "initial recurrent weights", choices=RECURRENT_INITS)
    forget_bias: float = knob(
        0.0, "added to an LSTM's initial forget bias; 1 is common", low=-1e6, high=1e6, is_data=True
    )
    chrono: float | None = knob(
        None,
        "start gates for memories of up to so many positions (Tallec & Ollivier, 2018)",
        low=2,
        high=1e9,
        above=True,
        is_data=True,
    )
    optimizer: str | Any = knob("adam", "how weights are updated", choices=OPTIMIZERS, own=True)
    learning_rate: float | Any = knob(
        1e-3, "its learning rate", low=0, high=1e30, above=True, own=True, is_data=True
    )
    schedule: str = knob(
        "constant",
        "of the learning rate: constant, to 0 along a cosine, or after a tenth of linear warm-up",
        choices=SCHEDULES,
    )
    weight_decay: float = knob(
        0.0, "shrinks the weights by this times the learning rate", low=0, high=1e30, is_data=True
    )
    loss_reduction: str = knob("mean", "of the losses in a batch", choices=("mean", "sum"))
    clip_norm: float | None = knob(
        None, "clip gradients to this L2 norm", low=0, high=1e30, above=True, is_data=True
    )
    clip: str = knob(
        "per-tensor", "what the clipping norm limits", choices=("per-tensor", "global")
    )
    epochs: int = knob(500, "passes over the training set", low=1, high=1_000_000)
    steps: int | None = knob(None, "training steps, in place of epochs", low=1, high=2**31 - 1)
    batch_size: int = knob(8, "sequences in a batch", low=1, high=1_000_000)
    multiplicity: int = knob(
        3, "size of the training set, in units of the development set's", low=1, high=10_000
    )
    shuffle: bool = knob(False, "train on the examples in another order in every epoch")
    fresh_data: bool = knob(False, "draw new training examples at every step")
    eval_interval: int = knob(100, "training steps between evaluations", low=1, high=1_000_000_000)

    def __post_init__(self) -> None:
        for own in dataclasses.fields(self):
            limits = {k: v for k, v in own.metadata.items() if k not in ("help", "is_data")}
            check(own.name, getattr(self, own.name), own.type, **limits)
        if self.weight_decay and self.optimizer in ("adam", "rmsprop"):
            raise UserError(
                "`weight_decay` goes with `optimizer` adamw or sgd, got " + self.optimizer
            )
        if self.schedule != "constant" and not is_number(self.learning_rate):
            raise UserError("`learning_rate` is a schedule of yours, leave out `schedule`")
        if self.fresh_data and self.shuffle:
            raise UserError("`fresh_data` has no order to change, leave out `shuffle`")

    @property
    def program(self) -> "ExperimentConfig":
        """These settings with all that changes no shape at its default: what is compiled.

        Experiments with equal programs train side by side. Whether gradients are clipped, weights
        decay or gates start for long memories at all is part of the program, and so is a learning
        rate that is a function.
        """
        data: dict[str, Any] = {
            f.name: f.default for f in dataclasses.fields(self) if f.metadata["is_data"]
        }
        data["clip_norm"] = None if self.clip_norm is None else 1.0
        data["chrono"] = None if self.chrono is None else 3.0
        if self.weight_decay:
            data["weight_decay"] = 1.0
        if not is_number(self.learning_rate):
            data["learning_rate"] = self.learning_rate
        return dataclasses.replace(self, **data)


DEFAULTS = ExperimentConfig()


@dataclass(frozen=True)
class DataFolder:
    """A folder of data files, and what was read from it when the run began."""

    path: str
    sha256: str
    vocabulary: int = 10  # tokens are 0..vocabulary - 1
    classes: int = 19  # labels are 0..classes - 1
    chance: float = 0.10  # accuracy of the commonest training label, the mean over lengths
    digests: tuple[str, ...] = ()  # of the three files of each length

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
    probes: tuple[str | Any, ...] = ()  # what is recorded at every step beside the loss
    every_loss: bool = False  # keep the training loss of every step

    def __post_init__(self) -> None:
        check_list("lengths", self.lengths, int, low=1, high=LONGEST)
        check_list("seeds", self.seeds, int, low=0, high=LAST_SEED)
        if self.probes:
            check_list("probes", self.probes, str, choices=PROBES, own=True)
        if self.data is not None and self.experiment.task != DEFAULTS.task:
            raise UserError("`data` holds digits and a label, leave out `task`")
        if self.data is not None and self.experiment.fresh_data:
            raise UserError("`fresh_data` draws its examples, leave out `data` or `textbook`")

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
    better: str = "accuracy"  # by which the best parameters are chosen, or "loss"
    answers: int | None = 1  # of a sequence; None where every position may be asked
