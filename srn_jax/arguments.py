"""From what a user gives, one value or several, names or objects, to the variants of a run."""

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from srn_jax.config import TEXTBOOK_LENGTHS, ExperimentConfig, SweepConfig, check, knob
from srn_jax.errors import UserError, closest, shown
from srn_jax.own_files import describe, name_of
from srn_jax.places import path_from, write_data
from srn_jax.runs.devices import PLATFORMS
from srn_jax.runs.settings import settings_of

SETTINGS = tuple(each.name for each in fields(ExperimentConfig))
QUICK: dict[str, Any] = {"lengths": (5, 10), "seeds": 4, "epochs": 40}
TEXTBOOK: dict[str, Any] = {"data": "runs/textbook-data", "seeds": 1}
SECTIONS: dict[str, dict[str, Any]] = {  # of the textbook's chapter 6; 2026 is its new edition
    "6.1": {},
    "6.2": {
        **{"lengths": (20,), "optimizer": "sgd", "learning_rate": 0.2, "loss_reduction": "sum"},
        **{"batch_size": 64, "epochs": 50, "clip_norm": [None, 5.0]},
        "probes": ("gradient-norm",),
    },
    "6.3": {"cell": ["srn", "lstm"]},
    "2026": {},
}


@dataclass(frozen=True)
class How:
    """How a run is carried out, on what machine; none of this is part of what the run is."""

    platform: str = knob("auto", "where to run", choices=PLATFORMS)
    cpu_devices: int | None = knob(None, "devices on a CPU [one a core]", low=1, high=1024)
    checkpoint_every: float | None = knob(
        None,
        "seconds between checkpoints [30, or more, to stay under 2 % of the time]",
        low=0,
        high=1e9,
        above=True,
    )
    chunk: int | None = knob(
        None,
        "experiments side by side on a device [1 on a CPU, what fits elsewhere]",
        low=1,
        high=1_000_000,
    )
    kernel: bool | None = knob(
        None, "train by kernels written for GPUs [where they suit: newer ones of NVIDIA]"
    )
    command: str = knob("", "what the report names as the way to repeat the run")

    def __post_init__(self) -> None:
        for own in fields(self):
            limits = {k: v for k, v in own.metadata.items() if k not in ("help", "is_data")}
            check(own.name, getattr(self, own.name), own.type, **limits)
        if self.kernel and self.platform in ("cpu", "tpu"):
            raise UserError(f"`kernel` is for GPUs, leave it out with `platform` {self.platform}")


def how_of(given: dict[str, Any], call: str, told: Mapping[str, Any]) -> How:
    """Take what says how out of what was given; where no `command` is, it is a call in Python."""
    command = call_of(call, {k: v for k, v in told.items() if v is not None and v is not False})
    names = [each.name for each in fields(How) if each.name in given]
    how = {name: plain(given.pop(name)) for name in names}
    return How(**{**how, "command": how.get("command") or command})


def with_presets(
    given: Mapping[str, Any], section: str | None, quick: bool, textbook: bool
) -> dict[str, Any]:
    """What was given, and from presets what was not; the textbook's files are written if need be.

    Raises `UserError` for no such section, or lengths that the textbook has no files of.
    """
    if section is not None and section not in SECTIONS:
        raise UserError(f"`section` must be one of {', '.join(SECTIONS)}, got {section!r}")
    chosen: dict[str, Any] = dict(SECTIONS[section]) if section is not None else {}
    if section == "2026":
        from srn_jax.tasks.edition_2026 import SETTINGS as chosen
    chosen = {**chosen, **(QUICK if quick else {}), **(TEXTBOOK if textbook else {})}
    if "steps" in given:
        chosen.pop("epochs", None)
    if "data" in given:
        chosen.pop("lengths", None)  # the folder says which there are
    merged = chosen | dict(given)
    if textbook and "data" not in given:
        lengths = several(merged.setdefault("lengths", TEXTBOOK_LENGTHS))
        if not set(lengths) <= set(TEXTBOOK_LENGTHS):
            known = ", ".join(map(str, TEXTBOOK_LENGTHS))
            raise UserError(f"`lengths`: the textbook has files of {known} alone, see `data`")
        list(write_data(merged["data"]))  # all: the book draws them from one stream
    return merged


def configs_of(
    lengths: Any = None,
    seeds: Any = None,
    data: Any = None,
    probes: Any = (),
    every_loss: bool = False,
    **settings: Any,
) -> list[SweepConfig]:
    """The variants that the arguments of `train` describe; raises `UserError` as it does."""
    check_names(settings)
    if settings.get("steps") is not None and "epochs" in settings:
        raise UserError("`steps` and `epochs` both say how long to train, give one of them")
    if data is not None and "multiplicity" in settings:
        raise UserError("`multiplicity` is for drawn data, leave it out with `data`")
    files, chosen = None, several(TEXTBOOK_LENGTHS if lengths is None else lengths)
    if data is not None:
        from srn_jax.interop import textbook_files

        path = path_from("data", data)
        chosen = chosen if lengths is not None else textbook_files.lengths_in(path)
        if chosen == (textbook_files.ANY,):
            files, splits = textbook_files.read_data(str(path), textbook_files.ANY)
            chosen = tuple(splits)
    elif chosen == ("any",):
        raise UserError("`lengths` any is of files with sequences of all lengths, give `data`")
    check("every_loss", every_loss, bool)
    sweep = SweepConfig(
        lengths=chosen,
        seeds=seeds_of(8 if seeds is None else seeds),
        probes=tuple(named("probes", value) for value in several(probes)),
        every_loss=every_loss,
    )
    configs = [replace(sweep, experiment=each) for each in variants_of({}, settings)]
    if data is not None and files is None:
        files, _ = textbook_files.read_data(str(path), chosen)
    return [replace(config, data=files) for config in configs]


def variants_of(base: Mapping[str, Any], settings: Mapping[str, Any]) -> list[ExperimentConfig]:
    """An experiment for each combination of values; raises `UserError` for a value given twice."""
    values = {name: [named(name, v) for v in several(given)] for name, given in settings.items()}
    for name, each in values.items():
        if not each:
            raise UserError(f"`{name}` is empty, expected at least one value")
        if any(each.count(value) > 1 for value in each):
            raise UserError(f"`{name}` has a value more than once")
    combined = itertools.product(*values.values())
    return [ExperimentConfig(**{**base, **dict(zip(values, one, strict=True))}) for one in combined]


def grown(
    configs: Sequence[SweepConfig], lengths: Any, seeds: Any, more: Mapping[str, Any]
) -> list[SweepConfig]:
    """The variants of a run, and with them what shall be added.

    Raises `UserError` for fewer seeds than there are, and settings that cannot be.
    """
    check_names(more)
    first = configs[0]
    all_lengths = (*first.lengths, *(() if lengths is None else several(lengths)))
    wanted = () if seeds is None else seeds_of(seeds, first.seeds[0])
    if isinstance(plain(seeds), int) and len(wanted) < len(first.seeds):
        raise UserError(
            f"`seeds` {plain(seeds)}: the run has {len(first.seeds)} of them already, give a "
            "number that adds to them"
        )
    experiments = {str(settings_of(config.experiment)): config.experiment for config in configs}
    for config in configs if more else ():
        base = {name: getattr(config.experiment, name) for name in SETTINGS}
        for one in variants_of(base, more):
            experiments.setdefault(str(settings_of(one)), one)
    both = {"lengths": all_lengths, "seeds": (*first.seeds, *wanted)}
    unique: dict[str, Any] = {name: tuple(dict.fromkeys(each)) for name, each in both.items()}
    sweep = replace(first, **unique)
    if first.data is not None and sweep.lengths != first.lengths:
        from srn_jax.interop.textbook_files import read_data

        sweep = replace(sweep, data=read_data(first.data.path, sweep.lengths)[0])
    return [replace(sweep, experiment=each) for each in experiments.values()]


def check_names(settings: Mapping[str, Any]) -> None:
    """Raise `UserError` for a setting that there is not, with the one that may have been meant."""
    for name in settings:
        if name not in SETTINGS:
            meant = closest(name, SETTINGS)
            hint = f"did you mean `{meant}`?" if meant else f"expected one of {', '.join(SETTINGS)}"
            raise UserError(f"no setting {name!r}, {hint}")


def named(setting: str, value: Any) -> Any:
    """The value of a setting: a name for an object that has one, or the object."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    ours: Mapping[str, Any] = {}
    if setting == "cell":
        from srn_jax.cells import BY_NAME as ours
    elif setting == "task":
        from srn_jax.tasks import BY_NAME as ours
    return name_of(value, ours)


def seeds_of(seeds: Any, first: int = 0) -> tuple[Any, ...]:
    """So many seeds, or those that are named."""
    seeds = plain(seeds)
    if not isinstance(seeds, int):
        return several(seeds)
    check("seeds", seeds, int, low=1, high=1_000_000)  # before they are counted out
    return tuple(range(first, first + seeds))


def several(values: Any) -> tuple[Any, ...]:
    """One value or several as a tuple; a text is one, and so is an optimizer of optax."""
    values = plain(values)
    listed = isinstance(values, list | tuple | range | set | frozenset | Iterator)
    listed = listed or (hasattr(values, "dtype") and getattr(values, "ndim", 0) == 1)
    return tuple(map(plain, values)) if listed and not hasattr(values, "_fields") else (values,)


def plain(value: Any) -> Any:
    """A number of NumPy's or JAX's as one of Python's, anything else as it is.

    Of a float of another precision it is the shortest decimal that means it: 0.01 for
    `np.float32(0.01)`, whose value is 0.009999999776482582.
    """
    if not hasattr(value, "dtype") or getattr(value, "ndim", None) != 0:
        return value
    import numpy as np

    scalar: Any = np.asarray(value)[()]
    decimal = isinstance(scalar, np.floating)
    return float(np.format_float_scientific(scalar)) if decimal else scalar.item()


def call_of(name: str, given: Mapping[str, Any]) -> str:
    """A call as a command that can be pasted into a terminal; objects stand by their names."""
    texts = []
    for key, value in given.items():
        values = (str(value),) if key == "folder" else several(value)
        simple = [v is None or isinstance(v, str | bool | int | float) for v in values]
        said = [shown(v if s else describe(v)) for v, s in zip(values, simple, strict=True)]
        texts.append(f"{key}={said[0] if len(said) == 1 else '[' + ', '.join(said) + ']'}")
    return shlex.join(["python", "-c", f"import srn_jax; srn_jax.{name}({', '.join(texts)})"])
