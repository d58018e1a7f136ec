"""Classes in a user's own file, named as FILE.py:NAME on the command line."""

import hashlib
import sys
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from srn_jax.checks import OWN
from srn_jax.errors import UserError


def path_of(name: str) -> Path | None:
    """The file of FILE.py:NAME; None for a name of this project's own."""
    match = OWN.fullmatch(name)
    return Path(match["path"]) if match else None


def load_class(name: str) -> Any:
    """The class that FILE.py:NAME names.

    Raises:
        UserError: if the file cannot be read or run, or has no such class; with the line, if the
            mistake is in one.
    """
    path = path_of(name)
    assert path is not None, name
    wanted = name.rpartition(":")[2]
    found = getattr(load_file(path), wanted, None)
    if not isinstance(found, type):
        raise UserError(f"{path}: no class {wanted} in it (--cell and --task name FILE.py:CLASS)")
    return found


def load_file(path: Path) -> types.ModuleType:
    """Run a user's file, once for each content that it has."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return _run(path.absolute(), content)


@cache
def _run(path: Path, content: bytes) -> types.ModuleType:
    # Named by its content: dataclasses and pickling look a class up by its module.
    module = types.ModuleType(f"{path.stem}_{hashlib.sha256(content).hexdigest()[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    if b"\0" in content:  # of which Python does not say where it is
        raise UserError(f"{path}: holds a null byte, expected Python")
    with own_mistakes(path):
        exec(compile(content, str(path), "exec"), module.__dict__)
    return module


@contextmanager
def own_mistakes(*paths: Path | None) -> Iterator[None]:
    """Turn an exception that comes out of one of a user's files into one line that names it."""
    own = {str(path.absolute()) for path in paths if path is not None}
    try:
        yield
    except UserError:
        raise
    except SyntaxError as error:
        if error.filename not in own:
            raise
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in own]
        if not lines:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{lines[-1].filename}, line {lines[-1].lineno}: {reason}") from None
