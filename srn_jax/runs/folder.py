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

from srn_jax import files
from srn_jax.config import SweepConfig
from srn_jax.errors import UserError, shown
from srn_jax.own_files import OWN, describe, path_of
from srn_jax.runs import settings

RUN_FILE = "run.json"
RESULTS_FILE = "results.csv"
PARTS_FOLDER = "parts"
CODE_FOLDER = "code"  # copies of the user's own files
LOCK_FILE = "lock"
OURS = (  # the run file last: what a kill leaves of a run that is removed is still one
    *(PARTS_FOLDER, "figures", "explanation", CODE_FOLDER, "tables"),
    *("log.txt", "report.md", "report.html", RESULTS_FILE, RUN_FILE),
)
PASSING = (LOCK_FILE, *(name + files.PARTIAL for name in OURS))
MACHINE_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)
OLDER = "runs of versions before format 1 are not read, train it again in another folder"

# Kinds of JSON values: a type, a list [kind], a mapping {str: kind}, an object with some names, or
# a tuple of alternatives. Names that begin with a question mark may be missing.
TEXTS: Any = {str: str}
PLACE: Any = {f"?{name}": str for name in ("device", "processor", "commit", "date")}
PLACE |= {"?versions": TEXTS, "?outside": TEXTS}
PART: Any = {name: [int] for name in ("variants", "lengths", "seeds", "?places")}
PART |= {"kernel": (bool, None), "files": TEXTS, "finished": bool, "seconds": float}
DATA = {"path": str, "sha256": str, "vocabulary": int, "classes": int, "chance": float}
FACTS = {"question": str, "title": str, "chance": (float, None), "chance_loss": (float, None)}
FACTS |= {"test_examples": int, "fixed_data": bool, "better": str, "answers": (int, None)}
RUN = {"command": str, "lengths": [int], "seeds": [int], "every_loss": bool, "sha256": str}
RUN |= {"variants": [{str: (bool, float, str, None)}], "data": ({**DATA, "digests": [str]}, None)}
RUN |= {"probes": [str], "own": {str: {"sha256": str, "path": str}}, "parts": [PART]}
RUN |= {"facts": [FACTS], "phases": {str: float}, "seconds": float, "files": TEXTS}
RUN |= {"finished": bool, "?went_on": [PLACE], **PLACE}


def read_run(folder: Path) -> dict[str, Any]:
    """The run file of a run folder, checked whole; raises `UserError`, for planted links, too."""
    path = folder / RUN_FILE
    files.check_plain(folder, (*OURS, *PASSING))
    info = files.read_manifest(path, ", expected the folder of a run")
    try:
        check_info(info)
    except UserError as error:
        raise UserError(f"{path}: {error}"[:500]) from None
    return info


def misfit(value: Any, kind: Any, name: str) -> str:
    """The first JSON value of another kind than it must be, as `its place: the value`, or ""."""
    told: list[tuple[Any, Any, str]] = []
    if isinstance(kind, tuple):
        return f"{name}: {shown(value)}" if all(misfit(value, one, name) for one in kind) else ""
    if isinstance(kind, list) and type(value) is list:
        told = [(one, kind[0], f"{name}[{number}]") for number, one in enumerate(value)]
    elif isinstance(kind, dict) and type(value) is dict and str in kind:
        told = [(one, kind[str], f"{name}.{shown(key)}") for key, one in value.items()]
    elif isinstance(kind, dict) and type(value) is dict:
        for key, inner in kind.items():
            if (plain := key.removeprefix("?")) in value:
                told.append((value[plain], inner, f"{name}.{plain}"))
            elif plain == key:
                return f"{name}.{key} is missing"
    elif not (type(value) is kind or (kind is float and type(value) is int) or value is kind):
        return f"{name}: {shown(value)}"
    return next(filter(None, (misfit(*one) for one in told)), "")


def check_info(info: Mapping[str, Any]) -> None:
    """Raise `UserError` for what no run of this version writes, whatever its digest says."""
    form = info.get("format")
    if form != settings.FORMAT:
        newer = isinstance(form, int) and form > settings.FORMAT
        raise UserError(f"it is of a newer version (format {form})" if newer else OLDER)
    try:
        if wrong := misfit(info, RUN, "run.json"):
            raise ValueError(wrong)
        for name in info["own"]:
            if not OWN.fullmatch(f"{name}:x") or any(sign in name for sign in "/\\:\0"):
                raise ValueError(f"own: {shown(name)} is not the name of a file")
        if len(info["facts"]) != len(info["variants"]):
            raise ValueError("facts: of other variants")
        if info["data"] is not None and len(info["data"]["digests"]) != len(info["lengths"]):
            raise ValueError("data: digests of other lengths")
        settings.configs_of(info, settings.sketch)
        if any(sorted(info[name]) != info[name] for name in ("lengths", "seeds")):
            raise ValueError("lengths or seeds are not in their order")
        parts = [settings.part_experiments(part) for part in info["parts"]]
        every = sorted(experiment for part in parts for experiment in part)
        variants = range(len(info["variants"]))
        if every != [(v, n, s) for v in variants for n in info["lengths"] for s in info["seeds"]]:
            raise ValueError("its parts are not the experiments of the run")
        if info["finished"] and not all(part["finished"] for part in info["parts"]):
            raise ValueError("it is finished, and its parts are not")
    except ValueError as error:  # a mistake in settings is one, too
        raise UserError(f"damaged ({error})") from None


def read_configs(
    folder: Path | str, *, objects: Mapping[str, Any] | None = None, trust_code: bool = False
) -> list[SweepConfig]:
    """The variants of a run; for the arguments and errors see `configs_in`."""
    path = Path(folder)
    return configs_in(path, read_run(path), objects or {}, trust_code)


def configs_in(
    folder: Path | None, info: Mapping[str, Any], objects: Mapping[str, Any], trust_code: bool
) -> list[SweepConfig]:
    """The variants of a run, whose run file holds `info`, with the copies of the user's own files.

    Raises `UserError` for code that has changed, or that nobody vouches for (the file that it came
    from is not here, nor `trust_code`), and where `objects` lack one that was in no file when the
    run began; they are by the name of the setting, and a list where there are several.
    """

    def lookup(name: str, value: Any) -> Any:
        path = path_of(value)
        if path is not None and folder is not None:
            own, copy = info["own"].get(path.name, {}), folder / CODE_FOLDER / path.name
            content = files.read_written(copy, own.get("sha256", ""), ": put the old file back")
            original = b""
            with suppress(OSError, ValueError):
                original = Path(own["path"]).read_bytes()
            if content == original or trust_code:
                return f"{copy}:{value.rpartition(':')[2]}"
            raise UserError(
                f"{copy} is Python that would be run, and the file that it came from is not here: "
                "read it first, and if you trust it say `trust_code`"
            )
        if not settings.is_nameless(value):
            return value
        given = objects.get(name, [])
        every = given if type(given) in (list, tuple) else [given]  # optimizers are tuples, too
        names = [describe(one) for one in every]
        if value in names:
            return every[names.index(value)]
        got = f", got {', '.join(names)}" if names else ""
        raise UserError(
            f"{folder}: its `{name}` is {value}, which is in no file: give that object again, as "
            f"load_run(folder, {name}=...){got}"
        )

    return settings.configs_of(info, lookup)


def keep_own_files(folder: Path, configs: Sequence[SweepConfig]) -> None:
    """Copy the user's own files into the folder of a run."""
    for path, content in settings.own_files(configs).items():
        (folder / CODE_FOLDER).mkdir(exist_ok=True)
        files.write_atomically(folder / CODE_FOLDER / path.name, content)


def holds_run(folder: Path, overwrite: bool = False) -> bool:
    """Whether there is a run in a folder that is to be gone on with; changes nothing.

    Raises `UserError` if it holds something else, that must not be overwritten.
    """
    check_place(folder)
    files.check_plain(folder, (*OURS, *PASSING) if overwrite else PASSING)
    content = set(os.listdir(folder) if folder.exists() else ()) - set(PASSING)
    others = sorted(content - set(OURS))
    if not content or (overwrite and not others):
        return False
    if RUN_FILE in content and not overwrite:
        return True
    holds = "holds more than a run" if RUN_FILE in content else "is no folder of a run"
    has = (others if RUN_FILE in content else sorted(content))[0]
    raise UserError(f"{folder} {holds} (it has {has}): move that away, or choose another `folder`")


def check_place(folder: Path) -> None:
    """Raise `UserError` if a folder cannot be there, because something else is in its place."""
    with possible(folder), suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(folder)
    for path in (folder, *folder.parents):
        if os.path.lexists(path) and not path.is_dir():
            raise UserError(f"{path} is not a folder, expected one (`folder`)")


def make_folder(folder: Path) -> None:
    """Create a folder; raises `UserError` if it can't be there, `OSError` if the machine fails."""
    with possible(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def possible(folder: Path) -> Iterator[None]:
    """Raise `UserError` for what can't be a folder; what makes the machine fail stays `OSError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in MACHINE_FAILS:
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{folder}: no possible `folder` ({reason})") from None


def clear(folder: Path) -> None:
    """Remove a run from its folder; touches nothing that is not a run's."""
    for name in (*PASSING[1:], *OURS):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process, after one trial of what it must be able to do.

    Raises `UserError` if another has it, `OSError` where files can't be written, kept or locked.
    """
    with files.naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"Can this file system keep a run?")
        file.flush()
        os.fsync(file.fileno())
        with suppress(ImportError):  # Windows, whose own way filelock takes
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            yield
    except Timeout:
        raise UserError(f"{folder} is in use by another process, wait for it or stop it") from None
