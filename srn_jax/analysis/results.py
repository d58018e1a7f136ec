"""What a sweep leaves behind: one row for each experiment, and its full histories.

A run folder holds the rows as `results.csv` (tidy: one for each length and seed) and the histories
as `histories.npz`. Both are written atomically and are byte-for-byte reproducible.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from srn_jax.config import DEFAULTS, Facts
from srn_jax.errors import UserError

OF_A_RUN = ", expected the folder of a run"
RUN_FILE = "run.json"
RESULTS_FILE = "results.csv"
HISTORIES_FILE = "histories.npz"
LOG_FILE = "log.txt"
PARTIAL = ".partial"  # ends the name of a file that was being written when a run was killed
DRAWN = "drawn for every seed"
AXES = ("length", "seed", "eval_steps")  # arrays that say what the rows and columns of others are
PLAIN = {  # histories that are in the file under their own names
    "train_loss": "step.train_loss",
    "dev_loss": "evaluation.dev_loss",
    "dev_accuracy": "evaluation.dev_accuracy",
}
LOG_INTERVAL = 100  # steps between the training losses that the textbook prints and draws
FEWEST_LOSSES = 100  # so a short run is drawn more densely


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

    @property
    def unscored(self) -> np.ndarray:
        """Which did not diverge and yet have no best parameters, `[experiment]`."""
        return np.isnan(self.best_dev_accuracy) & ~self.diverged

    def of_length(self, length: int) -> "Results":
        """The rows of one sequence length, in the order of the sweep's seeds."""
        rows = self.length == length
        return Results(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class Histories:
    """Full histories of a sweep, by name; NaN after a divergence and for steps to come.

    `steps` has "train_loss" (of each batch, before its update) and whatever probes recorded, such
    as "gradient_norm.W"; `evaluations` has "dev_loss" (mean of the batch means), "dev_accuracy".
    """

    length: np.ndarray  # int [experiment]
    seed: np.ndarray  # int [experiment]
    eval_steps: np.ndarray  # int [evaluation]: the global steps of the evaluations
    steps: Mapping[str, np.ndarray]  # float32 [experiment, step]
    evaluations: Mapping[str, np.ndarray]  # float32 [experiment, evaluation]
    steps_an_epoch: int

    @property
    def train_loss(self) -> np.ndarray:
        """The training losses `[experiment, step]`."""
        return self.steps["train_loss"]

    @property
    def dev_loss(self) -> np.ndarray:
        """The dev losses `[experiment, evaluation]`."""
        return self.evaluations["dev_loss"]

    @property
    def dev_accuracy(self) -> np.ndarray:
        """The dev accuracies `[experiment, evaluation]`."""
        return self.evaluations["dev_accuracy"]

    @cached_property
    def epoch_loss(self) -> np.ndarray:
        """The mean training loss of each epoch, `[experiment, epoch]`."""
        return window_means(self.train_loss, self.steps_an_epoch)

    @property
    def probes(self) -> dict[str, list[str]]:
        """What was recorded at every step beside the loss: the series of each probe."""
        found: dict[str, list[str]] = {}
        for name in self.steps:
            if name != "train_loss":
                found.setdefault(name.partition(".")[0], []).append(name)
        return found


def window_means(values: np.ndarray, window: int) -> np.ndarray:
    """Means of `values [row, step]` over windows of steps, the last of which may be shorter."""
    rows, steps = values.shape
    whole = steps - steps % window
    means = values[:, :whole].reshape(rows, -1, window).mean(axis=-1)
    rest = values[:, whole:]
    return np.hstack([means, rest.mean(axis=1, keepdims=True)]) if rest.size else means


def loss_stride(steps: int) -> int:
    """The steps from one drawn training loss to the next: 100, as in the textbook, or fewer."""
    return min(LOG_INTERVAL, max(1, steps // FEWEST_LOSSES))


@dataclass(frozen=True)
class Run:
    """A run as those who show it need it."""

    results: Results
    histories: Histories | None = None
    info: Mapping[str, Any] = field(default_factory=dict)  # what its run file holds

    @property
    def facts(self) -> Facts:
        """What the task says about itself; runs of old versions did not keep it."""
        known = {f.name for f in dataclasses.fields(Facts)}
        task = {k: v for k, v in (self.info.get("task") or {}).items() if k in known}
        if not task and self.settings["data"] != DRAWN:  # of which nothing more is known
            unknown = math.nan
            return Facts(chance=unknown, chance_loss=unknown, test_examples=0, fixed_data=True)
        return Facts(**task)

    @property
    def folder(self) -> Mapping[str, Any] | None:
        """Its folder of data, as `DataFolder` by name; None where data are drawn."""
        settings = self.info.get("settings") or {}
        data = settings.get("data")
        if isinstance(data, str):  # of an old version
            return {"path": data, "sha256": settings.get("data_sha256") or ""}
        return data

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of its experiments, with defaults filled in, and its data."""
        settings, data = self.info.get("settings") or {}, self.folder
        told = DRAWN if data is None else f"{data['path']} (sha256 {data['sha256'][:12]})"
        return {**dataclasses.asdict(DEFAULTS), **(settings.get("experiment") or {}), "data": told}

    @property
    def own_files(self) -> dict[str, str]:
        """Digests of the user's own files, by their names."""
        return dict((self.info.get("settings") or {}).get("own_files", {}))

    def same_data(self, other: "Run", length: int) -> bool:
        """Whether a seed sees the same data of a length in both runs, so that they can be paired.

        Of files it is the whole folder where a run of an old version does not know those of a
        length; a file of one's own with a task counts with all that is in it.
        """
        if self.folder is None and other.folder is None:
            ours, theirs = self.settings, other.settings
            file = ours["task"].partition(":")[0]
            own = self.own_files.get(file) == other.own_files.get(file)
            names = "task", "multiplicity", "fresh_data"
            return own and all(ours[name] == theirs[name] for name in names)
        if self.folder is None or other.folder is None:
            return False
        digests = [run.digests.get(length) for run in (self, other)]
        if None in digests:
            digests = [self.folder["sha256"], other.folder["sha256"]]
        return digests[0] == digests[1]

    @property
    def digests(self) -> dict[int, str]:
        """Of the data files of each length; runs of old versions have none."""
        lengths = (self.info.get("settings") or {}).get("lengths", ())
        return dict(zip(lengths, (self.folder or {}).get("digests", ()), strict=False))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # which names the file only where opening it failed
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write plain values as a JSON file that a person can read."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def digest_of(value: Any) -> str:
    """SHA-256 of plain values, by their JSON text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_manifest(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as a JSON file that a person can read, with a digest of them."""
    values = {name: value for name, value in values.items() if name != "sha256"}
    write_json(path, {**values, "sha256": digest_of(values)})


def read_bytes(path: Path, advice: str = "") -> bytes:
    """The content of a file; raises `UserError`, with `advice` at its end, if it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # the latter for a null byte in the path
        reason = getattr(error, "strerror", error)
        raise UserError(f"{path}: cannot be read ({reason}){advice}") from None


def read_manifest(path: Path) -> dict[str, Any]:
    """What `write_manifest` has written; files of old versions have no digest.

    Raises `UserError` if the file is missing or is not what was written.
    """
    content = read_bytes(path, OF_A_RUN)
    try:
        values = json.loads(content.decode("utf-8"))
        if not isinstance(values, dict):
            raise TypeError(f"it holds {type(values).__name__}, expected an object")
        rest = {name: value for name, value in values.items() if name != "sha256"}
        if "sha256" in values and values["sha256"] != digest_of(rest):
            raise ValueError("it is not what the run wrote")
        return values
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error})") from None


def read_checked(path: Path) -> bytes:
    """The content of a file of a run, which must be what the run file says that it wrote.

    Raises `UserError` if it cannot be read, or is not what the run wrote.
    """
    content = read_bytes(path, OF_A_RUN)
    run_file = path.with_name(RUN_FILE)
    written = read_manifest(run_file).get("files", {}) if run_file.exists() else {}
    if path.name in written and written[path.name] != hashlib.sha256(content).hexdigest():
        raise UserError(f"{path}: damaged (it is not what the run wrote)")
    return content


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


def read_results(folder: Path | str) -> Results:
    """Read a run folder's `results.csv`; raises `UserError` if it is missing or damaged."""
    path = Path(folder) / RESULTS_FILE
    content = read_checked(path)
    try:
        rows = list(csv.DictReader(content.decode("utf-8").splitlines()))
        kinds = {"length": int, "seed": int, "best_step": int, "overlap": int, "diverged": bool}
        columns: dict[str, np.ndarray] = {}
        for f in dataclasses.fields(Results):
            kind = kinds.get(f.name, float)
            parse = {"True": True, "False": False}.__getitem__ if kind is bool else kind
            columns[f.name] = np.array([parse(row[f.name]) for row in rows], dtype=kind)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not a table of results ({error!r})") from None
    return Results(**columns)


def write_histories(histories: Histories, folder: Path) -> Path:
    """Write `histories.npz`, an array for each history, uncompressed.

    The names of probes have "step." or "evaluation." before them, which says what their axis is.
    """
    arrays = {name: getattr(histories, name) for name in (*AXES, "steps_an_epoch", "epoch_loss")}
    for kind, table in (("step", histories.steps), ("evaluation", histories.evaluations)):
        arrays |= {name if name in PLAIN else f"{kind}.{name}": table[name] for name in table}
    buffer = io.BytesIO()
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    np.savez(buffer, **arrays)
    write_atomically(folder / HISTORIES_FILE, buffer.getvalue())
    return folder / HISTORIES_FILE


def read_histories(folder: Path | str) -> Histories:
    """Read a run folder's `histories.npz`; raises `UserError` if it is missing or malformed."""
    path = Path(folder) / HISTORIES_FILE
    content = read_checked(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(part.file_size for part in archive.infolist()) > len(content):
                raise ValueError("it is compressed, as no run writes it")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            tables: dict[str, dict[str, np.ndarray]] = {"step": {}, "evaluation": {}}
            for key in arrays.files:
                kind, _, name = (PLAIN.get(key) or key).partition(".")
                if kind in tables:
                    tables[kind][name] = arrays[key]
            length, seed, eval_steps = (arrays[name] for name in AXES)
            steps = tables["step"]["train_loss"].shape[1]
            # Files of old versions do not say it; their epochs are all whole.
            whole = steps // arrays["epoch_loss"].shape[1]
            steps_an_epoch = int(arrays.get("steps_an_epoch", whole))
        shapes = {"step": (len(length), steps), "evaluation": (len(length), len(eval_steps))}
        for kind, table in tables.items():
            for name, array in table.items():
                if array.shape != shapes[kind]:
                    raise ValueError(f"{name} of shape {array.shape}")
        missing = {"dev_loss", "dev_accuracy"} - tables["evaluation"].keys()
        if missing or not steps or steps_an_epoch < 1:
            raise ValueError(f"no {' or '.join(missing)}" if missing else "no steps")
        return Histories(
            length, seed, eval_steps, tables["step"], tables["evaluation"], steps_an_epoch
        )
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
    """The log of one experiment, given its row, in the textbook's own words and spelling."""
    train_loss = histories.train_loss[experiment]
    steps = len(train_loss)
    epochs = -(-steps // histories.steps_an_epoch)
    evaluation = {int(step): i for i, step in enumerate(histories.eval_steps)}
    lines, best = [], 0.0
    for step in range(steps):
        if step % LOG_INTERVAL == 0 and not np.isnan(train_loss[step]):
            epoch = f"epoch: {step // histories.steps_an_epoch}/{epochs}"
            lines.append(f"[Train] {epoch}, step: {step}/{steps}, loss: {train_loss[step]:.5f}")
        row = evaluation.get(step)
        if row is None or np.isnan(histories.dev_loss[experiment, row]):
            continue
        score = float(histories.dev_accuracy[experiment, row])
        loss = histories.dev_loss[experiment, row]
        lines.append(f"[Evaluate]  dev score: {score:.5f}, dev loss: {loss:.5f}")
        if score > best:
            change = f"{best:.5f} --> {score:.5f}"
            lines.append(f"[Evaluate] best accuracy performence has been updated: {change}")
            best = score
    done = not np.isnan(histories.dev_loss[experiment, -1])
    return lines + ["[Train] Training done!"] * done
