"""What a sweep leaves behind: one row for each experiment, and its full histories.

A run folder holds the rows as `results.csv` (tidy: a row a length and seed) and the histories as
`histories.npz`. Both are written atomically and are byte-for-byte reproducible.
"""

import csv
import dataclasses
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srn_jax.errors import UserError

RESULTS_FILE = "results.csv"
HISTORIES_FILE = "histories.npz"
LOG_FILE = "log.txt"
PARTIAL = ".partial"  # ends the name of a file that was being written when a run was killed
LOG_INTERVAL = 100  # steps between the textbook's lines of training losses


@dataclass(frozen=True)
class Results:
    """Per-experiment results of a sweep; every field is an array `[experiment]`.

    An experiment that diverged (its loss stopped being finite) has `diverged` set, NaN as its final
    training loss, and the scores of the best parameters from before, or NaN if there were none.
    """

    length: np.ndarray  # int: sequence length
    seed: np.ndarray  # int
    best_dev_accuracy: np.ndarray  # float: right answers / dev examples, at the best step
    best_step: np.ndarray  # int: global step of the best evaluation, -1 where there was none
    dev_loss: np.ndarray  # float: dev loss at the best step
    test_accuracy: np.ndarray  # float: test set, with the best parameters
    test_loss: np.ndarray  # float: mean of the batch means, as the dev loss
    final_train_loss: np.ndarray  # float: mean training loss of the last epoch
    overlap: np.ndarray  # int: test sequences that also occur in the training set
    diverged: np.ndarray  # bool

    def __len__(self) -> int:
        return len(self.length)

    def of_length(self, length: int) -> "Results":
        """The rows of one sequence length, in the order of the sweep's seeds."""
        rows = self.length == length
        return Results(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class Histories:
    """Full histories of a sweep; NaN where an experiment had diverged or has not got to yet."""

    length: np.ndarray  # int [experiment]
    seed: np.ndarray  # int [experiment]
    train_loss: np.ndarray  # float32 [experiment, step]: of each batch, before its update
    epoch_loss: np.ndarray  # float32 [experiment, epoch]: mean training loss of each epoch
    eval_steps: np.ndarray  # int [evaluation]: the global steps of the evaluations
    dev_loss: np.ndarray  # float32 [experiment, evaluation]: mean of the batch means
    dev_accuracy: np.ndarray  # float32 [experiment, evaluation]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    partial = path.with_name(path.name + PARTIAL)
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write plain values as a JSON file that a person can read."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_results(results: Results, folder: Path) -> Path:
    """Write `results.csv`: numbers in full precision, so that reading them back loses nothing."""
    names = [f.name for f in dataclasses.fields(results)]
    columns = [getattr(results, name).tolist() for name in names]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    write_atomically(folder / RESULTS_FILE, text.getvalue().encode())
    return folder / RESULTS_FILE


def read_results(folder: Path) -> Results:
    """Read a run folder's `results.csv`; raises `UserError` if it is missing or malformed."""
    path = folder / RESULTS_FILE
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        kinds = {"length": int, "seed": int, "best_step": int, "overlap": int, "diverged": bool}
        columns: dict[str, np.ndarray] = {}
        for f in dataclasses.fields(Results):
            kind = kinds.get(f.name, float)
            parse = {"True": True, "False": False}.__getitem__ if kind is bool else kind
            columns[f.name] = np.array([parse(row[f.name]) for row in rows], dtype=kind)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}), expected a run folder"
        ) from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not a table of results ({error!r})") from None
    return Results(**columns)


def write_histories(histories: Histories, folder: Path) -> Path:
    """Write `histories.npz`, one array for each field of `Histories`, uncompressed."""
    buffer = io.BytesIO()
    np.savez(buffer, **vars(histories))
    write_atomically(folder / HISTORIES_FILE, buffer.getvalue())
    return folder / HISTORIES_FILE


def read_histories(folder: Path) -> Histories:
    """Read a run folder's `histories.npz`; raises `UserError` if it is missing or malformed."""
    path = folder / HISTORIES_FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = Histories(**{f.name: arrays[f.name] for f in dataclasses.fields(Histories)})
        experiments, evaluations = found.length.shape[0], found.eval_steps.shape[0]
        for array in (found.dev_loss, found.dev_accuracy):
            if array.shape != (experiments, evaluations):
                raise ValueError(f"an array of shape {array.shape}")
        for array in (found.train_loss, found.epoch_loss):
            if array.ndim != 2 or len(array) != experiments or not array.shape[1]:
                raise ValueError(f"an array of shape {array.shape}")
        return found
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}), expected a run folder"
        ) from None
    except Exception as error:  # a damaged zip file raises from a dozen places
        raise UserError(f"{path}: not a file of histories ({error!r})") from None


def write_log(histories: Histories, folder: Path) -> Path:
    """Write `log.txt`: the lines that the textbook's program prints, for each length's first seed.

    The training loss every 100 steps, every evaluation, and every improvement of the best score.
    """
    lines = []
    for length in dict.fromkeys(histories.length.tolist()):
        experiment = int(np.flatnonzero(histories.length == length)[0])
        lines += [f"== length {length}, seed {histories.seed[experiment]}"]
        lines += log_lines(histories, experiment)
    write_atomically(folder / LOG_FILE, ("\n".join(lines) + "\n").encode())
    return folder / LOG_FILE


def log_lines(histories: Histories, experiment: int) -> list[str]:
    """The log of one experiment, given its row."""
    train_loss = histories.train_loss[experiment]
    steps = len(train_loss)
    steps_an_epoch = steps // histories.epoch_loss.shape[1]
    evaluation = {int(step): i for i, step in enumerate(histories.eval_steps)}
    lines, best = [], 0.0
    for step in range(steps):
        where = f"epoch {step // steps_an_epoch}, step {step}/{steps}"
        if step % LOG_INTERVAL == 0 and not np.isnan(train_loss[step]):
            lines.append(f"[train] {where}: loss {train_loss[step]:.5f}")
        row = evaluation.get(step)
        if row is None or np.isnan(histories.dev_loss[experiment, row]):
            continue
        score = float(histories.dev_accuracy[experiment, row])
        loss = histories.dev_loss[experiment, row]
        lines.append(f"[evaluate] {where}: dev score {score:.5f}, dev loss {loss:.5f}")
        if score > best:
            lines.append(f"[evaluate] best accuracy updated: {best:.5f} -> {score:.5f}")
            best = score
    return lines
