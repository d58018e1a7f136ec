"""The folder of a run: whose it is, who may write to it, and the settings it was started with."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from srn_jax.analysis.results import HISTORIES_FILE, LOG_FILE, PARTIAL, RESULTS_FILE, write_json
from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import SPLITS

RUN_FILE = "run.json"
STUDY_FILE = "study.json"
LOCK_FILE = "lock"
REPORT_FILE = "report.md"
PAGE_FILE = "report.html"
TABLES_FOLDER = "tables"
KINDS: dict[str, type | tuple[type, ...]] = {  # what a run file holds
    "settings": dict,
    "command": str,
    "device": str,
    "versions": dict,
    "seconds": (int, float),
    "finished": bool,
}
OURS = (
    "checkpoints",
    "figures",
    TABLES_FOLDER,
    HISTORIES_FILE,
    LOG_FILE,
    PAGE_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    RUN_FILE,
)


def settings_of(config: SweepConfig) -> dict[str, Any]:
    """The settings of a sweep as plain JSON values; a data folder counts by its content."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    if config.data is not None:
        settings["data_sha256"] = data_digest(Path(config.data), config.lengths)
    return settings


def config_of(settings: dict[str, Any]) -> SweepConfig:
    """The inverse of `settings_of`; raises `UserError` for settings that are not a sweep's."""
    try:
        if not isinstance(settings["data"], str | None) or "\0" in (settings["data"] or ""):
            raise TypeError(f"data is {settings['data']!r}")
        return SweepConfig(
            lengths=tuple(settings["lengths"]),
            seeds=tuple(settings["seeds"]),
            experiment=ExperimentConfig(**settings["experiment"]),
            data=settings["data"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"damaged settings of a run ({error})") from None


def data_digest(folder: Path, lengths: tuple[int, ...]) -> str:
    """SHA-256 over the data files that a sweep reads; raises `UserError` if one can't be read."""
    digest = hashlib.sha256()
    for length in lengths:
        for name in SPLITS:
            path = folder / str(length) / f"{name}.txt"
            try:
                digest.update(path.read_bytes())
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def check_data(config: SweepConfig, sha256: str | None) -> None:
    """Raise `UserError` if the files in a run's data folder are not those that it began with."""
    if config.data is not None and data_digest(Path(config.data), config.lengths) != sha256:
        raise UserError(f"{config.data} has changed since the run, which had other data")


def default_folder(configs: Sequence[SweepConfig]) -> Path:
    """A folder that belongs to these settings, so that the same command finds its own run again."""
    settings = [settings_of(config) for config in configs]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    sweep = configs[0]
    parts = [f"{len(sweep.lengths)}-lengths", f"{len(sweep.seeds)}-seeds"]
    parts.append(
        f"{sweep.experiment.epochs}-epochs" if len(configs) == 1 else f"{len(configs)}-variants"
    )
    return Path("runs") / "-".join([*parts, digest[:8]])


def variants_of(configs: Sequence[SweepConfig]) -> dict[str, SweepConfig]:
    """The sweeps by the settings in which they differ: `hidden_size=16`."""
    experiments = [dataclasses.asdict(config.experiment) for config in configs]
    varying = [name for name in experiments[0] if len({e[name] for e in experiments}) > 1]
    names = [",".join(f"{name}={e[name]}" for name in varying) for e in experiments]
    return dict(zip(names, configs, strict=True))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings in which two runs differ, as `name: old value, now new value`."""

    def flat(settings: dict[str, Any]) -> dict[str, Any]:
        return {
            k: v for k, v in settings.items() if k not in ("experiment", "data")
        } | settings.get("experiment", {})

    old, new = flat(old), flat(new)
    return [
        f"{name}: {old.get(name)}, now {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def read_run(folder: Path) -> dict[str, Any]:
    """The run file of a run folder; raises `UserError` if it is missing or damaged."""
    path = folder / RUN_FILE
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        config_of(info["settings"])
        for name, kind in KINDS.items():
            if not isinstance(info[name], kind):
                raise TypeError(f"{name} is {info[name]!r}")
        if not math.isfinite(info["seconds"]):
            raise ValueError(f"seconds is {info['seconds']!r}")
    except OSError as error:
        reason = error.strerror
        raise UserError(
            f"{path}: cannot be read ({reason}), expected the folder of a run"
        ) from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error})") from None
    return info


def write_run(folder: Path, info: dict[str, Any]) -> None:
    """Write the run file."""
    write_json(folder / RUN_FILE, info)


def check_folder(folder: Path, settings: dict[str, Any], overwrite: bool = False) -> bool:
    """Whether the folder holds a run of these settings; changes nothing.

    Raises:
        UserError: if it holds something else that must not be overwritten.
    """
    check_place(folder)
    content = content_of(folder)
    others = sorted(content - set(OURS))
    if overwrite and not others:
        return False
    if RUN_FILE in content:
        if overwrite:
            raise UserError(
                f"{folder} holds more than a run (it has {others[0]}): move that away before "
                "--overwrite, or choose another --out"
            )
        check_settings(folder, read_run(folder)["settings"], settings)
        return True
    if content:
        raise UserError(
            f"{folder} is not empty and not the folder of a run (it has "
            f"{sorted(content)[0]}), choose another --out"
        )
    return False


def check_settings(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `UserError` if what was found in a run folder has other settings than wanted."""
    different = differences(found, wanted)
    if different:
        raise UserError(
            f"{folder} holds a run with other settings ({'; '.join(different)}): "
            "choose another --out, or --overwrite to lose that run"
        )


def check_place(folder: Path) -> None:
    """Raise `UserError` if a folder cannot be there, because a file is in its place."""
    try:
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file, expected a folder (--out)")
    except OSError as error:
        raise UserError(f"{folder}: no possible folder ({error.strerror})") from None


def content_of(folder: Path) -> set[str]:
    """The names in a folder that mean something; none if there is no folder."""
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return names - {LOCK_FILE, *(name + PARTIAL for name in (*OURS, STUDY_FILE))}


def check_folders(folder: Path, configs: Sequence[SweepConfig], overwrite: bool) -> None:
    """`check_folder` for one sweep, or for each of several variants below the folder."""
    if len(configs) == 1:
        check_folder(folder, settings_of(configs[0]), overwrite)
        return
    check_place(folder)
    wanted = {name: settings_of(config) for name, config in variants_of(configs).items()}
    content = content_of(folder)
    if content and STUDY_FILE not in content:
        raise UserError(f"{folder} is not empty and holds no variants, choose another --out")
    if content and not overwrite:
        names = [*variants_of(read_configs(folder))]
        if set(names) != set(wanted):
            raise UserError(
                f"{folder} holds other variants ({', '.join(names)}): "
                "choose another --out, or --overwrite to lose their comparison"
            )
    for name, settings in wanted.items():
        check_folder(folder / name, settings, overwrite)


def write_study(folder: Path, configs: Sequence[SweepConfig]) -> None:
    """Create the folder of several variants, with their settings."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: settings_of(config) for name, config in variants_of(configs).items()}
    write_json(folder / STUDY_FILE, settings)


def read_configs(folder: Path) -> list[SweepConfig]:
    """The sweeps of a run folder or of a folder of variants; raises `UserError` for neither."""
    if not (folder / STUDY_FILE).exists():
        return [config_of(read_run(folder)["settings"])]
    try:
        settings = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))
        configs = [config_of(own) for own in settings.values()]
        if len(configs) < 2 or [*variants_of(configs)] != [*settings]:
            raise ValueError("its variants are not what their names say")
    except (OSError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / STUDY_FILE}: damaged ({error})") from None
    return configs


def runs_in(folder: Path) -> list[Path]:
    """The run folders that a folder of variants holds; of anything else, the folder itself."""
    if not (folder / STUDY_FILE).exists():
        return [folder]
    return [folder / name for name in variants_of(read_configs(folder))]


def clear(folder: Path) -> None:
    """Remove a run from its folder; touches nothing that is not a run's."""
    for name in (*OURS, *(name + PARTIAL for name in OURS)):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold the folder for this process; the lock dies with its owner.

    Yields a function that raises `OSError` if the folder is no longer the one that was locked.

    Raises:
        UserError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield lambda: None
        return
    with open(folder / LOCK_FILE, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder} is in use by another process, wait for it or stop it"
            ) from None

        def check() -> None:
            try:
                same = os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK_FILE))
            except OSError:
                same = False
            if not same:
                raise OSError(f"{folder} was removed or replaced while its run was going on")

        yield check
