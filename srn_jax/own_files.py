"""Objects of a user's own: named as FILE.py:NAME, or handed over from Python.

A name is kept with a run, so the run can be opened again by anyone who has the file. An object that
is in no file, as of a notebook, is recorded by its name and a digest of what it is made of.
"""

import hashlib
import inspect
import re
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from srn_jax.errors import UserError

OWN = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")  # mine.py:Mine
HOLDS = ("__func__", "__self__", "fget", "func", "args", "keywords")  # methods, partial functions


def path_of(value: Any) -> Path | None:
    """The file of FILE.py:NAME; None for a name of this project's own, and for any object."""
    match = OWN.fullmatch(value) if isinstance(value, str) else None
    return Path(match["path"]) if match else None


def resolve(value: Any, by_name: Mapping[str, Any]) -> Any:
    """The object that a setting means: itself, one of ours by its name, or one out of a file.

    Raises `UserError` for a name that nobody has, or a file that cannot be read or run.
    """
    if not isinstance(value, str):
        return value
    if path_of(value) is not None:
        return load_object(value)
    if value not in by_name:
        raise UserError(f"no {value!r}, expected one of {', '.join(by_name)}, or FILE.py:NAME")
    return by_name[value]


def load_object(name: str) -> Any:
    """The class, function or object that FILE.py:NAME names; the file runs once a content.

    Raises `UserError` with the line of a mistake, or if the file cannot be read or has no such
    name.
    """
    path, wanted = path_of(name), name.rpartition(":")[2]
    if path is None:
        raise UserError(f"expected FILE.py:NAME, got {name!r}")
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason})") from None
    found = vars(_run(path.absolute(), content))
    if wanted not in found:
        mine = [n for n, v in found.items() if getattr(v, "__module__", "") == found["__name__"]]
        has = f", it has {', '.join(mine[:8])}" if mine else ""
        raise UserError(f"{path}: nothing is called {wanted} in it{has}")
    return found[wanted]


@cache  # one class for one content: programs and types are compared by it
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


def name_of(value: Any, by_name: Mapping[str, Any]) -> Any:
    """A name for an object that has one, or else the object itself.

    One of ours has our name. A class or function out of a module's file is FILE.py:NAME, if that
    file alone gives the same one; what a notebook or a script defines stays an object.
    """
    for name, ours in by_name.items():
        if ours is value:
            return name
    if not isinstance(value, type | types.FunctionType) or value.__module__ == "__main__":
        return value
    module = sys.modules.get(value.__module__)
    own = f"{getattr(module, '__file__', None)}:{value.__qualname__}"
    if path_of(own) is None or vars(module).get(value.__qualname__) is not value:
        return value
    try:
        same = source_digest(load_object(own)) == source_digest(value)
    except Exception:  # a module that needs its package, say
        return value
    return own if same else value


@contextmanager
def own_mistakes(*owned: Any) -> Iterator[None]:
    """Turn an exception that comes out of a user's own code into one line that names the place.

    `owned` are files, names FILE.py:NAME, or objects; other names, and None, are passed over.
    """
    own = {name for one in owned for name in _files_of(one)}
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
        raise UserError(f"{lines[-1].filename}, line {lines[-1].lineno}: {reason}") from error


def _files_of(owned: Any) -> set[str]:
    path = owned if isinstance(owned, Path) else path_of(owned)
    if path is not None:
        return {str(path.absolute())}
    kind = owned if isinstance(owned, type | types.FunctionType) else type(owned)
    parts: list[Any] = [kind]
    for base in getattr(kind, "__mro__", ()):
        if not base.__module__.startswith(("srn_jax.", "flax.", "builtins")):
            parts += map(inspect.unwrap, vars(base).values())
    return {part.__code__.co_filename for part in parts if hasattr(part, "__code__")}


def describe(value: Any) -> str:
    """A name for an object that goes into files and tables; a name stays itself.

    A class or a function is NAME@DIGEST, an instance CLASS(its numbers)@DIGEST, where the digest
    is the beginning of `source_digest`.
    """
    if isinstance(value, str):
        return value
    name = getattr(value, "__qualname__", "").rpartition("<locals>.")[2]
    if not name:
        held = [(k, v) for k, v in getattr(value, "__dict__", {}).items() if k[0] != "_"]
        plain = [f"{k}={v}" for k, v in held if isinstance(v, bool | int | float | str)]
        name = type(value).__name__ + (f"({' '.join(plain)[:60]})" if plain else "")
    return f"{name}@{source_digest(value)[:8]}"


def source_digest(value: Any) -> str:
    """The SHA-256 of what an object is made of, in hexadecimal.

    That is the code of its functions and the values that they and it hold: `optax.adam(1e-3)` and
    `optax.adam(3e-3)` differ, and so do classes whose helper functions in a notebook do.
    """
    digest, seen = hashlib.sha256(), dict[int, Any]()

    def look(thing: Any) -> None:
        said, inside = _parts(thing)
        digest.update(repr(said).encode("utf-8", "replace"))
        if id(thing) not in seen:  # or it holds itself
            seen[id(thing)] = thing, inside  # kept, or another would get its number
            for one in inside:
                look(one)

    look(value)
    return digest.hexdigest()


def _parts(thing: Any) -> tuple[Any, list[Any]]:
    # What is said of an object itself, and what it holds.
    if thing is None or isinstance(thing, bool | int | float | complex | str | bytes):
        return thing, []
    if isinstance(thing, types.CodeType):
        return (thing.co_code, thing.co_names, thing.co_varnames), [*thing.co_consts]
    if isinstance(thing, types.FunctionType):
        cells = [cell for cell in thing.__closure__ or () if cell != types.CellType()]
        held = [thing.__defaults__, thing.__kwdefaults__, *(c.cell_contents for c in cells)]
        if _is_own(thing):
            used = [thing.__globals__.get(name) for name in _names(thing.__code__)]
            return thing.__qualname__, [*held, thing.__code__, *used]
        return (thing.__module__, thing.__qualname__), held
    if isinstance(thing, type) and _is_own(thing):
        own = [(k, v) for k, v in sorted(vars(thing).items()) if callable(v) or k[:2] != "__"]
        return thing.__qualname__, [*thing.__bases__, *own]
    if isinstance(thing, type | types.ModuleType):
        return repr(thing), []
    if isinstance(thing, Mapping):
        return "mapping", [*thing.items()]
    if isinstance(thing, tuple | list | set | frozenset):
        return len(thing), sorted(thing, key=repr) if isinstance(thing, set | frozenset) else [
            *thing
        ]
    if hasattr(thing, "__array__"):
        array = thing.__array__()
        return (str(array.dtype), array.shape, array.tobytes()), []
    held = [getattr(thing, name) for name in HOLDS if hasattr(thing, name)]
    return type(thing).__qualname__, [type(thing), *held, dict(getattr(thing, "__dict__", {}))]


def _names(code: types.CodeType) -> list[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return [*code.co_names, *(name for one in inner for name in _names(one))]


def _is_own(thing: Any) -> bool:
    # Whether code is the user's, and not of a library, which has a version.
    name = thing.__module__ or ""
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    known = name.partition(".")[0] in sys.stdlib_module_names | {"srn_jax"}
    return name == "__main__" or not (known or re.search("(site|dist)-packages", file))
