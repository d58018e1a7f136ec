"""Files that survive: written whole or not at all, never through a link, with digests.

A run folder may come from a stranger. So what is written under a name of ours is always a new
file, and `check_plain` finds the links that someone has put in the place of one.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from srn_jax.errors import UserError

PARTIAL = ".partial"  # ends the name of what was being written when a run was killed


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make every `OSError` one that names the path: writing and closing do not say it."""
    try:
        yield
    except OSError as error:
        if str(path) in str(error):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises `OSError`, with the path, if it cannot be written; the old content is there then.
    """
    partial = path.with_name(path.name + PARTIAL)
    with naming(path):
        partial.unlink(missing_ok=True)  # of a run that was killed, or a link: never its target
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, outlast a power cut."""
    if os.name == "posix" or path.is_file():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_bytes(path: Path, advice: str = "") -> bytes:
    """The content of a file; raises `UserError`, with `advice` at its end, if it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # the latter for a null byte in the path
        reason = getattr(error, "strerror", error)
        raise UserError(f"{path}: cannot be read ({reason}){advice}") from None


def read_written(path: Path, sha256: str, advice: str = "") -> bytes:
    """The content of a file that must be what was written; raises `UserError` if it is not."""
    content = read_bytes(path, advice)
    if digest(content) != sha256:
        raise UserError(f"{path}: damaged (it is not what the run wrote){advice}")
    return content


def check_plain(folder: Path, names: Iterable[str]) -> None:
    """Raise `UserError` for a link, or what is no file or folder, at or below some names."""
    for path in (folder / name for name in names):
        mode = path.lstat().st_mode if os.path.lexists(path) else stat.S_IFREG
        if stat.S_ISDIR(mode):
            check_plain(path, os.listdir(path))
        elif not stat.S_ISREG(mode):
            kind = "link" if stat.S_ISLNK(mode) else "special file"
            raise UserError(
                f"{path} is a {kind}, but a run writes and reads plain files alone: look where it "
                "comes from, and remove it"
            )


def digest(content: bytes | memoryview) -> str:
    """SHA-256 as text."""
    return hashlib.sha256(content).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of plain values, by their JSON text."""
    return digest(json.dumps(value, sort_keys=True).encode())


def write_manifest(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as a JSON file that a person can read, with a digest of them."""
    values = {name: value for name, value in values.items() if name != "sha256"}
    values["sha256"] = digest_of(values)
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def parse_manifest(content: bytes) -> dict[str, Any]:
    """What `write_manifest` has written; raises `ValueError` if it is anything else."""
    try:
        values: dict[str, Any] = json.loads(content)
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()  # to be printed
        sha256 = values.get("sha256")
        found = digest_of({name: value for name, value in values.items() if name != "sha256"})
    except (AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"{error}"[:200]) from None
    if sha256 not in (None, found):
        raise ValueError("it is not what was written")
    return values


def read_manifest(path: Path, advice: str = "") -> dict[str, Any]:
    """A file of `write_manifest`; raises `UserError` if it is missing or not what was written."""
    content = read_bytes(path, advice)
    try:
        return parse_manifest(content)
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error})") from None
