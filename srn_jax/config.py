"""Every knob of the experiment: its default, its one-line help and its check, without JAX."""

# ruff: noqa: RUF009 (a knob is a field)
import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Sequence
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
POSITIVE: dict[str, Any] = {"low": 0, "high": 1e30, "above": True, "is_data": True}


def knob(default, help, *, own=False, is_data=False, **limits) -> Any:
    """A dataclass field with its help line and its limits, which are as in `check`.

    Experiments that differ in what `is_data` can share a program, since it changes no shape.
    """
    told = {"help": help, "own": own, "is_data": is_data}
    nothing = {"low": None, "high": None, "above": False, "choices": ()}
    return field(default=default, metadata=nothing | told | limits)


def option_name(field_name: str) -> str:
    """The command-line spelling of a field: `hidden_size` -> `--hidden-size`."""
    return "--" + field_name.replace("_", "-")


def check(name, value, kind, *, low=None, high=None, above=False, choices=(), own=False):
    """Raise `UserError` for a value that a setting of this name cannot have.

    `kind` is int, float, bool or str, or a union of one of them with None. A number is from `low`,
    or `above` it, to `high`; what may be the user's `own` may be an object or its FILE.py:NAME.
    """
    kinds = set(get_args(kind)) or {kind}
    theirs = own and (path_of(value) is not None or is_object(value))
    if theirs or (value is None and NoneType in kinds):
        return
    if bool in kinds:
        wanted, fits = "true or false", isinstance(value, bool)
    elif int in kinds or float in kinds:
        whole = float not in kinds
        fits = is_number(value) and (isinstance(value, int) or not whole)
        form, wanted = ("", "a whole number") if whole else ("g", "a number")
        if low is not None:
            wanted += f" above {low:g}" if above else f" from {low:{form}}"
            fits = fits and (value > low if above else value >= low)
        if high is not None:
            wanted += f" and at most {high:g}" if above else f" to {high:{form}}"
            fits = fits and value <= high
        if fits and not whole and value != 0 and not SMALLEST <= abs(value) <= LARGEST:
            wanted, fits = f"{wanted} that is neither 0 nor infinite in float32", False
    elif choices:
        wanted, fits = f"one of {', '.join(choices)}", isinstance(value, str) and value in choices
    else:
        wanted, fits = "a line of text", isinstance(value, str) and "\n" not in value
    if not fits:
        wanted += ", an object of yours, or its FILE.py:NAME" if own else ""
        wanted += ", or none" if NoneType in kinds else ""
        raise UserError(f"`{name}` must be {wanted}, got {shown(value)}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    if isinstance(value, int):  # of any size: a float could not hold it
        return not isinstance(value, bool)
    return isinstance(value, float) and math.isfinite(value)


def is_object(value: Any) -> bool:
    """Whether a value can be an object of the user's: programs are found by its hash."""
    plain = isinstance(value, NoneType | str | bytes | bool | int | float | complex)
    return isinstance(value, Hashable) and not plain


def check_list(name: str, values: Sequence[Any], kind: Any, **as_check: Any) -> None:
    """Raise `UserError` for a list that is empty, repeats a value or holds a bad one."""
    if not values:
        raise UserError(f"`{name}` is empty, expected at least one value")
    for value in values:
        check(name, value, kind, **as_check)
    value, times = Counter(values).most_common(1)[0]
    if times > 1:
        raise UserError(f"`{name}` names {shown(value)} more than once, expected once")


@dataclass(frozen=True)
class ExperimentConfig:
    """The settings of one experiment, apart from its sequence length and its seed.

    The defaults are those of the textbook's section 6.1; a wrong value is a `UserError`.
    """

    task: str | Any = knob("digit-sum", "what must be remembered", choices=TASKS, own=True)
    cell: str | Any = knob("srn", "what remembers", choices=CELLS, own=True)
    layers: int = knob(1, "cells on top of each other", low=1, high=16)
    bidirectional: bool = knob(False, "read every sequence from its end, too")
    hidden_size: int = knob(32, "hidden units of the recurrent network", low=1, high=4096)
    embedding_size: int = knob(32, "size of a digit's embedding", low=1, high=4096)
    embedding_init: str = knob(
        "xavier", "Xavier uniform, or normal with a deviation of 1", choices=("xavier", "normal")
    )
    recurrent_init: str = knob("xavier", "initial recurrent weights", choices=RECURRENT_INITS)
    forget_bias: float = knob(
        0.0, "added to an LSTM's initial forget bias; 1 is common", low=-1e6, high=1e6, is_data=True
    )
    chrono: float | None = knob(
        None, "start gates for memories of up to so many positions", **(POSITIVE | {"low": 2})
    )
    optimizer: str | Any = knob("adam", "how weights are updated", choices=OPTIMIZERS, own=True)
    learning_rate: float | Any = knob(1e-3, "its learning rate", **POSITIVE, own=True)
    schedule: str = knob(
        "constant", "of the learning rate, to 0 at the end; warm-up is a tenth", choices=SCHEDULES
    )
    weight_decay: float = knob(
        0.0, "shrinks the weights by this times the learning rate", low=0, high=1e30, is_data=True
    )
    loss_reduction: str = knob("mean", "of the losses in a batch", choices=("mean", "sum"))
    clip_norm: float | None = knob(None, "clip gradients to this L2 norm", **POSITIVE)
    clip: str = knob("per-tensor", "what the norm limits", choices=("per-tensor", "global"))
    epochs: int = knob(500, "passes over the training set", low=1, high=1_000_000)
    steps: int | None = knob(None, "training steps, in place of epochs", low=1, high=2**31 - 1)
    batch_size: int = knob(8, "sequences in a batch", low=1, high=1_000_000)
    multiplicity: int = knob(3, "size of the training set in development sets", low=1, high=10_000)
    shuffle: bool = knob(False, "train on the examples in another order in every epoch")
    fresh_data: bool = knob(False, "draw new training examples at every step")
    eval_interval: int = knob(100, "training steps between evaluations", low=1, high=1_000_000_000)

    def __post_init__(self) -> None:
        for own in dataclasses.fields(self):
            limits = {k: v for k, v in own.metadata.items() if k not in ("help", "is_data")}
            check(own.name, getattr(self, own.name), own.type, **limits)
        if self.weight_decay and self.optimizer in ("adam", "rmsprop"):
            raise UserError(f"`weight_decay` needs `optimizer` adamw or sgd, got {self.optimizer}")
        if self.schedule != "constant" and not is_number(self.learning_rate):
            raise UserError("`learning_rate` is a schedule of yours, leave out `schedule`")
        if self.fresh_data and self.shuffle:
            raise UserError("`fresh_data` has no order to change, leave out `shuffle`")

    @property
    def program(self) -> "ExperimentConfig":
        """These settings with all that changes no shape at its default: what is compiled.

        Whether gradients are clipped, weights decay or gates start for long memories at all is part
        of it, and so is a learning rate that is a function.
        """
        own = dataclasses.fields(self)
        data: dict[str, Any] = {f.name: f.default for f in own if f.metadata["is_data"]}
        data["weight_decay"] = float(self.weight_decay > 0)
        data["clip_norm"], data["chrono"] = self.clip_norm and 1.0, self.chrono and 3.0
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
    """A sweep: one experiment for each sequence length and seed, all with the same settings."""

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
