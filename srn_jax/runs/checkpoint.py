"""Checkpoints of a whole sweep, with Orbax: saved in the background, checked when they are read.

A checkpoint holds NumPy arrays `[experiment, ...]` in the sweep's own order, whatever devices or
processes trained them, so it restores on any platform. Its items:

    models     {"best": parameters, "last": parameters}
    training   the rest of `training.TrainState`, histories included
    manifest   shape, dtype and SHA-256 of every array, the settings of the sweep, and the SHA-256
               of all that

Orbax neither notices flipped bits nor a changed dtype; the manifest does.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from srn_jax.errors import UserError
from srn_jax.training.experiment import TrainState

CHECKPOINTS_FOLDER = "checkpoints"
ITEMS = ("models", "training")
KEEP = 2  # so that there is a good one while the newest is being written, or is damaged

UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax has not finished

# Orbax reports every step of every save, and a failure several times with its whole traceback.
logging.getLogger("absl").setLevel(logging.CRITICAL)
_print_unraisable = sys.unraisablehook


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Leave out what TensorStore says of a failed save: Orbax no longer waits for its answer."""
    if str(unraisable.exc_value) != "Event loop is closed":
        _print_unraisable(unraisable)


sys.unraisablehook = _unraisable


class CheckpointError(OSError):
    """A checkpoint could not be written: a full or read-only disk, a folder that went away."""


class Checkpoint(NamedTuple):
    """What was restored."""

    block: int  # how many blocks of training it has behind it
    items: dict[str, Any]
    settings: dict[str, Any]


class Writer:
    """Saves checkpoints of one run in the background; keeps the newest `KEEP`.

    Every method raises `CheckpointError` if a save, this one or the one before, went wrong.
    """

    def __init__(
        self, run: Path, settings: dict[str, Any], check: Callable[[], None] = lambda: None
    ):
        """Of the run in folder `run`; `check` is called before each save and may raise."""
        self.settings = settings
        self.check = check
        self.cost = 0.0  # seconds from the start of the last save to its end
        self._started: float | None = None
        self._folder = run / CHECKPOINTS_FOLDER
        with _write_errors(self._folder, self.check):
            self._manager = _manager(run, max_to_keep=KEEP, enable_async_checkpointing=True)

    def save(self, block: int, state: TrainState) -> None:
        """Start saving the state after `block` blocks; `state` holds NumPy arrays."""
        self.check()  # Orbax would create a folder that is gone
        items = split_state(state)
        manifest: dict[str, Any] = {"arrays": describe(items), "settings": self.settings}
        manifest["sha256"] = _digest(manifest)
        self._started = time.monotonic()
        with _write_errors(self._folder, self.check):
            if block in self._manager.all_steps():  # Orbax would silently keep the old one
                self._manager.delete(block)
            self._manager.save(
                block,
                args=ocp.args.Composite(
                    manifest=ocp.args.JsonSave(manifest),
                    **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                ),
                force=True,
            )

    def saving(self) -> bool:
        """Whether a save is still under way."""
        if self._started is not None and not self._manager.is_saving_in_progress():
            self.cost = time.monotonic() - self._started
            self._started = None
            with _write_errors(self._folder, self.check):
                self._manager.check_for_errors()
        return self._started is not None

    def close(self) -> None:
        """Wait for the last save."""
        with _write_errors(self._folder, self.check):
            self._manager.wait_until_finished()
            self._manager.close()


def restore(run: Path, warn: Callable[[str], None] = lambda message: None) -> Checkpoint | None:
    """Restore the newest checkpoint that is whole, or None if the run has none yet.

    Args:
        run: the run folder.
        warn: told about each damaged checkpoint, newer ones first.

    Raises:
        UserError: if there are checkpoints but all are damaged.
    """
    if not (run / CHECKPOINTS_FOLDER).is_dir():
        return None
    manager = _manager(run, read_only=True)
    try:
        blocks = sorted(manager.all_steps(), reverse=True)
        for block in blocks:
            try:
                return _restore_block(manager, block)
            except Exception as error:  # damage surfaces as any of a dozen types
                reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                warn(f"checkpoint {run / CHECKPOINTS_FOLDER / str(block)} is damaged ({reason})")
    finally:
        manager.close()
    if blocks:
        raise UserError(
            f"{run / CHECKPOINTS_FOLDER}: every checkpoint is damaged; "
            "scripts/sweep.py --overwrite starts the run afresh"
        )
    return None


def tidy(run: Path, newest: Checkpoint | None) -> None:
    """Remove saves that were never finished, and checkpoints newer than the newest good one."""
    folder = run / CHECKPOINTS_FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        number = int(path.name) if re.fullmatch("[0-9]+", path.name) else None
        damaged = newest is not None and number is not None and number > newest.block
        if path.is_dir() and (UNFINISHED in path.name or damaged):
            shutil.rmtree(path)


def split_state(state: TrainState) -> dict[str, Any]:
    """A `TrainState` as the items of a checkpoint."""
    fields = state._asdict()
    models = {"best": fields.pop("best_parameters"), "last": fields.pop("parameters")}
    leaves = jax.tree.leaves(state.optimizer)
    fields["optimizer"] = {f"leaf_{n}": leaf for n, leaf in enumerate(leaves)}
    return {"models": models, "training": fields}


def join_state(items: dict[str, Any], like: TrainState) -> TrainState:
    """The inverse of `split_state`.

    Raises:
        UserError: if an array has another shape or dtype than in `like`; Orbax would cast it.
    """
    wanted = describe(split_state(like), digests=False)
    found = describe(items, digests=False)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"the checkpoint has {name} as {found.get(name)}, expected {wanted.get(name)}: "
                "it is not of this sweep"
            )
    fields = dict(items["training"])
    leaves = [fields["optimizer"][f"leaf_{n}"] for n in range(len(fields["optimizer"]))]
    fields["optimizer"] = jax.tree.unflatten(jax.tree.structure(like.optimizer), leaves)
    models = items["models"]
    return TrainState(parameters=models["last"], best_parameters=models["best"], **fields)


def describe(items: Any, digests: bool = True) -> dict[str, list[Any]]:
    """Shape, dtype and SHA-256 of each array of a pytree, by the name of its path."""
    description: dict[str, list[Any]] = {}
    for path, array in jax.tree_util.tree_leaves_with_path(items):
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        description[name] = [list(array.shape), str(array.dtype)]
        if digests:
            description[name].append(hashlib.sha256(array.tobytes()).hexdigest())
    return description


def _restore_block(manager: ocp.CheckpointManager, block: int) -> Checkpoint:
    arguments = {name: ocp.args.StandardRestore() for name in ITEMS}
    restored = manager.restore(
        block, args=ocp.args.Composite(manifest=ocp.args.JsonRestore(), **arguments)
    )
    manifest = dict(restored["manifest"])
    if manifest.pop("sha256", None) != _digest(manifest):
        raise ValueError("its manifest is not what was saved")
    trees = {name: restored[name] for name in ITEMS}
    found, wanted = describe(trees), manifest["arrays"]
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            raise ValueError(f"{name} is not what was saved")
    return Checkpoint(block, trees, manifest["settings"])


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _manager(run: Path, **options: Any) -> ocp.CheckpointManager:
    # Every process has the same arrays, so one of them writes and reads for itself alone.
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
    return ocp.CheckpointManager(
        (run / CHECKPOINTS_FOLDER).absolute(),
        item_names=(*ITEMS, "manifest"),
        options=ocp.CheckpointManagerOptions(
            multiprocessing_options=alone, create=False, **options
        ),
    )


class _write_errors:
    """Turn whatever Orbax and TensorStore raise into one line."""

    def __init__(self, folder: Path, check: Callable[[], None]):
        self.folder = folder
        self.check = check

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, CheckpointError):
            self.check()  # a folder that is gone is the clearest reason
            code = re.search(r"os_error_code='([0-9]+)'|OS error ([0-9]+)", str(error))
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            if code:  # deep in a long message of TensorStore's
                reason = os.strerror(int(code[1] or code[2]))
            raise CheckpointError(
                f"no checkpoint could be written to {self.folder}: {reason}; "
                "those before it are kept, the same command goes on from there"
            ) from error
