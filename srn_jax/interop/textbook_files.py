"""DigitSum as text files: the textbook's own, byte for byte, and a strict reader of anyone's.

One line an example: digits separated by single spaces, a tab, the label. Length 5, label 11:

    8 3 0 0 7<tab>11

Files are `<folder>/<length>/train.txt`, `dev.txt` and `test.txt`. Imports no JAX.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from srn_jax.config import TEXTBOOK_LENGTHS

NUM_DIGITS, NUM_CLASSES = 10, 19
from srn_jax.errors import UserError

SPLITS = ("train", "dev", "test")
TEXTBOOK_MULTIPLICITIES = (3, 1, 1)  # of train, dev and test
LINE = re.compile(r"([0-9](?: [0-9])*)\t(0|[1-9][0-9]?)", re.ASCII)


@dataclass(frozen=True)
class Sequences:
    """Labelled sequences of one length: `digits [example, length]` and `labels [example]`, ints."""

    digits: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """The training, development and test set of one length."""

    train: Sequences
    dev: Sequences
    test: Sequences

    @property
    def overlap(self) -> int:
        """How many test sequences also occur in the training set."""
        seen = {row.tobytes() for row in self.train.digits}
        return sum(row.tobytes() in seen for row in self.test.digits)


def digit_sum(length: int, multiplicity: int, random: np.random.RandomState) -> Sequences:
    """Draw `multiplicity` examples for each of the 100 pairs of digits, as the textbook does.

    Length 5, multiplicity 2: `0 0 0 0 3 -> 0`, `0 0 9 0 0 -> 0`, `0 1 0 4 0 -> 1`, ...

    Raises `ValueError` for a length under 3 or a multiplicity under 1. Source: NNDL section 6.1.
    """
    check_digit_sum(length, multiplicity)
    rows, labels = [], []
    for first in range(NUM_DIGITS):
        for second in range(NUM_DIGITS):
            for _ in range(multiplicity):
                row = [first, second] + [0] * (length - 2)
                position = random.randint(2, length)  # the order of these two draws is the
                row[position] = random.randint(0, NUM_DIGITS)  # order of the textbook's stream
                rows.append(row)
                labels.append(first + second)
    return Sequences(np.array(rows, np.int8), np.array(labels, np.int32))


def check_digit_sum(length: int, multiplicity: int) -> None:
    """Raise `UserError` (a `ValueError`) where DigitSum is not defined."""
    if length < 3:
        raise UserError(f"a DigitSum sequence has at least 3 positions, got length {length}")
    if multiplicity < 1:
        raise UserError(f"multiplicity must be at least 1, got {multiplicity}")


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
        " ".join(map(str, row)) + f"\t{label}\n"
        for row, label in zip(sequences.digits.tolist(), sequences.labels.tolist(), strict=True)
    )


def contents(folder: Path, length: int, splits: Splits) -> dict[Path, bytes]:
    """What belongs into `<folder>/<length>/{train,dev,test}.txt`."""
    return {
        folder / str(length) / f"{name}.txt": format_sequences(getattr(splits, name)).encode()
        for name in SPLITS
    }


def check_same(folder: Path, length: int, splits: Splits) -> None:
    """Raise `UserError` if `write_splits` would overwrite a file with something else."""
    for path, content in contents(folder, length, splits).items():
        if path.is_file() and path.read_bytes() != content:
            raise UserError(f"{path} has other data in it, choose another --out or --overwrite it")


def write_splits(folder: Path, length: int, splits: Splits) -> None:
    """Write `<folder>/<length>/{train,dev,test}.txt`, creating folders.

    Raises `UserError` where a file stands in the place of a folder.
    """
    for path, content in contents(folder, length, splits).items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{path.parent} can't be a folder, a file is in its place") from None
        path.write_bytes(content)


def read_sequences(path: Path, length: int) -> Sequences:
    """Read a data file; the last line may lack its line feed, and lines may end in CR LF.

    Raises `UserError` naming the file, and the line where there is one, for anything that is not
    `length` digits, a tab and a label in 0..18.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text") from None
    rows, labels = [], []
    for number, content in enumerate(text.removesuffix("\n").split("\n"), start=1):
        digits, label = parse_line(content.removesuffix("\r"), length, f"{path}, line {number}")
        rows.append(digits)
        labels.append(label)
    return Sequences(np.array(rows, np.int8), np.array(labels, np.int32))


def parse_line(line: str, length: int, where: str) -> tuple[list[int], int]:
    """The digits and the label of one line; raises `UserError` that begins with `where`."""
    match = LINE.fullmatch(line)
    if match is None:
        raise UserError(f"{where}: {describe_fault(line)}, expected '{length} digits<tab>label'")
    digits = [int(digit) for digit in match[1].split(" ")]
    if len(digits) != length:
        raise UserError(f"{where}: {len(digits)} digits, expected {length}")
    if int(match[2]) >= NUM_CLASSES:
        raise UserError(f"{where}: label {match[2]}, expected 0 to {NUM_CLASSES - 1}")
    return digits, int(match[2])


def describe_fault(line: str) -> str:
    """What is wrong with a line that does not have the form of an example."""
    if not line:
        return "empty line"
    if "\t" not in line:
        return f"no tab in {shorten(line)}"
    digits, label = line.split("\t", 1)
    if re.fullmatch(r"[0-9](?: [0-9])*", digits, re.ASCII):
        return f"label {shorten(label)} is not a whole number from 0 to {NUM_CLASSES - 1}"
    strange = next((part for part in digits.split(" ") if not re.fullmatch("[0-9]", part)), digits)
    return f"{shorten(strange)} is not a digit"


def shorten(text: str, limit: int = 40) -> str:
    """A piece of a user's text as it may stand in an error message: quoted, on one line."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


def read_splits(folder: Path, length: int) -> Splits:
    """Read `<folder>/<length>/{train,dev,test}.txt`; raises `UserError` as `read_sequences`."""
    return Splits(
        *(read_sequences(folder / str(length) / f"{name}.txt", length) for name in SPLITS)
    )


def lengths_in(folder: Path) -> tuple[int, ...]:
    """The sequence lengths that a data folder has, ascending; raises `UserError` if it has none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of data, expected <folder>/<length>/train.txt")
    lengths = sorted(int(p.name) for p in folder.iterdir() if re.fullmatch("[1-9][0-9]*", p.name))
    if not lengths:
        raise UserError(f"{folder}: no data in it, expected <folder>/<length>/train.txt")
    return tuple(lengths)


def read_folder(folder: Path, lengths: tuple[int, ...]) -> dict[int, Splits]:
    """Read the data of several lengths, which must have equally many examples each.

    Raises `UserError` for whatever cannot be read, and where the sizes differ: experiments that
    train side by side take the same number of steps.
    """
    splits = {length: read_splits(folder, length) for length in lengths}
    first = splits[lengths[0]]
    for length, other in splits.items():
        for name in SPLITS:
            here, there = len(getattr(other, name)), len(getattr(first, name))
            if here != there:
                raise UserError(
                    f"{folder / str(length) / name}.txt has {here} examples but length "
                    f"{lengths[0]} has {there}: train them in separate runs (--lengths {length})"
                )
    return splits
