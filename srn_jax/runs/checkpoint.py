"""The checkpoints of a part: written by Orbax, hashed by file, renamed when they are whole.

`parts/0/checkpoints/190/` has the Orbax trees `models` ({"best", "last"}) and `training` (the rest
of the state, and the histories) of NumPy arrays `[experiment, ...]`, and checkpoint.json. Damage is
what differs in bytes from what that says; what can't be read may be good, and stays.
"""

import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srn_jax.errors import UserError, shown
from srn_jax.files import PARTIAL, check_plain, digest, naming, parse_manifest, sync, write_manifest

CHECKPOINTS_FOLDER = "checkpoints"
CHECKPOINT_FILE = "checkpoint.json"
TREES = ("models", "training")
KEEP = 2  # so that there is a good one while the newest is being written, or is damaged
HANDLES = 64  # files, more than Orbax opens at once

Layout = Mapping[str, tuple[tuple[int, ...], str]]  # shape and dtype by name


class Damage(Exception):
    """A checkpoint is not what was saved."""


def layout_of(items: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each array of a pytree, or of what stands for one, by its path."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(items):
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        found[name] = tuple(leaf.shape), str(leaf.dtype)
    return found


class Writer:
    """Saves checkpoints of a part in the background; keeps the newest `KEEP`.

    Every method raises `OSError` if a save, this one or the one before, went wrong; making one,
    where there is no room for a checkpoint, or too few files may be open.
    """

    def __init__(self, folder: Path, settings: str, layout: Layout):
        self.folder, self.settings = folder, settings
        self.cost = 0.0  # seconds from the start of gathering the last saved state to its end
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        place = folder / CHECKPOINTS_FOLDER
        size = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in layout.values())
        with naming(place), ExitStack() as opened:
            place.mkdir(parents=True, exist_ok=True)
            for _ in range(HANDLES):
                opened.enter_context(open(os.devnull, "rb"))
            file = opened.enter_context(tempfile.TemporaryFile(dir=place))
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size + 1)

    def save(self, block: int, items: dict[str, Any], began: float) -> None:
        """Start saving; `began` is the time (`time.monotonic`) at which gathering began."""

        def save() -> None:
            try:
                write(self.folder, block, items, self.settings)
            except Exception as error:
                self._error = error
            self.cost = time.monotonic() - began

        self.close()
        self._thread = threading.Thread(target=save, daemon=True)  # so a dead disk holds nobody
        self._thread.start()

    def saving(self) -> bool:
        """Whether a save is still under way."""
        if self._thread is not None and not self._thread.is_alive():
            self.close()
        return self._thread is not None

    def close(self) -> None:
        """Wait for the last save."""
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if isinstance(error, OSError):
            raise OSError(
                f"no checkpoint could be written to {self.folder / CHECKPOINTS_FOLDER}: "
                f"{error.strerror or error}; those before it are kept, and the same command goes "
                "on from there"
            ) from error
        if error is not None:
            raise error


def write(folder: Path, block: int, items: dict[str, Any], settings: str) -> None:
    """Write a checkpoint of a part, `items` by the names of `TREES`, with `block` blocks behind it.

    Removes those that it makes superfluous; if it raises `OSError`, those before it are there.
    """
    place = folder / CHECKPOINTS_FOLDER
    partial = place / f"{block}{PARTIAL}"
    told: dict[str, Any] = {"block": block, "settings": settings, "files": {}}
    told["arrays"] = {name: [list(shape), kind] for name, (shape, kind) in layout_of(items).items()}
    with naming(partial):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in TREES:
            with _orbax(partial) as checkpointer:
                checkpointer.save((partial / name).absolute(), items[name])
        for path in sorted((partial, *partial.rglob("*"))):
            sync(path)
            if path.is_file():
                told["files"][path.relative_to(partial).as_posix()] = digest(path.read_bytes())
        write_manifest(partial / CHECKPOINT_FILE, told)
        os.rename(partial, place / str(block))
        sync(place)
    for old in blocks_in(folder)[KEEP:]:
        with suppress(OSError):  # renamed first: no kill leaves half of one for a good one
            shutil.rmtree((place / str(old)).rename(place / f"{old}{PARTIAL}"))


@contextmanager
def _orbax(path: Path, says: str = "") -> Iterator[Any]:
    """Orbax, for this process alone; whatever it raises becomes an `OSError` of one line."""
    import orbax.checkpoint as ocp  # which takes a third as long to load as JAX

    here = jax.process_index()  # every process has the same arrays
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    try:
        yield ocp.Checkpointer(handler, multiprocessing_options=alone)
    except (OSError, UserError):
        raise
    except Exception as error:  # files are what was written, so the machine is the reason
        raise OSError(f"{path}: {says}{_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def blocks_in(folder: Path) -> list[int]:
    """The finished checkpoints of a part, newest first."""
    place = folder / CHECKPOINTS_FOLDER
    names = os.listdir(place) if place.is_dir() else []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def load(path: Path, wanted: Layout, settings: str) -> dict[str, Any]:
    """The trees of a checkpoint, after all of its files have been checked.

    Raises `Damage` if it is not what was saved, `OSError` if it cannot be read, but may be good,
    and `UserError` if it is of something else than wanted.
    """
    check_plain(path.parent, [path.name])
    try:
        told = parse_manifest((path / CHECKPOINT_FILE).read_bytes())
        arrays = {name: (tuple(shape), str(kind)) for name, (shape, kind) in told["arrays"].items()}
        if told["block"] != int(path.name):
            raise ValueError(f"it was saved as number {shown(told['block'])}")
        for name, sha256 in told["files"].items():
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise ValueError(f"{shown(name)} is not in it")
            if digest((path / name).read_bytes()) != sha256:
                raise ValueError(f"{name} is not what was saved")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Damage(f"{Path(error.filename).name} is missing") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damage(_first_line(error)) from None
    if told["settings"] != settings:
        raise UserError(f"{path} is of a run with other settings, expected those of this run")
    for name, one in arrays.items() ^ wanted.items():
        raise UserError(f"{path} is not of this run, which has other arrays ({name}: {shown(one)})")
    items = {}
    for name in TREES:
        with _orbax(path, "cannot be read: ") as checkpointer:
            place = (path / name).absolute()
            found = checkpointer.metadata(place)
            found = getattr(found, "item_metadata", found)
            found = getattr(found, "tree", found)
            pieces = [
                (getattr(leaf.storage, "chunk_shape", None) or (), leaf.shape)
                for leaf in jax.tree.leaves(found)
            ]
            large = any(math.prod(piece) > max(math.prod(shape), 1) for piece, shape in pieces)
            mine = {path: told for path, told in wanted.items() if path.startswith(f"{name}/")}
            if large or layout_of({name: found}) != mine:
                raise UserError(f"{path}: {name} has other arrays than it was said to have")
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), found)
            items[name] = checkpointer.restore(place, like)  # or some versions of Orbax warn
    return items


def restore(
    folder: Path,
    wanted: Layout,
    settings: str,
    warn: Callable[[str], None] = lambda message: None,
    clean: bool = False,
) -> tuple[int, dict[str, Any]] | None:
    """The block and trees of a part's newest checkpoint that is whole, or None if it has none yet.

    `wanted` is the shape and dtype of each of its arrays, and `settings` the digest of what it is
    of. To `clean`, for whoever has the lock, is to remove the damaged ones once a good one is
    found, and what a kill has left. Raises `UserError` if all are damaged, or of something else.
    """
    place, damaged, found = folder / CHECKPOINTS_FOLDER, [], None
    for block in blocks_in(folder):
        path = place / str(block)
        try:
            found = block, load(path, wanted, settings)
            break
        except Damage as error:
            if not path.exists():  # whoever trains has removed it just now
                return restore(folder, wanted, settings, warn, clean)
            warn(f"checkpoint {path} is damaged ({error}), and passed over")
            damaged.append(path)
    if found is None and damaged:
        raise UserError(f"{place}: every checkpoint is damaged; `overwrite` starts the run afresh")
    if clean:
        for path in (*damaged, *place.glob(f"*{PARTIAL}")):
            shutil.rmtree(path, ignore_errors=True)
    return found
