"""Checkpoints of a whole sweep, with Orbax: saved in the background, checked when they are read.

A checkpoint holds NumPy arrays `[experiment, ...]` in the sweep's own order, whatever devices or
processes trained them, so it restores on any platform. Its items:

    models     {"best": parameters, "last": parameters}
    training   the rest of `training.TrainState`, histories included
    manifest   shape, dtype and SHA-256 of every array, and the settings of the sweep

Orbax neither notices flipped bits nor a changed dtype; the manifest does.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from srn_jax.config import UserError
from srn_jax.model import DigitSumClassifier, classifier_with
from srn_jax.training import TrainState

CHECKPOINTS_FOLDER = "checkpoints"
ITEMS = ("models", "training")
KEEP = 2  # so that there is a good one while the newest is being written, or is damaged

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every step of every save


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

    def __init__(self, run: Path, settings: dict[str, Any]):
        self.settings = settings
        self.cost = 0.0  # seconds from the start of the last save to its end
        self._started: float | None = None
        self._manager = _open(run)

    def save(self, block: int, state: TrainState) -> None:
        """Start saving the state after `block` blocks; `state` holds NumPy arrays."""
        items = split_state(state)
        manifest = {"arrays": describe(items), "settings": self.settings}
        self._started = time.monotonic()
        with _write_errors():
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
            with _write_errors():
                self._manager.check_for_errors()
        return self._started is not None

    def close(self) -> None:
        """Wait for the last save."""
        with _write_errors():
            self._manager.wait_until_finished()
            self._manager.close()


def restore(
    run: Path,
    items: tuple[str, ...] = ITEMS,
    warn: Callable[[str], None] = lambda message: None,
) -> Checkpoint | None:
    """Restore the newest checkpoint that is whole, or None if the run has none yet.

    Args:
        run: the run folder.
        items: which of `ITEMS` to read.
        warn: told about each damaged checkpoint, newer ones first.

    Raises:
        UserError: if there are checkpoints but all are damaged.
    """
    if not (run / CHECKPOINTS_FOLDER).is_dir():
        return None
    manager = _open(run)
    try:
        blocks = sorted(manager.all_steps(), reverse=True)
        for block in blocks:
            try:
                return _restore_block(manager, block, items)
            except Exception as error:  # damage surfaces as any of a dozen types
                reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                warn(f"checkpoint {run / CHECKPOINTS_FOLDER / str(block)} is damaged ({reason})")
    finally:
        manager.close()
    if blocks:
        raise UserError(
            f"{run / CHECKPOINTS_FOLDER}: every checkpoint is damaged; "
            "--overwrite starts the run afresh"
        )
    return None


def remove_newer(run: Path, block: int) -> None:
    """Remove the checkpoints of later blocks than `block`: damaged ones, which nothing needs."""
    for path in (run / CHECKPOINTS_FOLDER).iterdir():
        if path.is_dir() and path.name.isdigit() and int(path.name) > block:
            shutil.rmtree(path)


def restore_classifier(
    run: Path | str, length: int, seed: int, which: str = "best"
) -> DigitSumClassifier:
    """The trained network of one experiment, on whatever platform JAX runs on.

    Args:
        run: a run folder, finished or not.
        length: sequence length it was trained on.
        seed: its seed.
        which: `best` (on the development set) or `last` parameters.

    Raises:
        UserError: if the run has no such experiment or no readable checkpoint.
    """
    if which not in ("best", "last"):
        raise UserError(f"which must be 'best' or 'last', got {which!r}")
    checkpoint = restore_models(Path(run))
    experiment = find_experiment(checkpoint.settings, length, seed)
    parameters = checkpoint.items["models"][which]
    return classifier_with(jax.tree.map(lambda array: array[experiment], parameters))


def restore_models(run: Path, warn: Callable[[str], None] = lambda message: None) -> Checkpoint:
    """The parameters of all experiments of a run; raises `UserError` if there are none."""
    checkpoint = restore(run, ("models",), warn)
    if checkpoint is None:
        raise UserError(f"{run}: no checkpoint in it, expected the folder of a run (see --out)")
    return checkpoint


def find_experiment(settings: dict[str, Any], length: int, seed: int) -> int:
    """The index of an experiment in its sweep; raises `UserError` if it has no such one."""
    lengths, seeds = settings["lengths"], settings["seeds"]
    if length not in lengths:
        raise UserError(f"the run has no length {length}, it has {', '.join(map(str, lengths))}")
    if seed not in seeds:
        raise UserError(f"the run has no seed {seed}, it has {', '.join(map(str, seeds[:20]))}")
    return lengths.index(length) * len(seeds) + seeds.index(seed)


def split_state(state: TrainState) -> dict[str, Any]:
    """A `TrainState` as the items of a checkpoint."""
    fields = state._asdict()
    models = {"best": fields.pop("best_parameters"), "last": fields.pop("parameters")}
    fields["optimizer"] = dict(enumerate(jax.tree.leaves(state.optimizer)))
    fields["optimizer"] = {f"leaf_{n}": leaf for n, leaf in fields["optimizer"].items()}
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


def _restore_block(manager: ocp.CheckpointManager, block: int, items: tuple[str, ...]):
    arguments = {name: ocp.args.StandardRestore() for name in items}
    restored = manager.restore(
        block, args=ocp.args.Composite(manifest=ocp.args.JsonRestore(), **arguments)
    )
    trees = {name: restored[name] for name in items}
    wanted = restored["manifest"]["arrays"]
    found = describe(trees)
    for name, description in wanted.items():
        if name.split("/")[0] in items and found.get(name) != description:
            raise ValueError(f"{name} is not what was saved")
    return Checkpoint(block, trees, restored["manifest"]["settings"])


def _open(run: Path) -> ocp.CheckpointManager:
    # Every process has the same arrays, so one of them writes and reads for itself alone.
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
    with _write_errors():
        return ocp.CheckpointManager(
            (run / CHECKPOINTS_FOLDER).absolute(),
            item_names=(*ITEMS, "manifest"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEEP,
                enable_async_checkpointing=True,
                multiprocessing_options=alone,
                create=False,
            ),
        )


class _write_errors:
    """Turn whatever Orbax and TensorStore raise into one line."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception) and not isinstance(error, CheckpointError):
            reason = (str(error) or kind.__name__).splitlines()[0]
            raise CheckpointError(f"a checkpoint could not be written: {reason}") from error
