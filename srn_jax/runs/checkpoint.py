"""The checkpoints of a run: saved in the background, kept while they are good.

Only what fails a check of its digest or format is damaged: it is set aside as `232.damaged`, and
removed when a later checkpoint is good. What can't be read for another reason (no permission, too
little memory) may be good, and stays.
"""

import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from srn_jax.errors import UserError
from srn_jax.runs import storage
from srn_jax.runs.folder import OpenRun
from srn_jax.runs.storage import Checkpoint, CheckpointError, Damage
from srn_jax.training.experiment import Histories, TrainState

CHECKPOINTS_FOLDER = "checkpoints"
KEEP = 2  # so that there is a good one while the newest is being written, or is damaged
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax has not finished
DAMAGED = ".damaged"  # ends the name of one that was set aside


class Writer:
    """Saves checkpoints of runs that train together, in the background; keeps the newest `KEEP`.

    Every method raises `CheckpointError` if a save, this one or the one before, went wrong.
    """

    def __init__(self, runs: Sequence[OpenRun]):
        self.runs = runs
        self.cost = 0.0  # seconds from the start of gathering the last saved state to its end
        self._thread: threading.Thread | None = None
        self._error: str | None = None

    def check(self) -> None:
        """Raise `OSError` for a folder that is gone, which Orbax would create."""
        for run in self.runs:
            run.check()

    def save(self, block: int, items: Sequence[dict[str, Any]], began: float) -> None:
        """Start saving what each run has after `block` blocks; `items` are of `split_state`.

        `began` is the time (`time.monotonic`) at which gathering them began.
        """
        self.close()
        self.check()
        # A daemon does not keep the process from ending, whatever the disk does.
        self._thread = threading.Thread(target=self._save, args=(block, items, began), daemon=True)
        self._thread.start()

    def _save(self, block: int, items: Sequence[dict[str, Any]], began: float) -> None:
        with storage.quiet():
            try:
                for run, own in zip(self.runs, items, strict=False):  # no runs but in process 0
                    write(run.folder, block, own, run.info["settings"])
            except Exception as error:
                self._error = storage.reason_of(error)
            if self._error is not None:
                storage.settle()
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
                f"no checkpoint could be written to {self.runs[0].folder / CHECKPOINTS_FOLDER}: "
                f"{error}; those before it are kept, the same command goes on from there"
            )


def write(run: Path, block: int, items: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write one checkpoint; then remove those that it makes superfluous."""
    folder = run / CHECKPOINTS_FOLDER
    storage.save(folder / str(block), items, settings)
    for old in blocks_in(run)[KEEP:]:
        remove(folder / str(old))
    for damaged in blocks_in(run, DAMAGED):
        if damaged <= block:
            remove(folder / f"{damaged}{DAMAGED}")


def blocks_in(run: Path, ending: str = "") -> list[int]:
    """The finished checkpoints of a run, or those with another ending, newest first."""
    folder = run / CHECKPOINTS_FOLDER
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = (re.fullmatch(f"([0-9]+){ending}", name) for name in names)
    return sorted((int(match[1]) for match in found if match), reverse=True)


def remove(path: Path) -> None:
    """Remove a checkpoint under a name that no kill in the middle leaves for a good one."""
    gone = path.rename(path.with_name(path.name + UNFINISHED))
    shutil.rmtree(gone)


def restore(run: Path, warn: Callable[[str], None] = lambda message: None) -> Checkpoint | None:
    """The newest checkpoint of a run that is whole, or None if it has none yet.

    Arguments and errors are those of `restore_together`.
    """
    return restore_together([run], warn)[0][0]


def restore_together(
    runs: Sequence[Path],
    warn: Callable[[str], None] = lambda message: None,
    set_aside: bool = False,
) -> tuple[list[Checkpoint | None], bool]:
    """Restore runs that train together: the newest block of which each has a good checkpoint.

    Where there is none, each gets the newest of its own, or None if it has none yet.

    Args:
        runs: the run folders.
        warn: told about each damaged checkpoint.
        set_aside: rename the damaged ones, once good ones are found; for whoever has the lock.

    Returns:
        The checkpoints, and whether the runs can go on together.

    Raises:
        UserError: if a run has checkpoints but all are damaged.
        CheckpointError: if one cannot be read but may be good.
    """
    tried: dict[tuple[Path, int], Checkpoint | None] = {}

    def attempt(run: Path, block: int) -> Checkpoint | None:
        if (run, block) not in tried:
            tried[run, block] = None
            try:
                tried[run, block] = storage.load(run / CHECKPOINTS_FOLDER / str(block))
            except Damage as error:
                warn(f"checkpoint {run / CHECKPOINTS_FOLDER / str(block)} is damaged ({error})")
        return tried[run, block]

    def newest(run: Path) -> Checkpoint | None:
        return next(filter(None, (attempt(run, block) for block in blocks_in(run))), None)

    common = sorted(set.intersection(*(set(blocks_in(run)) for run in runs)), reverse=True)
    rows = ([attempt(run, block) for run in runs] for block in common)
    together = next((row for row in rows if None not in row), None)
    found = together or [newest(run) for run in runs]
    for run, own in zip(runs, found, strict=True):
        if own is None and (blocks_in(run) or blocks_in(run, DAMAGED)):
            raise UserError(
                f"{run / CHECKPOINTS_FOLDER}: every checkpoint is damaged; --overwrite starts the "
                "run afresh"
            )
    if set_aside:
        for run, own in zip(runs, found, strict=True):
            tidy(run, own, [block for (other, block), c in tried.items() if other == run and not c])
    return found, together is not None or not any(found)


def tidy(run: Path, start: Checkpoint | None, damaged: Sequence[int]) -> None:
    """Set damaged checkpoints aside; remove unfinished ones, and good ones after the start.

    The latter are of a run that goes on together with others from an earlier block.
    """
    folder = run / CHECKPOINTS_FOLDER
    for path in folder.glob(f"*{UNFINISHED}*"):
        shutil.rmtree(path)
    for block in damaged:
        aside = folder / f"{block}{DAMAGED}"
        shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
        (folder / str(block)).rename(aside)
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


def join_state(items: dict[str, Any], like: TrainState) -> tuple[TrainState, Histories]:
    """The inverse of `split_state`; `like` has the optimizer's structure."""
    fields = dict(items["training"])
    histories = Histories(**{name: fields.pop(name) for name in Histories._fields})
    leaves = [fields["optimizer"][f"leaf_{n}"] for n in range(len(fields["optimizer"]))]
    fields["optimizer"] = jax.tree.unflatten(jax.tree.structure(like.optimizer), leaves)
    models = items["models"]
    state = TrainState(parameters=models["last"], best_parameters=models["best"], **fields)
    return state, histories


def check_like(items: dict[str, Any], like: dict[str, Any]) -> None:
    """Raise `UserError` where an array has another shape or dtype than the one like it."""
    found, wanted = (
        {name: (shape, dtype) for name, (shape, dtype, _) in storage.describe(tree).items()}
        for tree in (items, like)
    )
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"the checkpoint has {name} as {found.get(name)}, expected {wanted.get(name)}: "
                "it is not of this sweep"
            )
