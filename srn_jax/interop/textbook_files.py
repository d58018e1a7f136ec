"""Labelled sequences as text files: the textbook's own, byte for byte, and a reader of anyone's.

One line an example: whole numbers separated by single spaces, a tab, the label. Length 5, label 11:

    8 3 0 0 7<tab>11

Files are `<folder>/<length>/train.txt`, `dev.txt` and `test.txt`, for one network a length; or
`<folder>/any/train.txt` and so on with lines that differ in length, for one network on all of
them. Imports no JAX.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srn_jax.config import TEXTBOOK_LENGTHS, DataFolder
from srn_jax.errors import UserError
from srn_jax.files import read_bytes

ANY = "any"  # in the place of lengths: one network on sequences of all lengths
SPLITS = ("train", "dev", "test")
TEXTBOOK_MULTIPLICITIES = (3, 1, 1)  # of train, dev and test
NUM_DIGITS = 10
PADDING = -1  # as in `tasks.task`
LARGEST = 9_999  # token or label: each is a row of a table
NUMBER = r"(?:0|[1-9][0-9]{0,3})"
LINE = re.compile(rf"({NUMBER}(?: {NUMBER})*)\t({NUMBER})", re.ASCII)


@dataclass(frozen=True)
class Sequences:
    """Labelled sequences, whole numbers; those that differ in length are padded on the left."""

    digits: np.ndarray  # [example, length]
    labels: np.ndarray  # [example]
    lengths: np.ndarray | None = None  # [example], where they differ

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """The training, development and test set of one length, or of all."""

    train: Sequences
    dev: Sequences
    test: Sequences

    @property
    def overlap(self) -> int:
        """How many test sequences also occur in the training set."""
        seen = {row.tobytes() for row in self.train.digits}
        return sum(row.tobytes() in seen for row in self.test.digits)


def digit_sum(length: int, multiplicity: int, random: np.random.RandomState) -> Sequences:
    """Draw `multiplicity` examples for each of the 100 pairs of digits, as NNDL section 6.1 does.

    Length 5, multiplicity 2: `0 0 0 0 3 -> 0`, `0 0 9 0 0 -> 0`, `0 1 0 4 0 -> 1`, ...
    """
    pairs = np.repeat(np.arange(NUM_DIGITS**2), multiplicity)
    digits = np.zeros((len(pairs), length), np.int8)
    digits[:, 0], digits[:, 1] = pairs // NUM_DIGITS, pairs % NUM_DIGITS
    for row in digits:
        position = random.randint(2, length)  # the order of these two draws is the
        row[position] = random.randint(0, NUM_DIGITS)  # order of the textbook's stream
    return Sequences(digits, (pairs // NUM_DIGITS + pairs % NUM_DIGITS).astype(np.int32))


def textbook_splits(
    lengths: tuple[int, ...] = TEXTBOOK_LENGTHS,
    multiplicities: tuple[int, int, int] = TEXTBOOK_MULTIPLICITIES,
    seed: int = 0,
) -> Iterator[tuple[int, Splits]]:
    """Yield the sets of each length, ascending, all drawn from one stream of NumPy's legacy RNG."""
    random = np.random.RandomState(seed)
    for length in sorted(lengths):
        yield length, Splits(*(digit_sum(length, k, random) for k in multiplicities))


def format_sequences(sequences: Sequences) -> str:
    """The text of a data file."""
    return "".join(
        " ".join(str(digit) for digit in row if digit != PADDING) + f"\t{label}\n"
        for row, label in zip(sequences.digits.tolist(), sequences.labels.tolist(), strict=True)
    )


def check_same(folder: Path, length: int | str, splits: Splits) -> None:
    """Raise `UserError` if `write_splits` would overwrite a file with something else."""
    for name in SPLITS:
        path, content = (
            folder / str(length) / f"{name}.txt",
            format_sequences(getattr(splits, name)),
        )
        if path.is_file() and path.read_bytes() != content.encode():
            raise UserError(f"{path} has other data in it, choose another `out` or `overwrite` it")


def write_splits(folder: Path, length: int | str, splits: Splits) -> None:
    """Write `<folder>/<length>/{train,dev,test}.txt`, creating folders."""
    (folder / str(length)).mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        content = format_sequences(getattr(splits, name)).encode()
        (folder / str(length) / f"{name}.txt").write_bytes(content)


def read_sequences(path: Path, length: int | None, content: bytes | None = None) -> Sequences:
    """The sequences in a data file; the last line may lack its line feed, lines may end in CR LF.

    With a length of None they may differ in length. Raises `UserError` naming file and line for
    anything that is not `length` whole numbers, a tab and a label.
    """
    try:
        text = (read_bytes(path) if content is None else content).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].count(b"\n")
        raise UserError(f"{path}, line {before + 1}: not UTF-8 text") from None
    rows, labels = [], []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        match = LINE.fullmatch(line.removesuffix("\r"))
        digits = [int(digit) for digit in match[1].split(" ")] if match else []
        if match is None or length not in (None, len(digits)):
            got = f"{len(digits)} numbers" if match else repr(line[:40])
            raise UserError(
                f"{path}, line {number}: {got}, expected {length or 'some'} whole numbers from 0 "
                f"to {LARGEST} with single spaces between, a tab and a label (of several lengths: "
                f"`lengths` {ANY}, and a folder {ANY})"
            )
        rows.append(digits)
        labels.append(int(match[2]))
    lengths = np.array([len(row) for row in rows], np.int32)
    width = int(lengths.max())
    padded = np.array([[PADDING] * (width - len(row)) + row for row in rows], np.int16)
    return Sequences(padded, np.array(labels, np.int32), lengths if length is None else None)


def lengths_in(folder: Path) -> tuple[int, ...]:
    """The sequence lengths that a data folder has, ascending; raises `UserError` if it has none.

    Of files with sequences that differ in length it is the longest alone.
    """
    if (folder / "train.txt").is_file():
        return tuple(read_data(str(folder), ANY)[1])
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    lengths = sorted(int(name) for name in names if re.fullmatch("[1-9][0-9]*", name))
    if not lengths:
        lacks = "no data in it" if folder.is_dir() else "no such folder of data"
        raise UserError(f"{folder}: {lacks}, expected <folder>/<length>/train.txt")
    return tuple(lengths)


def read_data(path: str, lengths: tuple[int, ...] | str) -> tuple[DataFolder, dict[int, Splits]]:
    """Read the data of several lengths, once, and what there is to say of them.

    "any" reads `<path>/any`, or the files in `path` itself, as one set of the longest length there
    is; with the folder in the answer and that length it is read again. Vocabulary and classes are
    those of the training sets, chance is the mean over lengths: a network is trained on one.

    Raises:
        UserError: for whatever cannot be read; where the sizes differ, since experiments that
            train side by side take the same number of steps; for a token or a label in another set
            alone, which could not have been learned.
    """
    whole, digests = hashlib.sha256(), []
    read: list[tuple[Path, Sequences]] = []
    splits: dict[int, Splits] = {}
    itself = (Path(path) / "train.txt").is_file()
    differ = itself or lengths == ANY
    path = str(Path(path) / ANY) if differ and not itself else path
    for wanted in (ANY,) if lengths == ANY else lengths:
        folder = Path(path) if differ else Path(path) / str(wanted)
        files = [folder / f"{name}.txt" for name in SPLITS]
        raw = [read_bytes(file) for file in files]
        whole.update(b"".join(raw))  # which, unlike the next, forgets where a file ends
        each = b"".join(hashlib.sha256(content).digest() for content in raw)
        digests.append(hashlib.sha256(each).hexdigest())
        exact = None if differ else int(wanted)
        sets = [read_sequences(file, exact, its) for file, its in zip(files, raw, strict=True)]
        length = max(one.digits.shape[1] for one in sets)
        if wanted not in (ANY, length):
            raise UserError(f"{folder}: the longest sequence has length {length}, not {wanted}")
        for place, one in enumerate(sets):
            more = (0, 0), (length - one.digits.shape[1], 0)
            digits = np.pad(one.digits, more, constant_values=PADDING)
            sets[place] = Sequences(digits, one.labels, one.lengths)
        splits[length] = Splits(*sets)
        read += zip(files, sets, strict=True)
    trained = [own.train for own in splits.values()]
    vocabulary = max(int(sequences.digits.max()) for sequences in trained) + 1
    counts = np.bincount(np.concatenate([sequences.labels for sequences in trained]))
    for place, (file, own) in enumerate(read):
        if len(own) != (size := len(read[place % len(SPLITS)][1])):
            raise UserError(
                f"{file} has {len(own)} examples but length {next(iter(splits))} has {size}: train "
                f"them in separate runs (`lengths` {own.digits.shape[1]})"
            )
        high, unknown = own.digits.max(axis=1), ~np.isin(own.labels, np.flatnonzero(counts))
        for row in np.flatnonzero((high >= vocabulary) | unknown)[:1]:
            what = f"the label {own.labels[row]} does not occur"
            if high[row] >= vocabulary:
                what = f"the number {high[row]} is larger than any"
            where = f"{file}, line {row + 1}: {what} in a training set"
            raise UserError(f"{where}, so it cannot have been learned")
    guesses = [np.bincount(own.train.labels).argmax() == own.test.labels for own in splits.values()]
    known = vocabulary, len(counts), float(np.mean(guesses)), tuple(digests)
    return DataFolder(path, whole.hexdigest(), *known), splits
