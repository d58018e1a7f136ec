"""The folder of a run: whose it is, who may write to it, and the file that says what it holds.

The run file is also the run's manifest: it holds digests of itself, of the results and of the
histories, which are checked whenever one of them is read.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from srn_jax.analysis.results import (
    HISTORIES_FILE,
    LOG_FILE,
    PARTIAL,
    RESULTS_FILE,
    RUN_FILE,
    Run,
    read_bytes,
    read_histories,
    read_manifest,
    read_results,
    write_atomically,
    write_manifest,
)
from srn_jax.config import SweepConfig
from srn_jax.errors import UserError
from srn_jax.runs.settings import (
    CODE_FOLDER,
    config_of,
    differences,
    digest,
    own_files,
    settings_of,
    variants_of,
)

if TYPE_CHECKING:
    from srn_jax.runs.storage import Checkpoint  # which loads JAX

STUDY_FILE = "study.json"
LOCK_FILE = "lock"
REPORT_FILE = "report.md"
PAGE_FILE = "report.html"
TABLES_FOLDER = "tables"
EXPLANATION_FOLDER = "explanation"
NEW_SEEDS_FOLDER = "new-seeds"  # a run of the seeds that another one lacks, until they are joined
OLD_KINDS: dict[str, type | tuple[type, ...]] = {  # what a run file without a digest holds
    "settings": dict,
    "command": str,
    "device": str,
    "versions": dict,
    "seconds": (int, float),
    "finished": bool,
}
OURS = (
    *("checkpoints", "figures", EXPLANATION_FOLDER, CODE_FOLDER, TABLES_FOLDER, NEW_SEEDS_FOLDER),
    *(HISTORIES_FILE, LOG_FILE, PAGE_FILE, REPORT_FILE, RESULTS_FILE, RUN_FILE),
)
MACHINE_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)


def read_run(folder: Path) -> dict[str, Any]:
    """The run file of a run folder; raises `UserError` if it is missing or damaged."""
    path = folder / RUN_FILE
    check_single(folder)
    info = read_manifest(path)
    try:
        if "sha256" not in info:  # of an old version, which nothing but its look vouches for
            for name in info.keys() | OLD_KINDS.keys():
                if not isinstance(info[name], OLD_KINDS[name]):
                    raise TypeError(f"{name} is {info[name]!r}")
            if not math.isfinite(info["seconds"]):
                raise ValueError(f"seconds is {info['seconds']!r}")
            json.dumps(info, ensure_ascii=False).encode()  # which half of a character cannot be
        config_of(info["settings"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: damaged ({error})"[:500]) from None
    return info


def write_run(folder: Path, info: dict[str, Any]) -> None:
    """Write the run file."""
    write_manifest(folder / RUN_FILE, info)


def read_finished(folder: Path, info: dict[str, Any]) -> Run:
    """A run that has ended, from its files alone.

    Raises:
        UserError: if they are damaged, or hold other experiments than the run.
    """
    config = config_of(info["settings"])
    run = Run(read_results(folder), read_histories(folder), info)
    lengths, seeds = (list(column) for column in zip(*config.experiments, strict=True))
    for name, table in ((RESULTS_FILE, run.results), (HISTORIES_FILE, run.histories)):
        if table is None or (table.length.tolist(), table.seed.tolist()) != (lengths, seeds):
            raise UserError(f"{folder / name}: its experiments are not those of the run")
    return run


def config_in(folder: Path, settings: dict[str, Any]) -> SweepConfig:
    """The sweep of settings that a folder holds; its own files are the copies in the folder.

    Raises:
        UserError: for settings that are not a sweep's, and if a copy is not the file of then.
    """
    config = config_of(settings, folder)
    for name, sha256 in settings.get("own_files", {}).items():
        path = folder / CODE_FOLDER / name
        if digest(read_bytes(path)) != sha256:
            raise UserError(f"{path} has changed since the run began, put the old file back")
    return config


def keep_own_files(folder: Path, config: SweepConfig) -> None:
    """Copy the user's own files into a folder, whose settings are the sweep's."""
    for name, content in own_files(config).items():
        (folder / CODE_FOLDER).mkdir(exist_ok=True)
        write_atomically(folder / CODE_FOLDER / name, content)


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
            f"{folder} holds a run with other settings ({'; '.join(different)}): choose another "
            "--out, or --overwrite to lose that run (more seeds: --resume RUN --seeds N)"
        )


@contextmanager
def possible(folder: Path) -> Iterator[None]:
    """Raise `UserError` for what can't be a folder; what makes the machine fail stays `OSError`."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in MACHINE_FAILS:
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{folder}: no possible folder ({reason}), see --out") from None


def check_place(folder: Path) -> None:
    """Raise `UserError` if a folder cannot be there, because something else is in its place."""
    with possible(folder):
        str(folder).encode()  # Orbax can write to no other name
        for path in (folder, *folder.parents):
            if os.path.lexists(path) and not path.is_dir():
                raise UserError(f"{path} is not a folder, expected one (--out)")
            if path.name == ".." and not path.is_dir():
                raise UserError(f"{folder}: goes through a folder that is not there (--out)")


def check_room(folder: Path, size: int) -> None:
    """Raise `UserError` for more bytes than there is room for in a folder, or where it will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if size > free:
        raise UserError(f"{folder}: only {free / 1e6:,.1f} MB are free there, draw fewer examples")


def make_folder(folder: Path) -> None:
    """Create a folder; raises `UserError` if it can't be there, `OSError` if the machine fails."""
    with possible(folder):
        folder.mkdir(parents=True, exist_ok=True)


def content_of(folder: Path) -> set[str]:
    """The names in a folder that mean something; none if there is no folder."""
    with possible(folder):
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
        names = [*read_study(folder)]
        if set(names) != set(wanted):
            raise UserError(
                f"{folder} holds other variants ({', '.join(names)}): "
                "choose another --out, or --overwrite to lose their comparison"
            )
    for name, settings in wanted.items():
        check_folder(folder / name, settings, overwrite)


def write_study(folder: Path, configs: Sequence[SweepConfig]) -> None:
    """Create the folder of several variants, with their settings and the user's own files."""
    make_folder(folder)
    settings = {name: settings_of(config) for name, config in variants_of(configs).items()}
    write_manifest(folder / STUDY_FILE, settings)
    for config in configs:
        keep_own_files(folder, config)


def read_study(folder: Path) -> dict[str, SweepConfig]:
    """The variants of a folder of several; raises `UserError` if its file is damaged."""
    path = folder / STUDY_FILE
    settings = read_manifest(path)
    settings.pop("sha256", None)
    if len(settings) < 2:
        raise UserError(f"{path}: damaged (it holds {len(settings)} variants)")
    try:
        return {name: config_in(folder, own) for name, own in settings.items()}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def read_configs(folder: Path) -> list[SweepConfig]:
    """The sweeps of a run folder or of a folder of variants; raises `UserError` for neither."""
    if os.path.lexists(folder / STUDY_FILE):
        return [*read_study(folder).values()]
    return [config_in(folder, read_run(folder)["settings"])]


def check_single(folder: Path) -> None:
    """Raise `UserError` for a folder of several variants, where a run is wanted."""
    if os.path.lexists(folder / STUDY_FILE) and not os.path.lexists(folder / RUN_FILE):
        runs = ", ".join(str(folder / name) for name in read_study(folder))
        raise UserError(f"{folder} holds several runs, choose one: {runs}")


def runs_in(folder: Path) -> list[Path]:
    """The run folders that a folder of variants holds; of anything else, the folder itself.

    Raises `UserError` if a variant has not been begun.
    """
    if not os.path.lexists(folder / STUDY_FILE):
        return [folder]
    runs = [folder / name for name in read_study(folder)]
    missing = [run.name for run in runs if not os.path.lexists(run / RUN_FILE)]
    if missing:
        raise UserError(
            f"{folder} is not finished, {missing[0]} has not begun: --resume {folder} goes on"
        )
    return runs


def with_seeds(run: Path, number: int) -> list[SweepConfig]:
    """The sweeps of a finished run or of variants, with so many seeds from the first one on.

    Raises:
        UserError: if they are not finished, or have that many seeds already.
    """
    configs = read_configs(run)
    for folder in runs_in(run):
        if not read_run(folder)["finished"]:
            raise UserError(f"{folder} is not finished, --resume it without --seeds first")
    old = configs[0].seeds
    seeds = tuple(range(old[0], old[0] + number))
    if number <= len(old) or seeds[: len(old)] != old:
        has = ", ".join(map(str, old[:20]))
        raise UserError(f"--seeds {number}: {run} has seeds {has}, give a number that adds to them")
    return [replace(config, seeds=seeds) for config in configs]


def clear(folder: Path) -> None:
    """Remove a run from its folder; touches nothing that is not a run's."""
    # The run file last: what a kill leaves behind is still the folder of a run.
    for name in (*OURS, *(name + PARTIAL for name in OURS)):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[os.stat_result]:
    """Hold the folder for this process, yielding its lock; the lock dies with its owner.

    Raises:
        UserError: if another process holds it.
    """
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            yield os.stat(folder / LOCK_FILE)
    except Timeout:
        raise UserError(f"{folder} is in use by another process, wait for it or stop it") from None


def check_free(folders: Sequence[Path]) -> None:
    """Raise `UserError` if another process holds one of some folders, before any is changed."""
    for folder in folders:
        if (folder / LOCK_FILE).exists():
            with locked(folder):
                pass


@dataclass
class OpenRun:
    """A run whose folder process 0 holds; in other processes nothing but its settings."""

    folder: Path
    config: SweepConfig
    info: dict[str, Any] = field(default_factory=dict)  # the content of its run file
    lock: os.stat_result | None = None
    start: "Checkpoint | None" = None  # from which it goes on
    run: Run | None = None  # once it is finished

    def check(self) -> None:
        """Raise `OSError` if its folder is no longer the one that was locked."""
        with suppress(OSError):
            if self.lock and os.path.samestat(self.lock, os.stat(self.folder / LOCK_FILE)):
                return
        raise OSError(f"{self.folder} was removed or replaced while its run was going on")

    def write(self, **changes: Any) -> None:
        """Write the run file, with some of its content changed."""
        self.check()
        self.info |= changes
        write_run(self.folder, self.info)
