"""What a run leaves behind, as values and as bytes; imports neither JAX nor Matplotlib."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from srn_jax.config import Facts
from srn_jax.errors import UserError

RESULTS_FILE = "results.csv"
HISTORIES_FILE = "histories.npz"
LOG_FILE = "log.txt"
RESULT_COLUMNS = (
    "length",
    "seed",
    "best_dev_accuracy",  # right answers / dev examples, at the best step
    "best_step",  # global step of the best evaluation, -1 where there was none
    "dev_loss",  # at the best step; the mean of the batch means
    "test_accuracy",  # with the best parameters
    "test_loss",  # the mean of the batch means, as the dev loss
    "final_train_loss",  # mean training loss of the last epoch
    "overlap",  # test sequences that also occur in the training set; missing with fresh data
    "diverged",
)
SEQUENCES = "test_sequences"  # share that is wholly right, a column of tasks with several answers
KINDS = dict.fromkeys((*RESULT_COLUMNS, SEQUENCES), "float64")
KINDS |= dict.fromkeys(("length", "seed", "best_step"), "int64")
KINDS |= {"overlap": "Int64", "diverged": "bool"}
LOG_INTERVAL = 100  # steps between the training losses that the textbook prints and draws
FEWEST_LOSSES = 100  # so a short run is drawn more densely
PROBE = "probe."  # begins the names of what probes recorded
CELL_LABELS = {
    **{"srn": "SRN", "residual-srn": "residual SRN", "lstm": "LSTM", "gru": "GRU"},
    **{"irnn": "IRNN", "mingru": "minGRU", "minlstm": "minLSTM", "lru": "LRU"},
}


@dataclass(frozen=True)
class Histories:
    """Histories of the experiments of a variant; NaN after a divergence and for steps to come."""

    length: np.ndarray  # int [experiment]
    seed: np.ndarray  # int [experiment]
    eval_steps: np.ndarray  # int [evaluation]: global steps of the evaluations
    loss_steps: np.ndarray  # int [kept]: global steps whose training loss is kept
    steps_an_epoch: int
    train_loss: np.ndarray  # float32 [experiment, kept]: of a batch, before its update
    epoch_loss: np.ndarray  # float32 [experiment, epoch]: mean training loss of each epoch
    dev_loss: np.ndarray  # float32 [experiment, evaluation]: mean of the batch means
    dev_accuracy: np.ndarray  # float32 [experiment, evaluation]
    probes: Mapping[str, np.ndarray] = field(default_factory=dict)  # [experiment, step] by name

    @property
    def steps(self) -> int:
        """The training steps of the whole run: the last of them is evaluated."""
        return 1 + int(max(self.loss_steps.max(initial=0), self.eval_steps.max(initial=0)))

    @property
    def series(self) -> dict[str, list[str]]:
        """The names in `probes` by probe: "gradient_norm" has "gradient_norm.W" and others."""
        found: dict[str, list[str]] = {}
        for name in self.probes:
            found.setdefault(name.partition(".")[0], []).append(name)
        return found


@dataclass(frozen=True)
class Variant:
    """One setting of a run: its experiments differ in sequence length and seed alone."""

    name: str  # in files and options: "srn", "learning_rate=0.003", "srn,learning_rate=0.003"
    label: str  # for people: "SRN", "learning rate 0.003"
    settings: Mapping[str, Any]  # ExperimentConfig as JSON, and "data": None where it is drawn
    facts: Facts
    results: pd.DataFrame  # RESULT_COLUMNS, a row for each experiment
    histories: Histories | None = None
    own: Mapping[str, str] = field(default_factory=dict)  # digests of the user's own files, by name
    digests: Mapping[int, str] = field(default_factory=dict)  # of each length's data files

    def same_data(self, other: "Variant", length: int) -> bool:
        """Whether a seed sees the same data of a length in both, so that they can be paired."""
        ours, theirs = self.settings, other.settings
        if ours.get("data") is not None and theirs.get("data") is not None:
            found = [one.digests.get(length) for one in (self, other)]
            return found[0] == found[1] if None not in found else ours["data"] == theirs["data"]
        names = ("data", "task", "multiplicity", "fresh_data")
        file = str(ours.get("task")).partition(":")[0]
        same = all(ours.get(name) == theirs.get(name) for name in names)
        return same and self.own.get(file) == other.own.get(file)


@dataclass(frozen=True)
class Record:
    """A run as those who show it need it: its variants, and what its run file says."""

    variants: tuple[Variant, ...]
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether all of it is trained; what is not known to be unfinished is."""
        return bool(self.info.get("finished", True))

    @property
    def results(self) -> pd.DataFrame:
        """All rows in one table; of several variants it begins with their names and settings."""
        if len(self.variants) == 1:
            return self.variants[0].results
        tables = []
        differing = parts_of([variant.settings for variant in self.variants])
        for variant, parts in zip(self.variants, differing, strict=True):
            told = {name: setting_text(value) for name, value in parts.items()}
            columns = {"variant": variant.name, **told}
            names = [name for name in columns if name not in variant.results]
            table = variant.results.assign(**{name: columns[name] for name in names})
            tables.append(table[[*names, *variant.results.columns]])
        return pd.concat(tables, ignore_index=True)


def results_frame(columns: Mapping[str, Any]) -> pd.DataFrame:
    """A table of results out of its columns, in the kinds and the order that they always have."""
    named = {name: columns[name] for name in dict.fromkeys((*RESULT_COLUMNS, *columns))}
    return pd.DataFrame(named).astype({name: KINDS[name] for name in named if name in KINDS})


def results_csv(record: Record) -> bytes:
    """The table of results as CSV, in full precision: reading it back loses nothing."""
    table = record.results
    unknown = table["overlap"].isna()
    table = table.assign(overlap=table["overlap"].astype(object).mask(unknown, ""))
    return table.to_csv(index=False, lineterminator="\n", na_rep="nan").encode()


def results_from_csv(content: bytes, name: str = RESULTS_FILE) -> pd.DataFrame:
    """The inverse of `results_csv`; settings that differ are text."""
    try:
        table = pd.read_csv(io.BytesIO(content), dtype=object, keep_default_na=False)
        table["overlap"] = pd.array([int(x) if x else None for x in table["overlap"]], "Int64")
        table["diverged"] = [{"True": True, "False": False}[x] for x in table["diverged"]]
        kinds = {key: KINDS[key] for key in (*RESULT_COLUMNS, *table) if key in KINDS}
        texts = table.columns.difference([*kinds])
        return table.astype(kinds | dict.fromkeys(texts, "str"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:  # pandas' own are ValueErrors
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: not a table of results ({reason})") from None


def histories_npz(histories: Histories) -> bytes:
    """Histories as an uncompressed NumPy archive, an array each."""
    values = {name: array for name, array in vars(histories).items() if name != "probes"}
    values |= {PROBE + name: array for name, array in histories.probes.items()}
    buffer = io.BytesIO()
    arrays: Any = {name: np.asarray(array, order="C") for name, array in values.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def histories_from_npz(content: bytes, name: str = HISTORIES_FILE) -> Histories:
    """The inverse of `histories_npz`, which reads no pickle."""
    try:
        arrays: Any = dict(np.load(io.BytesIO(content), allow_pickle=False))
        names = [key for key in arrays if key.startswith(PROBE)]
        probes = {key.removeprefix(PROBE): arrays.pop(key) for key in names}
        found = Histories(
            **{**arrays, "steps_an_epoch": int(arrays["steps_an_epoch"])}, probes=probes
        )
        check_shapes(found)
        return found
    except Exception as error:  # a damaged zip file raises from a dozen places
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: not a file of histories ({reason})") from None


def check_shapes(histories: Histories) -> None:
    """Raise `ValueError` for arrays that do not belong together."""
    rows, steps = len(histories.length), histories.steps
    evaluations = (rows, len(histories.eval_steps))
    expected: dict[str, tuple[int, ...]] = {"seed": (rows,), "dev_loss": evaluations}
    expected |= {"dev_accuracy": evaluations, "train_loss": (rows, len(histories.loss_steps))}
    expected |= {"epoch_loss": (rows, math.ceil(steps / histories.steps_an_epoch))}
    for name, array in (vars(histories) | dict(histories.probes)).items():
        wanted = (rows, steps) if name in histories.probes else expected.get(name)
        if wanted is not None and array.shape != wanted:
            raise ValueError(f"{name} has the shape {array.shape}, expected {wanted}")


def parts_of(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings in which variants differ, by name; the cell where they do not."""
    names = dict.fromkeys(name for one in settings for name in one)
    varying = [n for n in names if len({setting_text(one.get(n)) for one in settings}) > 1]
    return [{name: one.get(name) for name in varying or ["cell"]} for one in settings]


def names_of(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of variants, which can name a folder; raises `UserError` where two are the same."""
    names = []
    for parts in parts_of(settings):
        texts = {n: re.sub(r"[^\w.+@-]", "_", setting_text(x)) for n, x in parts.items()}
        shown = [text if n == "cell" else f"{n}={text}" for n, text in texts.items()]
        names.append(",".join(shown).lstrip(".")[:200] or "_")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two variants are called {name}, expected settings that differ")
    return names


def label_of(parts: Mapping[str, Any]) -> str:
    """A variant's name for people, out of one of `parts_of`: "SRN, learning rate 0.003"."""
    words = []
    for name, value in parts.items():
        text, spoken = setting_text(value), name.replace("_", " ")
        if name == "cell":
            words.append(CELL_LABELS.get(text, text.rpartition(".")[2].partition("@")[0]))
        elif isinstance(value, bool):
            words.append(spoken if value else f"not {spoken}")
        else:
            words.append(f"{spoken} {text}")
    return ", ".join(words)


def setting_text(value: Any) -> str:
    """A setting as text in names and tables; of FILE.py:NAME no folder, and a dot."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(setting_text, value)) or "none"
    if isinstance(value, Mapping):
        return " ".join(f"{name} {setting_text(value[name])}" for name in value)
    if isinstance(value, str) and ".py:" in value:
        return value.replace("\\", "/").rpartition("/")[2].replace(".py:", ".")
    return "none" if value is None else str(value)


def loss_stride(steps: int) -> int:
    """The steps from one drawn training loss to the next: 100, as in the textbook, or fewer."""
    return min(LOG_INTERVAL, max(1, steps // FEWEST_LOSSES))


def log_text(histories: Histories) -> str:
    """What the textbook's program prints, for each length's first seed."""
    lines = []
    for length in dict.fromkeys(histories.length.tolist()):
        row = int(np.flatnonzero(histories.length == length)[0])
        lines += [f"== length {length}, seed {histories.seed[row]}", *log_lines(histories, row)]
    return "\n".join(lines) + "\n"


def log_lines(histories: Histories, row: int) -> list[str]:
    """The log of one experiment, given its row, in the textbook's own words and spelling."""
    steps, epochs = histories.steps, histories.epoch_loss.shape[1]
    losses = zip(histories.loss_steps.tolist(), histories.train_loss[row].tolist(), strict=True)
    events: dict[int, list[str]] = {}
    for step, loss in losses:
        if step % LOG_INTERVAL == 0 and not np.isnan(loss):
            epoch = f"epoch: {step // histories.steps_an_epoch}/{epochs}"
            events[step] = [f"[Train] {epoch}, step: {step}/{steps}, loss: {loss:.5f}"]
    best = 0.0
    scores = (array[row].tolist() for array in (histories.dev_accuracy, histories.dev_loss))
    for step, score, loss in zip(histories.eval_steps.tolist(), *scores, strict=True):
        if np.isnan(loss):
            continue
        lines = events.setdefault(step, [])
        lines.append(f"[Evaluate]  dev score: {score:.5f}, dev loss: {loss:.5f}")
        if score > best:
            change = f"{best:.5f} --> {score:.5f}"
            lines.append(f"[Evaluate] best accuracy performence has been updated: {change}")
            best = score
    done = bool(len(histories.eval_steps)) and not np.isnan(histories.dev_loss[row, -1])
    lines = [line for step in sorted(events) for line in events[step]]
    return lines + ["[Train] Training done!"] * done
