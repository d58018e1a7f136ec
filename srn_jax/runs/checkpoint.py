"""The checkpoints of a part: written by Orbax, hashed by file, renamed when they are whole.

    parts/0/checkpoints/190/   models/           Orbax: {"best": parameters, "last": parameters}
                               training/         Orbax: the rest of the state, and the histories
                               checkpoint.json   block, digest of the settings, shape and dtype of
                                                 each array, SHA-256 of each file and of all that

Arrays are NumPy's `[experiment, ...]` in the part's own order, whatever devices or processes
trained them, so they restore on any platform. Damage is what differs in bytes: it is set aside as
`190.damaged`, and removed when a later checkpoint is good. What can't be read may be good, and
stays. Files are hashed before Orbax sees them, so what Orbax is given is what it wrote.
"""

import errno
import hashlib
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from srn_jax.errors import UserError, shown
from srn_jax.files import (
    PARTIAL,
    check_plain,
    naming,
    parse_manifest,
    sync,
    write_manifest,
)

CHECKPOINTS_FOLDER = "checkpoints"
CHECKPOINT_FILE = "checkpoint.json"
TREES = ("models", "training")
KEEP = 2  # so that there is a good one while the newest is being written, or is damaged
DAMAGED = ".damaged"  # ends the name of one that was set aside
HANDLES = 64  # files, more than Orbax opens at once
BESIDE = 4096  # bytes, more than Orbax writes beside an array

Layout = Mapping[str, tuple[tuple[int, ...], str]]  # shape and dtype by name


class Damage(Exception):
    """A checkpoint is not what was saved."""


class Checkpoint(NamedTuple):
    """What was restored."""

    block: int  # how many blocks of training it has behind it
    items: dict[str, Any]  # the trees by name


def layout_of(items: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each array of a pytree, or of what stands for one, by its path."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(items):
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        found[name] = tuple(leaf.shape), str(leaf.dtype)
    return found


def check_room(folder: Path, layout: Layout) -> None:
    """Raise `OSError` where there is no room for a checkpoint, or too few files may be open.

    Orbax finds that out as well, but in threads of its own that print what they found.
    """
    size = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in layout.values())
    size += BESIDE * len(layout)
    with naming(folder):
        check_handles()
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_handles() -> None:
    """Raise `OSError` where too few files may be open, which Orbax' threads would print."""
    with ExitStack() as opened:
        for _ in range(HANDLES):
            opened.enter_context(open(os.devnull, "rb"))


def write(folder: Path, block: int, items: dict[str, Any], settings: str) -> None:
    """Write a checkpoint of a part's folder; then remove those that it makes superfluous.

    Args:
        folder: of the part.
        block: how many blocks of training it has behind it.
        items: pytrees by name, of `TREES`.
        settings: the digest of the settings that it is of.

    Raises:
        OSError: if it cannot be written; those before it are there then.
    """
    place, layout = folder / CHECKPOINTS_FOLDER, layout_of(items)
    partial = place / f"{block}{PARTIAL}"
    place.mkdir(parents=True, exist_ok=True)
    check_room(place, layout)
    with naming(partial):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name in TREES:
            with _orbax(partial) as checkpointer:
                checkpointer.save((partial / name).absolute(), items[name])
        told: dict[str, Any] = {"block": block, "settings": settings, "files": _sync(partial)}
        told["arrays"] = {name: [list(shape), kind] for name, (shape, kind) in layout.items()}
        write_manifest(partial / CHECKPOINT_FILE, told)
        os.rename(partial, place / str(block))
        sync(place)
    for old in blocks_in(folder)[KEEP:]:
        remove(place / str(old))
    for damaged in blocks_in(folder, DAMAGED):
        if damaged <= block:
            remove(place / f"{damaged}{DAMAGED}")


@contextmanager
def _orbax(path: Path, says: str = "") -> Iterator[Any]:
    """Orbax, for this process alone; whatever it raises becomes an `OSError` of one line."""
    import orbax.checkpoint as ocp  # which takes a third as long to load as JAX

    here = jax.process_index()  # every process has the same arrays
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    with naming(path):
        try:
            yield ocp.Checkpointer(handler, multiprocessing_options=alone)
        except (OSError, UserError):
            raise
        except Exception as error:  # files are what was written, so the machine is the reason
            raise OSError(says + first_line(error)) from error


def first_line(error: BaseException) -> str:
    """What went wrong, as part of a line."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _sync(folder: Path) -> dict[str, str]:
    """Make all files below a folder outlast a power cut; returns their SHA-256 by name."""
    digests = {}
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(path, name)
            digests[file.relative_to(folder).as_posix()] = digest_of_file(file)
            sync(file)
        sync(Path(path))
    return digests


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file, without all of it in memory."""
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def blocks_in(folder: Path, ending: str = "") -> list[int]:
    """The finished checkpoints of a part, or those with another ending, newest first."""
    place = folder / CHECKPOINTS_FOLDER
    names = os.listdir(place) if place.is_dir() else []
    found = (re.fullmatch(f"(0|[1-9][0-9]*){re.escape(ending)}", name) for name in names)
    return sorted((int(match[1]) for match in found if match), reverse=True)


def remove(path: Path) -> None:
    """Remove a checkpoint under a name that no kill in the middle leaves for a good one."""
    partial = path.with_name(f"{path.name.removesuffix(DAMAGED)}{PARTIAL}")
    with suppress(OSError):  # nothing is lost if it stays a while
        shutil.rmtree(partial, ignore_errors=True)
        path.rename(partial)
        shutil.rmtree(partial)


def load(path: Path, wanted: Layout, settings: str) -> Checkpoint:
    """Read a checkpoint, after all of its files have been checked.

    Args:
        path: its folder.
        wanted: shape and dtype of each array that it must have.
        settings: the digest of the settings that it must be of.

    Raises:
        Damage: if it is not what was saved.
        OSError: if it cannot be read, but may be good.
        UserError: if it is of something else than wanted.
    """
    check_plain(path.parent, [path.name])
    with naming(path):
        found = _checked(path)
        check_handles()
    if found["settings"] != settings:
        raise UserError(f"{path} is of a run with other settings, expected those of this run")
    for name in sorted(wanted.keys() | found["arrays"].keys()):
        if wanted.get(name) != found["arrays"].get(name):
            raise UserError(
                f"{path} has {name} as {found['arrays'].get(name)}, expected {wanted.get(name)}: "
                "it is not of this run"
            )
    items = {}
    for name in TREES:
        with _orbax(path, "cannot be read: ") as checkpointer:
            place = (path / name).absolute()
            if not _sizes_are(checkpointer.metadata(place), wanted, name):
                raise UserError(
                    f"{path}: its arrays in {name} are not those that it was said to have"
                )
            items[name] = checkpointer.restore(place)
    return Checkpoint(int(path.name), items)


def _checked(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, if its files are those that were written."""
    try:
        told = parse_manifest((path / CHECKPOINT_FILE).read_bytes())
        arrays = {name: (tuple(shape), str(kind)) for name, (shape, kind) in told["arrays"].items()}
        if "sha256" not in told or told["block"] != int(path.name):
            raise ValueError(f"it was saved as number {shown(told['block'])}")
        for name, sha256 in told["files"].items():
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise ValueError(f"{shown(name)} is not in it")
            if digest_of_file(path / name) != sha256:
                raise ValueError(f"{name} is not what was saved")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Damage(f"{Path(error.filename).name} is missing") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damage(first_line(error)) from None
    return {**told, "arrays": arrays}


def _sizes_are(metadata: Any, wanted: Layout, tree: str) -> bool:
    """Whether Orbax would read these arrays of a tree, in pieces no larger than they are."""
    metadata = getattr(metadata, "item_metadata", metadata)
    found = getattr(metadata, "tree", metadata)
    for leaf in jax.tree.leaves(found):
        piece = getattr(leaf.storage, "chunk_shape", None) or ()
        if math.prod(piece) > max(math.prod(leaf.shape), 1):
            return False
    expected = {name: told for name, told in wanted.items() if name.startswith(f"{tree}/")}
    return {f"{tree}/{name}": told for name, told in layout_of(found).items()} == expected


def restore(
    folder: Path,
    wanted: Layout,
    settings: str,
    warn: Callable[[str], None] = lambda message: None,
    set_aside: bool = False,
) -> Checkpoint | None:
    """The newest checkpoint of a part that is whole, or None if it has none yet.

    Args:
        folder: of the part.
        wanted: as `load`.
        settings: as `load`.
        warn: told about each damaged checkpoint.
        set_aside: rename the damaged ones, once a good one is found, and remove what a kill has
            left; for whoever has the lock.

    Raises:
        UserError: if there are checkpoints but all are damaged, or of something else.
        OSError: if one cannot be read but may be good.
    """
    place, damaged, found = folder / CHECKPOINTS_FOLDER, [], None
    for block in blocks_in(folder):
        try:
            found = load(place / str(block), wanted, settings)
            break
        except Damage as error:
            if not (place / str(block)).exists():  # whoever trains has removed it just now
                return restore(folder, wanted, settings, warn, set_aside)
            warn(f"checkpoint {place / str(block)} is damaged ({error}), and passed over")
            damaged.append(block)
    if found is None and (damaged or blocks_in(folder, DAMAGED)):
        raise UserError(f"{place}: every checkpoint is damaged; `overwrite` starts the run afresh")
    if set_aside and place.is_dir():
        for block in damaged:
            aside = place / f"{block}{DAMAGED}"
            shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
            (place / str(block)).rename(aside)
        for path in place.glob(f"*{PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)
    return found
