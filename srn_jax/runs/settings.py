"""What a run is: a table of experiments (variant, length, seed) that only grows, as JSON.

A part is a rectangle of the table, variants x lengths x seeds, whose variants share a program.
Parts do not overlap, and what is in one is never trained or moved again. Files of the user's own
count by their content; an object that is in no file is NAME@DIGEST, and is given again.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from srn_jax.config import DataFolder, ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.files import digest, digest_of, read_bytes
from srn_jax.own_files import describe, path_of

FORMAT = 1  # of run.json
OWN_FIELDS = tuple(f.name for f in dataclasses.fields(ExperimentConfig) if f.metadata["own"])
SHARED = ("lengths", "seeds", "data", "probes", "every_loss")  # by the variants of a run


def recorded(value: Any) -> Any:
    """A setting as it is written down: a number, a name, FILE.py:NAME or NAME@DIGEST."""
    if value is None or isinstance(value, bool | int | float):
        return value
    path = path_of(value)
    return describe(value) if path is None else f"{path.name}:{value.rpartition(':')[2]}"


def is_nameless(value: Any) -> bool:
    """Whether what is recorded is an object that is in no file."""
    return isinstance(value, str) and "@" in value and path_of(value) is None


def settings_of(experiment: ExperimentConfig) -> dict[str, Any]:
    """The settings of a variant, as plain JSON values by name."""
    return {name: recorded(value) for name, value in vars(experiment).items()}


def in_order(configs: Sequence[SweepConfig]) -> list[SweepConfig]:
    """The variants of a run with lengths and seeds in the order of its table: from small to large.

    Raises `UserError` if they differ in more than their settings, or two are the same.
    """
    first, settings = configs[0], [settings_of(config.experiment) for config in configs]
    if any(getattr(one, name) != getattr(first, name) for one in configs for name in SHARED):
        raise UserError(f"the variants of a run have the same {', '.join(SHARED)}")
    twice = next((one for n, one in enumerate(settings) if one in settings[:n]), None)
    if twice is not None:
        told = ", ".join(f"{name} {twice[name]}" for name in ("cell", "task", "learning_rate"))
        raise UserError(f"two variants have the same settings ({told}), expected different ones")
    lengths, seeds = sorted(first.lengths), tuple(sorted(first.seeds))
    data = _data_of(first, lengths)
    return [replace(one, lengths=tuple(lengths), seeds=seeds, data=data) for one in configs]


def _data_of(config: SweepConfig, lengths: Sequence[int]) -> DataFolder | None:
    """The data of some of its lengths."""
    if config.data is None or not config.data.digests:
        return config.data
    by_length = dict(zip(config.lengths, config.data.digests, strict=True))
    return replace(config.data, digests=tuple(by_length[n] for n in lengths))


def table_of(configs: Sequence[SweepConfig]) -> dict[str, Any]:
    """What run.json says of the experiments that are asked for; `configs` are of `in_order`."""
    first = configs[0]
    table = {
        **{"lengths": first.lengths, "seeds": first.seeds, "every_loss": first.every_loss},
        "variants": [settings_of(config.experiment) for config in configs],
        "data": None if first.data is None else dataclasses.asdict(first.data),
        "probes": [recorded(probe) for probe in first.probes],
        "own": {
            path.name: {"sha256": digest(content), "path": str(path.absolute())}
            for path, content in own_files(configs).items()
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(table))  # lists for tuples
    return plain


def own_files(configs: Sequence[SweepConfig]) -> dict[Path, bytes]:
    """The user's own files that a run needs, with their content; two may not have the same name."""
    found: dict[str, tuple[Path, bytes]] = {}
    for config in configs:
        named = [getattr(config.experiment, name) for name in OWN_FIELDS]
        for path in filter(None, map(path_of, (*named, *config.probes))):
            content = read_bytes(path)
            if found.setdefault(path.name, (path, content))[1] != content:
                raise UserError(f"{path}: another file of this name is in use, rename one of them")
    return dict(found.values())


def configs_of(table: Mapping[str, Any], lookup: Callable[[str, Any], Any]) -> list[SweepConfig]:
    """The inverse of `table_of`; raises `UserError` for settings that are not a run's.

    `lookup` gets the name and the recorded value of settings that may be the user's own.
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


def sketch(name: str, value: Any) -> Any:
    """A `lookup` for settings that are looked at, and never run."""
    return object() if is_nameless(value) else value


def grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The table of a run and what is asked for now, and why they are not one run, if so.

    Variants that are there keep their place, and new ones come after them.
    """
    wrong: list[str] = []

    def compare(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> list[str]:
        told = [(name, one.get(name), other.get(name)) for name in sorted({**one, **other})]
        return [f"{name}: {was}, now {now}" for name, was, now in told if was != now]

    for had in old["variants"]:
        wrong += sorted((compare(had, has) for has in new["variants"]), key=len)[0]
    for name in ("lengths", "seeds"):
        if lacking := sorted(set(old[name]) - set(new[name])):
            wrong.append(f"{name}: {old[name]}, now without {', '.join(map(str, lacking))}")
    both = old["own"].keys() & new["own"].keys()
    own = [{name: one["own"][name]["sha256"][:12] for name in both} for one in (old, new)]
    had, has = ({name: one[name] for name in ("probes", "every_loss")} for one in (old, new))
    wrong += [*compare(had, has), *compare(*own)]
    had, has = _files_of(old), _files_of(new)
    if had != {name: has.get(name) for name in had}:
        names = [one["data"]["sha256"][:12] if one["data"] else "drawn" for one in (old, new)]
        wrong.append("data: {}, now {}".format(*names))
    variants = [*old["variants"], *(one for one in new["variants"] if one not in old["variants"])]
    # Of files of the user's own, it keeps where those were that the run began with.
    return {**new, "variants": variants, "own": {**new["own"], **old["own"]}}, wrong


def _files_of(table: Mapping[str, Any]) -> dict[Any, Any]:
    """What must stay as it is of a table's data: the files of each length, and the vocabulary."""
    data = table["data"]
    if data is None:
        return {"drawn": True}
    sizes = {name: data[name] for name in ("vocabulary", "classes")}
    return sizes | dict(zip(table["lengths"], data["digests"], strict=True))


def part_experiments(part: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """The (variant, length, seed) of each experiment of a part, in the order of its rows."""
    return [(v, n, s) for v in part["variants"] for n in part["lengths"] for s in part["seeds"]]


def with_parts(info: dict[str, Any], configs: Sequence[SweepConfig]) -> dict[str, Any]:
    """The table with new parts for the experiments that are in none; `configs` are its variants."""
    there = {experiment for part in info["parts"] for experiment in part_experiments(part)}
    new: dict[Any, list[int]] = {}  # variants by their program, lengths and seeds
    for variant, config in enumerate(configs):
        lengths_of: dict[tuple[int, ...], list[int]] = {}
        for length in info["lengths"]:
            seeds = tuple(s for s in info["seeds"] if (variant, length, s) not in there)
            if seeds:
                lengths_of.setdefault(seeds, []).append(length)
        for seeds, lengths in lengths_of.items():
            key = config.experiment.program, tuple(lengths), seeds
            new.setdefault(key, []).append(variant)
    parts: list[Any] = [
        {
            **{"variants": variants, "lengths": [*lengths], "seeds": [*seeds]},
            **{"kernel": None, "places": [], "seconds": 0.0, "files": {}, "finished": False},
        }
        for (_, lengths, seeds), variants in new.items()
    ]
    finished = info["finished"] and not parts
    return {**info, "parts": [*info["parts"], *parts], "finished": finished}


def part_configs(part: Mapping[str, Any], configs: Sequence[SweepConfig]) -> list[SweepConfig]:
    """The sweeps that a part trains side by side; `configs` are the variants of its run."""
    shape: dict[str, Any] = {name: tuple(part[name]) for name in ("lengths", "seeds")}
    data = _data_of(configs[0], part["lengths"])
    return [replace(configs[variant], data=data, **shape) for variant in part["variants"]]


def part_digest(configs: Sequence[SweepConfig], own: Mapping[str, Any]) -> str:
    """What a checkpoint says of the experiments it is of; `configs` are of `part_configs`."""
    first = configs[0]
    told = [settings_of(config.experiment) for config in configs]
    probes = [recorded(probe) for probe in first.probes]
    named = [value for settings in told for value in settings.values()] + probes
    used = {path.name: own[path.name]["sha256"] for path in filter(None, map(path_of, named))}
    files = first.data.digests if first.data else None
    return digest_of([told, first.lengths, first.seeds, files, probes, first.every_loss, used])
