"""The settings of a run as JSON: what decides its results, and nothing else.

A folder of data and a file of the user's own count by their content, wherever they are. An object
that is in no file stands there as NAME@DIGEST, and whoever opens the run gives it again.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srn_jax.config import DataFolder, ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.files import digest, read_bytes
from srn_jax.own_files import describe, path_of

CODE_FOLDER = "code"  # of a run: copies of the user's own files
OWN_FIELDS = tuple(f.name for f in dataclasses.fields(ExperimentConfig) if f.metadata["own"])
SHARED = ("lengths", "seeds", "data", "probes", "every_loss")  # by the variants of a run


@dataclass(frozen=True)
class Missing:
    """Stands for an object that is in no file and has not been given again."""

    name: str


def recorded(value: Any) -> Any:
    """A setting as it is written down: a number, a name, FILE.py:NAME or NAME@DIGEST."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Missing):
        return value.name
    path = path_of(value)
    return describe(value) if path is None else f"{path.name}:{value.rpartition(':')[2]}"


def settings_of(experiment: ExperimentConfig) -> dict[str, Any]:
    """The settings of a variant, as plain JSON values by name."""
    values = {f.name: getattr(experiment, f.name) for f in dataclasses.fields(experiment)}
    return {name: recorded(value) for name, value in values.items()}


def in_order(configs: Sequence[SweepConfig]) -> list[SweepConfig]:
    """The variants of a run with lengths and seeds in the order of its table: from small to large.

    Raises:
        UserError: if they differ in more than their settings, or two are the same.
    """
    first, ordered = configs[0], []
    for config in configs:
        if any(getattr(config, name) != getattr(first, name) for name in SHARED):
            raise UserError(f"the variants of a run have the same {', '.join(SHARED)}")
        data = config.data
        if data is not None and data.digests:
            by_length = dict(zip(config.lengths, data.digests, strict=True))
            data = replace(data, digests=tuple(by_length[n] for n in sorted(config.lengths)))
        lengths, seeds = (tuple(sorted(column)) for column in (config.lengths, config.seeds))
        ordered.append(replace(config, lengths=lengths, seeds=seeds, data=data))
    settings = [settings_of(config.experiment) for config in ordered]
    twice = next((one for n, one in enumerate(settings) if one in settings[:n]), None)
    if twice is not None:
        told = ", ".join(f"{name} {twice[name]}" for name in ("cell", "task", "learning_rate"))
        raise UserError(f"two variants have the same settings ({told}), expected different ones")
    return ordered


def table_of(configs: Sequence[SweepConfig]) -> dict[str, Any]:
    """What run.json says of the experiments that are asked for; `configs` are of `in_order`.

    Raises:
        UserError: if a file of the user's cannot be read, or two have the same name.
    """
    first = configs[0]
    own = {
        path.name: {"sha256": digest(content), "path": str(path.absolute())}
        for path, content in own_files(configs).items()
    }
    table = {
        "lengths": first.lengths,
        "seeds": first.seeds,
        "variants": [settings_of(config.experiment) for config in configs],
        "data": None if first.data is None else dataclasses.asdict(first.data),
        "probes": [recorded(probe) for probe in first.probes],
        "every_loss": first.every_loss,
        "own": own,
    }
    plain: dict[str, Any] = json.loads(json.dumps(table))  # lists for tuples
    return plain


def own_files(configs: Sequence[SweepConfig]) -> dict[Path, bytes]:
    """The user's own files that a run needs, with their content.

    Raises:
        UserError: if one cannot be read, or two of different content have the same name.
    """
    found: dict[str, tuple[Path, bytes]] = {}
    for config in configs:
        named = [getattr(config.experiment, name) for name in OWN_FIELDS]
        for path in filter(None, map(path_of, (*named, *config.probes))):
            content = read_bytes(path)
            if found.setdefault(path.name, (path, content))[1] != content:
                raise UserError(f"{path}: another file of this name is in use, rename one of them")
    return dict(found.values())


def configs_of(table: Mapping[str, Any], lookup: Callable[[str, Any], Any]) -> list[SweepConfig]:
    """The inverse of `table_of`.

    Args:
        table: what run.json holds.
        lookup: called with the name of a setting and what is recorded, for settings that may be
            the user's own.

    Raises:
        UserError: for settings that are not a run's.
    """
    data, known = table["data"], {f.name for f in dataclasses.fields(ExperimentConfig)}
    if data is not None:
        data = DataFolder(**data | {"digests": tuple(data["digests"])})
    shared: dict[str, Any] = {name: tuple(table[name]) for name in ("lengths", "seeds")}
    shared |= {"data": data, "every_loss": table["every_loss"]}
    shared["probes"] = tuple(lookup("probes", name) for name in table["probes"])
    configs = []
    for settings in table["variants"]:
        if strange := settings.keys() - known:
            raise UserError(f"there is no setting {min(strange)!r}")
        own = {name: lookup(name, settings[name]) for name in OWN_FIELDS if name in settings}
        configs.append(SweepConfig(experiment=ExperimentConfig(**{**settings, **own}), **shared))
    return configs


def is_nameless(value: Any) -> bool:
    """Whether what is recorded is an object that is in no file."""
    return isinstance(value, str) and "@" in value and path_of(value) is None


def sketch(name: str, value: Any) -> Any:
    """A `lookup` for settings that are looked at, and never run."""
    return Missing(value) if is_nameless(value) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where two variants differ, as `name: old value, now new value`."""
    names = sorted(old.keys() | new.keys())
    return [
        f"{name}: {old.get(name)}, now {new.get(name)}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The table of a run and what is asked for now, and why they are not one run, if so.

    Variants that are there keep their place, and new ones come after them.
    """
    wrong: list[str] = []
    for settings in old["variants"]:
        told = [differences(settings, other) for other in new["variants"]]
        nearest: list[str] = min(told, key=len)
        wrong += nearest
    for name in ("lengths", "seeds"):
        if lacking := sorted(set(old[name]) - set(new[name])):
            wrong.append(f"{name}: {old[name]}, now without {', '.join(map(str, lacking))}")
    for name in ("probes", "every_loss"):
        if old[name] != new[name]:
            wrong.append(f"{name}: {old[name]}, now {new[name]}")
    for name in sorted(old["own"].keys() & new["own"].keys()):
        one, other = (table["own"][name]["sha256"][:12] for table in (old, new))
        if one != other:
            wrong.append(f"{name}: {one}, now {other}")
    if told_of_data(old) != {n: d for n, d in told_of_data(new).items() if n in told_of_data(old)}:
        names = (table["data"]["sha256"][:12] if table["data"] else "drawn" for table in (old, new))
        wrong.append("data: {}, now {}".format(*names))
    variants = [*old["variants"], *(one for one in new["variants"] if one not in old["variants"])]
    own = {**new["own"], **old["own"]}  # where the files were that the run began with
    return {**new, "variants": variants, "own": own}, wrong


def told_of_data(table: Mapping[str, Any]) -> dict[Any, Any]:
    """What must stay as it is of a table's data: the files of each length, and the vocabulary."""
    data = table["data"]
    if data is None:
        return {"drawn": True}
    sizes = {name: data[name] for name in ("vocabulary", "classes")}
    return sizes | dict(zip(table["lengths"], data["digests"], strict=True))
