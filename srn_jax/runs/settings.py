"""The settings of a run as JSON: what decides its results, and nothing else.

A folder of data and a file of the user's own count by their content, wherever they are. Settings
are compared as configurations, with defaults filled in, so a new knob locks nobody out.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srn_jax.analysis.results import read_bytes
from srn_jax.config import DEFAULTS, TEXTBOOK_LENGTHS, DataFolder, ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.own_files import path_of
from srn_jax.runs.old_version import translate_settings

CODE_FOLDER = "code"  # of a run: copies of the user's own files


def settings_of(config: SweepConfig) -> dict[str, Any]:
    """The settings of a sweep as plain JSON values.

    Raises:
        UserError: if a file of the user's cannot be read, or two have the same name.
    """
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    settings["experiment"] |= shown_settings(config.experiment)
    digests = {name: digest(content) for name, content in own_files(config).items()}
    settings["probes"] = [without_folder(name) for name in config.probes]
    return settings | ({"own_files": digests} if digests else {})


def shown_settings(experiment: ExperimentConfig) -> dict[str, Any]:
    """The settings of an experiment by name, a user's own files without their folders."""
    settings = dataclasses.asdict(experiment)
    return settings | {name: without_folder(settings[name]) for name in ("cell", "task")}


def config_of(settings: dict[str, Any], folder: Path = Path()) -> SweepConfig:
    """The inverse of `settings_of`, for settings of this version or the one before.

    Args:
        settings: out of a run file or a checkpoint.
        folder: the run folder, whose copies of the user's own files are taken.

    Raises:
        UserError: for settings that are not a sweep's.
    """
    try:
        settings = translate_settings(settings)
        data = settings["data"]
        if data is not None:  # JSON has no tuples
            data = DataFolder(**data | {"digests": tuple(data.get("digests", ()))})
        experiment = dict(settings["experiment"])
        for name in ("cell", "task"):
            experiment[name] = in_folder(experiment.get(name, getattr(DEFAULTS, name)), folder)
        return SweepConfig(
            lengths=tuple(settings["lengths"]),
            seeds=tuple(settings["seeds"]),
            experiment=ExperimentConfig(**experiment),
            data=data,
            probes=tuple(in_folder(name, folder) for name in settings.get("probes", ())),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"damaged settings of a run ({error})") from None


def digest(content: bytes) -> str:
    """SHA-256 as text."""
    return hashlib.sha256(content).hexdigest()


def own_paths(config: SweepConfig) -> list[Path]:
    """The user's own files that a sweep needs."""
    names = (config.experiment.cell, config.experiment.task, *config.probes)
    return [path for path in map(path_of, names) if path is not None]


def own_files(config: SweepConfig) -> dict[str, bytes]:
    """Their content, by their names without a folder.

    Raises:
        UserError: if one cannot be read, or two have the same name.
    """
    found: dict[str, bytes] = {}
    for path in own_paths(config):
        content = read_bytes(path)
        if found.setdefault(path.name, content) != content:
            raise UserError(f"{path}: another file of this name is in use, rename one of them")
    return found


def without_folder(name: str) -> str:
    """FILE.py:NAME with the file's name alone; any other name as it is."""
    path = path_of(name)
    return name if path is None else f"{path.name}:{name.rpartition(':')[2]}"


def in_folder(name: str, folder: Path) -> str:
    """FILE.py:NAME with the copy of the file that a run keeps; any other name as it is."""
    return name if path_of(name) is None else f"{folder / CODE_FOLDER / without_folder(name)}"


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """What must be equal in two runs that are the same, by name."""
    config = config_of(settings)
    values = dataclasses.asdict(config.experiment)
    values |= {"lengths": [*config.lengths], "seeds": [*config.seeds], "probes": [*config.probes]}
    values["data"] = config.data.sha256[:12] if config.data else "drawn"
    for name, value in settings.get("own_files", {}).items():
        values[name] = str(value)[:12]
    return values


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings in which two runs differ, as `name: old value, now new value`."""
    before, now = flat(old), flat(new)
    data, others = (config_of(settings).data for settings in (old, new))
    if data and others and before["data"] == now["data"] and not data.same(others):
        before["data"] += ", with its files cut elsewhere"
    return [
        f"{name}: {before.get(name, 'none')}, now {now.get(name, 'none')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def variants_of(configs: Sequence[SweepConfig]) -> dict[str, SweepConfig]:
    """The sweeps by the settings in which they differ: `hidden_size=16`, `cell=mine.Mine`.

    Raises:
        UserError: if two files of the user's have the same name.
    """
    experiments = [settings_of(config)["experiment"] for config in configs]
    varying = [name for name in experiments[0] if len({e[name] for e in experiments}) > 1]
    names = [",".join(f"{n}={e[n]}".replace(".py:", ".") for n in varying) for e in experiments]
    if len(set(names)) < len(names):
        raise UserError("two of the files have the same name and class, rename one of them")
    return dict(zip(names, configs, strict=True))


def default_folder(configs: Sequence[SweepConfig]) -> Path:
    """A folder that belongs to these settings, so that the same command finds its own run again."""
    told = []
    for config in configs:  # a knob that later versions add changes no name while at its default
        settings = flat(settings_of(config))
        plain = dataclasses.asdict(DEFAULTS)
        told.append({k: v for k, v in settings.items() if k not in plain or v != plain[k]})
    name = digest(json.dumps(told, sort_keys=True).encode())[:8]
    sweep = configs[0]
    experiments = [settings_of(config)["experiment"] for config in configs]
    words = []
    for knob, default in dataclasses.asdict(DEFAULTS).items():
        values = [*dict.fromkeys(experiment[knob] for experiment in experiments)]
        if values != [default] or knob == "cell":
            text = "+".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
            named = knob in ("task", "cell", "optimizer", "recurrent_init")
            first = "" if named else knob.partition("_")[0]
            words.append(first if values[0] is True else first + text.replace(".py:", "."))
    if sweep.data is not None:
        words.append(Path(sweep.data.path).name)
    if sweep.lengths != TEXTBOOK_LENGTHS:
        several = len(sweep.lengths) > 1
        words.append(f"{len(sweep.lengths)}lengths" if several else f"length{sweep.lengths[0]}")
    words.append(f"{len(sweep.seeds)}seed{'s' * (len(sweep.seeds) != 1)}")
    return Path("runs") / f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', '-'.join(words))[:100]}-{name}"
