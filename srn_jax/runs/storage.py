"""One checkpoint on the disk, with Orbax, which notices neither flipped bits nor another dtype.

Its items are NumPy arrays `[experiment, ...]` in the sweep's own order, whatever devices or
processes trained them, so it restores on any platform:

    models     {"best": parameters, "last": parameters}
    training   the rest of `experiment.TrainState`, and the histories by name
    manifest   shape, dtype and SHA-256 of every array, the settings of the sweep, the number of the
               checkpoint, and the SHA-256 of all that
"""

import errno
import gc
import hashlib
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from srn_jax.analysis.results import digest_of
from srn_jax.runs.old_version import translate_items

if TYPE_CHECKING:
    import orbax.checkpoint as ocp  # loaded where it is used: it takes a third as long as JAX

ITEMS = ("models", "training")
MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
OS_ERROR = re.compile(r"(?:os_error_code='|OS error |\[Errno )([0-9]+)")
OF_THE_MACHINE = re.compile(  # TensorStore's words, whatever the type of the exception
    "PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|CANCELLED|DEADLINE_EXCEEDED|out of memory",
    re.IGNORECASE,
)


class CheckpointError(OSError):
    """A checkpoint could not be written or read, for a reason outside it: a full disk."""


class Damage(Exception):
    """A checkpoint is not what was saved."""


class Checkpoint(NamedTuple):
    """What was restored."""

    block: int  # how many blocks of training it has behind it
    items: dict[str, Any]
    settings: dict[str, Any]


def save(path: Path, items: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write a checkpoint, which has its name when it is whole."""
    import orbax.checkpoint as ocp

    manifest: dict[str, Any] = {"arrays": describe(items), "settings": settings}
    manifest["block"] = int(path.name)
    manifest["sha256"] = digest_of(manifest)
    trees = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    args = ocp.args.Composite(manifest=ocp.args.JsonSave(manifest), **trees)
    _checkpointer().save(path.absolute(), args=args)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint of either version and check it.

    Raises:
        Damage: if it is not what was saved.
        CheckpointError: if it cannot be read for another reason.
    """
    import orbax.checkpoint as ocp

    trees = {name: ocp.args.StandardRestore() for name in ITEMS}
    args = ocp.args.Composite(manifest=ocp.args.JsonRestore(), **trees)
    problem: Exception | None = None
    with quiet():
        try:
            restored = _checkpointer().restore(path.absolute(), args=args)
        except Exception as error:  # damage surfaces as any of a dozen types
            problem = problem_of(error, path)
        if problem is not None:
            settle()
    if problem is not None:
        raise problem
    items, settings = checked(restored, int(path.name))
    return Checkpoint(int(path.name), translate_items(items), settings)


def checked(restored: Any, block: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Items and settings of a checkpoint; raises `Damage` unless they are what was saved."""
    try:
        manifest, items = dict(restored["manifest"]), {name: restored[name] for name in ITEMS}
        digest = manifest.pop("sha256")
        wanted, settings = manifest["arrays"], manifest["settings"]
        found = describe(items)
        names = wanted.keys() | found.keys()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damage(reason_of(error)) from None
    if digest != digest_of(manifest):
        raise Damage("its manifest is not what was saved")
    for name in sorted(names):
        if found.get(name) != wanted.get(name):
            raise Damage(f"{name} is not what was saved")
    if manifest.get("block", block) != block:  # old versions did not say it
        raise Damage(f"it was saved as number {manifest['block']}")
    return items, settings


def problem_of(error: Exception, path: Path) -> CheckpointError | Damage:
    """What a failed read means: damage, or a reason outside the checkpoint, which may be good."""
    errors: list[Exception] = [error]
    for folder, _, names in os.walk(path, onerror=errors.append):  # Orbax swallows some reasons
        for name in names:
            file = Path(folder) / name
            try:
                file.stat()
                file.read_bytes()
            except OSError as unreadable:
                errors.append(unreadable)
    for one in errors:
        codes = {int(code) for code in OS_ERROR.findall(str(one))}
        if isinstance(one, MemoryError) or OF_THE_MACHINE.search(str(one)) or codes - MISSING:
            return CheckpointError(f"{path} cannot be read ({reason_of(one)}); nothing was changed")
    return Damage(reason_of(error))


def describe(items: Any) -> dict[str, list[Any]]:
    """Shape, dtype and SHA-256 of each array of a pytree, by the name of its path."""
    description: dict[str, list[Any]] = {}
    for path, array in jax.tree_util.tree_leaves_with_path(items):
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)  # no copy
        digest = hashlib.sha256(content.data).hexdigest()
        description[name] = [list(array.shape), str(array.dtype), digest]
    return description


def reason_of(error: Exception) -> str:
    """The reason for a failure as part of a line; TensorStore hides it in a long message."""
    code = OS_ERROR.search(str(error))
    if code:
        return os.strerror(int(code[1]))
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _checkpointer() -> "ocp.Checkpointer":
    import orbax.checkpoint as ocp

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
    hook = sys.unraisablehook

    def without_event_loops(unraisable: Any) -> None:
        if not re.search("event ?loop", f"{unraisable.object} {unraisable.exc_value}", re.I):
            hook(unraisable)

    with ExitStack() as undo, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")
        for logger in map(logging.getLogger, ("absl", "asyncio")):
            undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        undo.callback(setattr, sys, "unraisablehook", hook)
        sys.unraisablehook = without_event_loops
        yield


def settle() -> None:
    """Let go of what a failed read or write has left, while nobody hears what it says."""
    gc.collect()
    time.sleep(0.1)  # TensorStore's others find that nobody waits for them any more
    gc.collect()
