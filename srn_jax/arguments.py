"""From what a user gives, one value or several, names or objects, to the variants of a run."""

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from srn_jax.config import TEXTBOOK_LENGTHS, ExperimentConfig, SweepConfig, check
from srn_jax.errors import UserError, closest, shown
from srn_jax.naming import path_from
from srn_jax.own_files import describe, name_of
from srn_jax.runs.devices import PLATFORMS
from srn_jax.runs.settings import settings_of

SETTINGS = tuple(each.name for each in fields(ExperimentConfig))


@dataclass(frozen=True)
class How:
    """How a run is carried out; none of this is part of what the run is.

    `platform` is one of `runs.devices.PLATFORMS`, a CPU is divided into `cpu_devices` (None: one a
    core), a checkpoint is written every `checkpoint_every` seconds (None: 30 or more, so that they
    take less than 2 % of the time), `chunk` experiments stand side by side on a device, `kernel`
    says whether kernels for GPUs train (None: where they suit), and `command` is what the report
    names as the way to repeat it.
    """

    platform: str = "auto"
    cpu_devices: int | None = None
    checkpoint_every: float | None = None
    chunk: int | None = None
    kernel: bool | None = None
    command: str = ""

    def __post_init__(self) -> None:
        check("platform", self.platform, str, choices=PLATFORMS)
        check("cpu_devices", self.cpu_devices, int | None, low=1, high=1024)
        check("checkpoint_every", self.checkpoint_every, float | None, low=0, high=1e9, above=True)
        check("chunk", self.chunk, int | None, low=1, high=1_000_000)
        check("kernel", self.kernel, bool | None)
        if self.kernel and self.platform in ("cpu", "tpu"):
            raise UserError(f"`kernel` is for GPUs, leave it out with `platform` {self.platform}")


def how_of(given: dict[str, Any], call: str) -> How:
    """Take what says how out of what was given; `call` is the command where there is none."""
    names = [each.name for each in fields(How)]
    told = {name: plain(given.pop(name)) for name in names if name in given}
    return How(**{**told, "command": told.get("command") or call})


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
    files = None if data is None else path_from("data", data)
    if files is not None and "multiplicity" in settings:
        raise UserError("`multiplicity` is for drawn data, leave it out with `data`")
    check("every_loss", every_loss, bool)
    if files is not None and lengths is None:
        from srn_jax.interop.textbook_files import lengths_in

        lengths = lengths_in(files)
    sweep = SweepConfig(
        lengths=several(TEXTBOOK_LENGTHS if lengths is None else lengths),
        seeds=seeds_of(8 if seeds is None else seeds),
        probes=tuple(named("probes", value) for value in several(probes)),
        every_loss=every_loss,
    )
    configs = [replace(sweep, experiment=each) for each in variants_of({}, settings)]
    return configs if files is None else with_data(configs, str(files))


def with_data(configs: Sequence[SweepConfig], path: str) -> list[SweepConfig]:
    """Variants that train on files; what is wrong with those shows here."""
    from srn_jax.interop.textbook_files import read_data

    folder, _ = read_data(path, configs[0].lengths)
    return [replace(config, data=folder) for config in configs]


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

    Raises:
        UserError: for fewer seeds than there are, and settings that cannot be.
    """
    check_names(more)
    first = configs[0]
    all_lengths = tuple(
        dict.fromkeys((*first.lengths, *several(() if lengths is None else lengths)))
    )
    wanted = () if seeds is None else seeds_of(seeds, first.seeds[0])
    if isinstance(plain(seeds), int) and len(wanted) < len(first.seeds):
        raise UserError(
            f"`seeds` {plain(seeds)}: the run has {len(first.seeds)} of them already, give a "
            "number that adds to them"
        )
    experiments = [config.experiment for config in configs]
    told = [settings_of(one) for one in experiments]
    for config in configs if more else ():
        base = {name: getattr(config.experiment, name) for name in SETTINGS}
        for one in variants_of(base, more):
            if (settings := settings_of(one)) not in told:
                told.append(settings)
                experiments.append(one)
    all_seeds = tuple(dict.fromkeys((*first.seeds, *wanted)))
    sweep = replace(first, lengths=all_lengths, seeds=all_seeds)
    grown = [replace(sweep, experiment=each) for each in experiments]
    added = first.data is not None and all_lengths != first.lengths
    return with_data(grown, first.data.path) if added and first.data else grown


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
    """One value or several as a tuple; a text is one, and so is an object."""
    values = plain(values)
    if isinstance(values, tuple) and hasattr(values, "_fields"):  # as an optax optimizer is
        return (values,)
    listed = isinstance(values, list | tuple | range | set | frozenset | Iterator)
    if listed or (hasattr(values, "dtype") and getattr(values, "ndim", 0) == 1):
        return tuple(map(plain, values))
    return (values,)


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

    def said(value: Any) -> str:
        simple = value is None or isinstance(value, str | bool | int | float)
        return shown(value if simple else describe(value))

    told = {key: value if key == "folder" else several(value) for key, value in given.items()}
    each = {
        key: said(str(values)) if key == "folder" else [said(v) for v in values]
        for key, values in told.items()
    }
    texts = [
        f"{key}={v if isinstance(v, str) else v[0] if len(v) == 1 else '[' + ', '.join(v) + ']'}"
        for key, v in each.items()
    ]
    return shlex.join(["python", "-c", f"import srn_jax; srn_jax.{name}({', '.join(texts)})"])
