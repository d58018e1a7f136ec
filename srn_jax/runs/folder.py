"""The folder of a run: whose it is, who may write to it, and whether its code may be run.

Opening a run reads JSON, a table, and arrays, and never a pickle. Python in it is run only where
its user has it already, or says that it may be trusted.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from srn_jax.config import SweepConfig
from srn_jax.errors import UserError
from srn_jax.files import (
    PARTIAL,
    check_plain,
    digest,
    naming,
    read_manifest,
    read_written,
    write_atomically,
    write_manifest,
)
from srn_jax.own_files import describe, path_of
from srn_jax.runs.settings import CODE_FOLDER, configs_of, is_nameless, own_files
from srn_jax.runs.table import check_info

RUN_FILE = "run.json"
RESULTS_FILE = "results.csv"
PARTS_FOLDER = "parts"
LOCK_FILE = "lock"
OURS = (  # the run file last: what a kill leaves of a run that is removed is still one
    *(PARTS_FOLDER, "figures", "explanation", CODE_FOLDER, "tables"),
    *("log.txt", "report.md", "report.html", RESULTS_FILE, RUN_FILE),
)
PASSING = (LOCK_FILE, *(name + PARTIAL for name in OURS))
MACHINE_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)


def part_folder(folder: Path, number: int) -> Path:
    """Where a part of a run has its checkpoints, results and histories."""
    return folder / PARTS_FOLDER / str(number)


def read_run(folder: Path) -> dict[str, Any]:
    """The run file of a run folder, checked whole.

    Raises:
        UserError: if it is missing or damaged, or there is a link in the place of a file of ours.
    """
    path = folder / RUN_FILE
    with possible(folder):
        check_plain(folder, (*OURS, *PASSING))
    info = read_manifest(path, ", expected the folder of a run")
    try:
        check_info(info)
    except UserError as error:
        raise UserError(f"{path}: {error}"[:500]) from None
    return info


def write_run(folder: Path, info: Mapping[str, Any]) -> None:
    """Write the run file."""
    write_manifest(folder / RUN_FILE, info)


def read_configs(
    folder: Path | str, *, objects: Mapping[str, Any] | None = None, trust_code: bool = False
) -> list[SweepConfig]:
    """The variants of a run; for the arguments and errors see `configs_in`."""
    path = Path(folder)
    return configs_in(path, read_run(path), objects or {}, trust_code)


def configs_in(
    folder: Path | None, info: Mapping[str, Any], objects: Mapping[str, Any], trust_code: bool
) -> list[SweepConfig]:
    """The variants of a run; the user's own files are the copies in its folder.

    Args:
        folder: the run folder.
        info: what its run file holds.
        objects: what was in no file when the run began, by the name of its setting; a list where
            there are several.
        trust_code: whether its code may be run though the file that it came from is not here.

    Raises:
        UserError: for code that has changed or that nobody vouches for, and objects that are
            missing or not those of then.
    """

    def lookup(name: str, value: Any) -> Any:
        path = path_of(value)
        if path is not None and folder is not None:
            return f"{_trusted(folder, path.name, info, trust_code)}:{value.rpartition(':')[2]}"
        if not is_nameless(value):
            return value
        given = objects.get(name, ())
        every = (
            given if isinstance(given, list | tuple) and not hasattr(given, "_fields") else [given]
        )
        names = [describe(one) for one in every]
        if value in names:
            return every[names.index(value)]
        got = f", got {', '.join(names)}" if names else ""
        raise UserError(
            f"{folder}: its `{name}` is {value}, which is in no file: give that object again, as "
            f"load_run(folder, {name}=...){got}"
        )

    return configs_of(info, lookup)


def _trusted(folder: Path, name: str, info: Mapping[str, Any], trust_code: bool) -> Path:
    """The copy of a user's own file in a run folder, if it may be run."""
    own = info["own"].get(name)
    if own is None:
        raise UserError(f"{folder / RUN_FILE}: damaged (own: nothing is said of {name})")
    path = folder / CODE_FOLDER / name
    read_written(path, own["sha256"], ": put the old file back")
    if not trust_code:
        original = b""
        with suppress(OSError, ValueError):
            original = Path(own["path"]).read_bytes()
        if digest(original) != own["sha256"]:
            raise UserError(
                f"{path} is Python that would be run, and the file that it came from is not here: "
                "read it first, and if you trust it say `trust_code`"
            )
    return path


def keep_own_files(folder: Path, configs: Sequence[SweepConfig]) -> None:
    """Copy the user's own files into the folder of a run."""
    for path, content in own_files(configs).items():
        (folder / CODE_FOLDER).mkdir(exist_ok=True)
        kept = folder / CODE_FOLDER / path.name
        if not (kept.exists() and kept.read_bytes() == content):
            write_atomically(kept, content)


def holds_run(folder: Path, overwrite: bool = False) -> bool:
    """Whether there is a run in a folder that is to be gone on with; changes nothing.

    Raises:
        UserError: if it holds something else that must not be overwritten.
    """
    check_place(folder)
    with possible(folder):
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        check_plain(folder, (*OURS, *PASSING) if overwrite else PASSING)
    content = names - set(PASSING)
    others = sorted(content - set(OURS))
    if overwrite and not others:
        return False
    if RUN_FILE in content and not overwrite:
        return True
    if content:
        holds = "holds more than a run" if RUN_FILE in content else "is no folder of a run"
        has = (others if RUN_FILE in content else sorted(content))[0]
        raise UserError(
            f"{folder} {holds} (it has {has}): move that away, or choose another `folder`"
        )
    return False


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
        raise UserError(f"{folder}: no possible `folder` ({reason})") from None


def check_place(folder: Path) -> None:
    """Raise `UserError` if a folder cannot be there, because something else is in its place."""
    with possible(folder):
        str(folder).encode()  # Orbax can write to no other name
        for path in (folder, *folder.parents):
            if os.path.lexists(path) and not path.is_dir():
                raise UserError(f"{path} is not a folder, expected one (`folder`)")
            if path.name == ".." and not path.is_dir():
                raise UserError(f"{folder}: goes through a folder that is not there (`folder`)")


def make_folder(folder: Path) -> None:
    """Create a folder; raises `UserError` if it can't be there, `OSError` if the machine fails."""
    with possible(folder):
        folder.mkdir(parents=True, exist_ok=True)


def clear(folder: Path) -> None:
    """Remove a run from its folder; touches nothing that is not a run's."""
    for name in (*PASSING[1:], *OURS):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, after one trial of what it must be able to do.

    Raises:
        UserError: if another process holds it.
        OSError: where files cannot be written, made to last, or locked.
    """
    try_out(folder)
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            yield
    except Timeout:
        raise UserError(f"{folder} is in use by another process, wait for it or stop it") from None


def try_out(folder: Path) -> None:
    """Write and lock a small file; raises `OSError` where that cannot be done."""
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:  # which nobody else sees
        file.write(b"Can this file system keep a run?")
        file.flush()
        os.fsync(file.fileno())
        with suppress(ImportError):  # Windows, whose own way filelock takes
            import fcntl

            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                reason = f"files cannot be locked here ({error.strerror})"
                raise OSError(error.errno, reason) from None
