"""Checkpoints of a run, with Orbax: saved in the background, checked when they are read.

A checkpoint holds NumPy arrays `[experiment, ...]` in the sweep's own order, whatever devices or
processes trained them, so it restores on any platform. Its items:

    models     {"best": parameters, "last": parameters}
    training   the rest of `experiment.TrainState`, and the histories by name
    manifest   shape, dtype and SHA-256 of every array, the settings of the sweep, and the SHA-256
               of all that

Orbax neither notices flipped bits nor a changed dtype; the manifest does. Only what fails such a
check is damaged: it is set aside as `232.damaged`, and removed when a later one is good. What can't
be read for another reason (no permission, too little memory) may be good, and stays.
"""

import errno
import gc
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from srn_jax.errors import UserError
from srn_jax.runs.old_version import translate_items
from srn_jax.training.experiment import Histories, TrainState

CHECKPOINTS_FOLDER = "checkpoints"
ITEMS = ("models", "training")
KEEP = 2  # so that there is a good one while the newest is being written, or is damaged
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax has not finished
DAMAGED = ".damaged"
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
OF_THE_MACHINE = re.compile(  # TensorStore's words, whatever the type of the exception
    "PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|CANCELLED|DEADLINE_EXCEEDED|out of memory",
    re.IGNORECASE,
)
OS_ERROR = re.compile(r"os_error_code='([0-9]+)'|OS error ([0-9]+)")


class CheckpointError(OSError):
    """A checkpoint could not be written or read, for a reason outside it: a full disk."""


class Damage(Exception):
    """A checkpoint is not what was saved."""


class Checkpoint(NamedTuple):
    """What was restored."""

    block: int  # how many blocks of training it has behind it
    items: dict[str, Any]
    settings: dict[str, Any]


class Writer:
    """Saves checkpoints of runs that train together, in the background; keeps the newest `KEEP`.

    Every method raises `CheckpointError` if a save, this one or the one before, went wrong.
    """

    def __init__(
        self,
        runs: Sequence[Path],
        settings: Sequence[dict[str, Any]],
        check: Callable[[], None] = lambda: None,
    ):
        """Of the runs in these folders; `check` is called before each save and may raise."""
        self.runs = list(zip(runs, settings, strict=True))
        self.check = check
        self.cost = 0.0  # seconds from the start of gathering the last saved state to its end
        self._thread: threading.Thread | None = None
        self._error: str | None = None

    def save(self, block: int, items: Sequence[dict[str, Any]], began: float) -> None:
        """Start saving what each run has after `block` blocks; `items` are of `split_state`.

        `began` is the time (`time.monotonic`) at which gathering them began.
        """
        self.close()
        self.check()  # Orbax would create a folder that is gone
        # A daemon does not keep the process from ending, whatever the disk does.
        self._thread = threading.Thread(target=self._save, args=(block, items, began), daemon=True)
        self._thread.start()

    def _save(self, block: int, items: Sequence[dict[str, Any]], began: float) -> None:
        with quiet():
            try:
                for (run, settings), own in zip(self.runs, items, strict=True):
                    write(run, block, own, settings)
            except Exception as error:
                self._error = reason_of(error)
            if self._error is not None:
                settle()
        self.cost = time.monotonic() - began

    def saving(self) -> bool:
        """Whether a save is still under way."""
        if self._thread is not None and not self._thread.is_alive():
            self.close()
        return self._thread is not None

    def close(self) -> None:
        """Wait for the last save."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            self.check()  # a folder that is gone is the clearest reason
            raise CheckpointError(
                f"no checkpoint could be written to {self.runs[0][0] / CHECKPOINTS_FOLDER}: "
                f"{error}; those before it are kept, the same command goes on from there"
            )


def write(run: Path, block: int, items: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write one checkpoint; then remove those that it makes superfluous."""
    manifest: dict[str, Any] = {"arrays": describe(items), "settings": settings}
    manifest["sha256"] = _digest(manifest)
    path = run / CHECKPOINTS_FOLDER / str(block)
    trees = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    if path.exists():
        remove(path)
    _checkpointer().save(
        path.absolute(), args=ocp.args.Composite(manifest=ocp.args.JsonSave(manifest), **trees)
    )
    for old in blocks_in(run)[KEEP:]:
        remove(run / CHECKPOINTS_FOLDER / str(old))
    for damaged in (run / CHECKPOINTS_FOLDER).glob(f"*{DAMAGED}"):
        if int(damaged.name.partition(".")[0]) <= block:
            remove(damaged)


def blocks_in(run: Path) -> list[int]:
    """The finished checkpoints of a run, newest first."""
    folder = run / CHECKPOINTS_FOLDER
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if re.fullmatch("[0-9]+", name)), reverse=True)


def remove(path: Path) -> None:
    """Remove a checkpoint under a name that no kill in the middle leaves for a good one."""
    gone = path.with_name(path.name + UNFINISHED)
    if gone.exists():
        shutil.rmtree(gone)
    path.rename(gone)
    shutil.rmtree(gone)


def read(run: Path, block: int) -> Checkpoint:
    """Read one checkpoint of either version and check it.

    Raises:
        Damage: if it is not what was saved.
        CheckpointError: if it cannot be read for another reason.
    """
    path = run / CHECKPOINTS_FOLDER / str(block)
    arguments = {name: ocp.args.StandardRestore() for name in ITEMS}
    args = ocp.args.Composite(manifest=ocp.args.JsonRestore(), **arguments)
    damage = outside = None
    with quiet():
        try:
            restored = _checkpointer().restore(path.absolute(), args=args)
        except Exception as error:  # damage surfaces as any of a dozen types
            reason = outside_of(error, path)
            outside = reason and reason_of(reason)
            damage = reason_of(error)
        if damage is not None:
            settle()
    if outside is not None:
        raise CheckpointError(f"{path} cannot be read ({outside}); nothing was changed")
    if damage is not None:
        raise Damage(damage)
    trees, settings = checked(restored)
    return Checkpoint(block, translate_items(trees), settings)


def checked(restored: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Items and settings of a checkpoint; raises `Damage` unless they are what was saved."""
    try:
        manifest = dict(restored["manifest"])
        digest, wanted, settings = (
            manifest.pop("sha256"),
            manifest["arrays"],
            manifest["settings"],
        )
        trees = {name: restored[name] for name in ITEMS}
        found = describe(trees)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damage(reason_of(error)) from None
    if digest != _digest(manifest):
        raise Damage("its manifest is not what was saved")
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            raise Damage(f"{name} is not what was saved")
    return trees, settings


def outside_of(error: Exception, path: Path) -> Exception | None:
    """The reason outside a checkpoint for which it can't be read, so that it may be good."""
    if isinstance(error, OSError) and error.errno is not None:
        return None if error.errno in MISSING else error
    codes = {int(one or other) for one, other in OS_ERROR.findall(str(error))}
    if isinstance(error, MemoryError) or OF_THE_MACHINE.search(str(error)) or codes - {*MISSING}:
        return error
    try:  # Orbax may have swallowed the reason
        for folder, _, names in os.walk(path, onerror=raise_error):
            for name in names:
                (Path(folder) / name).read_bytes()
    except OSError as unreadable:
        return None if unreadable.errno in MISSING else unreadable
    return None


def raise_error(error: OSError) -> None:
    """What `os.walk` is to do with a folder that cannot be read."""
    raise error


def restore(
    run: Path, warn: Callable[[str], None] = lambda message: None, set_aside: bool = False
) -> Checkpoint | None:
    """Restore the newest checkpoint that is whole, or None if the run has none yet.

    Args:
        run: the run folder.
        warn: told about each damaged checkpoint, newer ones first.
        set_aside: rename the damaged ones, once a good one is found; for whoever has the lock.

    Raises:
        UserError: if there are checkpoints but all are damaged.
        CheckpointError: if one cannot be read but may be good.
    """
    (found,), _ = restore_together([run], warn, set_aside)
    return found


def restore_together(
    runs: Sequence[Path],
    warn: Callable[[str], None] = lambda message: None,
    set_aside: bool = False,
) -> tuple[list[Checkpoint | None], bool]:
    """Restore runs that train together: the newest block of which each has a good checkpoint.

    Where there is none, each gets the newest of its own. The other value is whether they can go on
    together; arguments and errors are those of `restore`.
    """
    damaged: dict[tuple[Path, int], str] = {}

    def attempt(run: Path, block: int) -> Checkpoint | None:
        if (run, block) in damaged:
            return None
        try:
            return read(run, block)
        except Damage as error:
            damaged[run, block] = str(error)
            warn(f"checkpoint {run / CHECKPOINTS_FOLDER / str(block)} is damaged ({error})")
            return None

    blocks = [blocks_in(run) for run in runs]
    together = False
    found: list[Checkpoint | None] = [None] * len(runs)
    for block in sorted(set(blocks[0]).intersection(*blocks), reverse=True):
        found = [attempt(run, block) for run in runs]
        if together := None not in found:
            break
    if not together and any(blocks):
        for index, run in enumerate(runs):
            good = (attempt(run, block) for block in blocks[index])
            found[index] = next((one for one in good if one is not None), None)
    for run, own in zip(runs, found, strict=True):
        folder = run / CHECKPOINTS_FOLDER
        if own is None and (blocks_in(run) or any(folder.glob(f"*{DAMAGED}"))):
            raise UserError(
                f"{folder}: every checkpoint is damaged; "
                "scripts/sweep.py --overwrite starts the run afresh"
            )
    if set_aside:
        for run, own in zip(runs, found, strict=True):
            tidy(run, own, [block for other, block in damaged if other == run])
    return found, together or not any(blocks)


def tidy(run: Path, start: Checkpoint | None, damaged: Sequence[int]) -> None:
    """Set damaged checkpoints aside; remove unfinished ones, and good ones after the start.

    The latter are of a run that goes on together with others from an earlier block.
    """
    folder = run / CHECKPOINTS_FOLDER
    for block in damaged:
        aside = folder / f"{block}{DAMAGED}"
        if aside.exists():
            remove(aside)
        (folder / str(block)).rename(aside)
    for path in folder.iterdir() if folder.is_dir() else ():
        if UNFINISHED in path.name and path.is_dir():
            shutil.rmtree(path)
    for block in blocks_in(run):
        if start is not None and block > start.block:
            remove(folder / str(block))


def split_state(state: TrainState, histories: Histories) -> dict[str, Any]:
    """What training has changed and recorded as the items of a checkpoint."""
    fields = state._asdict()
    models = {"best": fields.pop("best_parameters"), "last": fields.pop("parameters")}
    leaves = jax.tree.leaves(state.optimizer)
    fields["optimizer"] = {f"leaf_{n}": leaf for n, leaf in enumerate(leaves)}
    return {"models": models, "training": fields | histories._asdict()}


def join_state(
    items: dict[str, Any], like: tuple[TrainState, Histories]
) -> tuple[TrainState, Histories]:
    """The inverse of `split_state`; `like` has the shapes and dtypes that are wanted.

    Raises:
        UserError: if an array has another shape or dtype than in `like`; Orbax would cast it.
    """
    wanted = describe(split_state(*like), digests=False)
    found = describe(items, digests=False)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"the checkpoint has {name} as {found.get(name)}, expected {wanted.get(name)}: "
                "it is not of this sweep"
            )
    fields = dict(items["training"])
    histories = Histories(**{name: fields.pop(name) for name in Histories._fields})
    leaves = [fields["optimizer"][f"leaf_{n}"] for n in range(len(fields["optimizer"]))]
    fields["optimizer"] = jax.tree.unflatten(jax.tree.structure(like[0].optimizer), leaves)
    models = items["models"]
    state = TrainState(parameters=models["last"], best_parameters=models["best"], **fields)
    return state, histories


def describe(items: Any, digests: bool = True) -> dict[str, list[Any]]:
    """Shape, dtype and SHA-256 of each array of a pytree, by the name of its path."""
    description: dict[str, list[Any]] = {}
    for path, array in jax.tree_util.tree_leaves_with_path(items):
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        description[name] = [list(array.shape), str(array.dtype)]
        if digests:
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)  # no copy
            description[name].append(hashlib.sha256(content.data).hexdigest())
    return description


def reason_of(error: Exception) -> str:
    """The reason for a failure as part of a line; TensorStore hides it in a long message."""
    code = OS_ERROR.search(str(error))
    if code:
        return os.strerror(int(code[1] or code[2]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _checkpointer() -> ocp.Checkpointer:
    # Every process has the same arrays, so one of them writes and reads for itself alone.
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
    handler = ocp.CompositeCheckpointHandler(
        *ITEMS, "manifest", composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Orbax from reporting what becomes an exception anyway, with tracebacks of its own."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook

    def without_closed_loops(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = without_closed_loops
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited")
            yield
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def settle() -> None:
    """Let go of what a failed read or write has left, while nobody hears what it says."""
    gc.collect()
    time.sleep(0.1)  # TensorStore's others find that nobody waits for them any more
    gc.collect()
