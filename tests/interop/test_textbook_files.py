"""The textbook's files byte for byte, and the reader of anyone's files."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import (
    TEXTBOOK_LENGTHS,
    Splits,
    check_same,
    digit_sum,
    format_sequences,
    lengths_in,
    read_data,
    read_sequences,
    textbook_splits,
    write_splits,
)

SHA256 = {  # of the textbook's own files
    "5/train.txt": "c4296d119b8ed4f5489a12c062846134252f08ffe2c967a10fe467a2f8b2d73a",
    "5/dev.txt": "e7d6f947533e239d4735e3db383624a12399bf51b5b1901399fb3e47fff64038",
    "5/test.txt": "c6ea050ca76747b5d7b588bd9acbdfc34ad4228762b4923cc54dd20eed1b17d0",
    "20/train.txt": "60acd43edbd569d2befba492b9be3c4fc7487b631c1492f8f456dfc162fdde40",
    "35/test.txt": "7c0aa6fac99fab48a2b8d6ddef98be45f3837082f02669350f7e491f26128f61",
}


def write_data(folder, length, **sets):
    """Files of one length, each set given as lists of tokens and label."""
    (folder / str(length)).mkdir(exist_ok=True)
    for name, rows in sets.items():
        text = "".join(" ".join(map(str, row[:-1])) + f"\t{row[-1]}\n" for row in rows)
        (folder / str(length) / f"{name}.txt").write_text(text)


def test_the_textbooks_files_are_reproduced_byte_for_byte(tmp_path):
    for length, splits in textbook_splits():
        write_splits(tmp_path / "new" / "folder", length, splits)
        check_same(tmp_path / "new" / "folder", length, splits)
        assert splits.overlap <= 10
    root = tmp_path / "new" / "folder"
    for name, digest in SHA256.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == digest, name
    assert len(list(root.rglob("*.txt"))) == 21
    assert lengths_in(root) == TEXTBOOK_LENGTHS


def test_what_is_written_is_read_again_and_nothing_else_is_overwritten(tmp_path):
    for length, splits in textbook_splits((3, 6), (2, 1, 1), seed=4):
        write_splits(tmp_path, length, splits)
    folder, again = read_data(str(tmp_path), (3, 6))
    assert (folder.vocabulary, folder.classes, folder.chance) == (10, 19, 0.10)
    for length, splits in textbook_splits((3, 6), (2, 1, 1), seed=4):
        for name in ("train", "dev", "test"):
            one, other = getattr(splits, name), getattr(again[length], name)
            assert (one.digits == other.digits).all() and (one.labels == other.labels).all()
    other = Splits(*[digit_sum(3, 1, np.random.RandomState(7))] * 3)
    with pytest.raises(UserError, match=r"train\.txt has other data in it"):
        check_same(tmp_path, 3, other)


def test_a_file_of_windows_or_without_a_last_line_feed_is_read(tmp_path):
    text = format_sequences(digit_sum(4, 1, np.random.RandomState(0)))
    for content in (text, text.replace("\n", "\r\n"), text[:-1], "\ufeff" + text):
        (tmp_path / "train.txt").write_bytes(content.encode())
        assert len(read_sequences(tmp_path / "train.txt", 4)) == 100


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "line 1: '', expected 3 whole"),
        (b"1 2 3\t3\n\n1 2 3\t3\n", "line 2: '', expected 3 whole"),
        (b"1 2 3\t3\n1 2\t3\n", "line 2: 2 numbers, expected 3"),
        (b"1 2 3 4\t3\n", "line 1: 4 numbers, expected 3"),
        (b"1 x 3\t3\n", "line 1: '1 x 3\\t3', expected"),
        (b"1 02 3\t3\n", "line 1: '1 02 3\\t3', expected"),
        (b"1 12345 3\t3\n", "line 1: '1 12345 3\\t3', expected"),
        (b"1 2 3 3\n", "line 1: '1 2 3 3', expected"),
        (b"1 2 3\t10000\n", "line 1: '1 2 3\\t10000', expected"),
        (b"1 2 3\t-1\n", "line 1: '1 2 3\\t-1', expected"),
        (b"1 2 3\t3\n\n", "line 2: '', expected"),
        ("1 2 3\t3\x851 2 3\t3\n".encode(), "line 1: '1 2 3\\t3\\x851 2 3\\t3', expected"),
        ("1 2 \u0663\t3\n".encode(), "line 1: '1 2 \u0663\\t3', expected"),
        (b"1 2 3\t3\n1 2 \xff\t3\n", "line 2: not UTF-8"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, content, complaint):
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_sequences(path, 3)
    assert str(caught.value).startswith(f"{path}, {complaint}")
    assert "\n" not in str(caught.value)


def test_lengths_with_different_numbers_of_examples_are_refused(tmp_path):
    for length, k in ((3, 1), (4, 2)):
        for _, splits in textbook_splits((length,), (k, 1, 1)):
            write_splits(tmp_path, length, splits)
    with pytest.raises(UserError, match="200 examples but length 3 has 100"):
        read_data(str(tmp_path), (3, 4))


def test_vocabulary_classes_and_chance_are_read_from_the_files(tmp_path):
    """Parity as 0 and 1, of tokens up to 2; always answering 1 is right twice in three."""
    train = [(0, 1, 2, 1), (1, 1, 0, 0), (1, 0, 0, 1)]
    write_data(tmp_path, 3, train=train, dev=train[:1], test=train)
    folder, _ = read_data(str(tmp_path), (3,))
    assert (folder.vocabulary, folder.classes) == (3, 2)
    assert folder.chance == pytest.approx(2 / 3)
    other = [(0, 1, 2, 1, 0), (1, 1, 0, 0, 0), (1, 0, 0, 1, 0)]  # here 0 is always right
    write_data(tmp_path, 4, train=other, dev=other[:1], test=other)
    folder, _ = read_data(str(tmp_path), (3, 4))
    assert folder.chance == pytest.approx((2 / 3 + 1) / 2)  # a network learns one length


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ((0, 1, 3, 1), "line 2: the number 3 is larger than any in a training set"),
        ((0, 1, 2, 2), "line 2: the label 2 does not occur in a training set"),
    ],
)
@pytest.mark.parametrize("name", ["dev", "test"])
def test_what_a_training_set_does_not_have_is_refused_elsewhere(tmp_path, name, row, complaint):
    train = [(0, 1, 2, 1), (1, 1, 0, 0)]
    sets = {"train": train, "dev": train, "test": train, name: [train[0], row]}
    write_data(tmp_path, 3, **sets)
    with pytest.raises(UserError) as caught:
        read_data(str(tmp_path), (3,))
    assert f"{name}.txt, {complaint}" in str(caught.value)


def test_lines_that_moved_from_one_set_to_another_are_other_data(tmp_path):
    rows = [(0, 1, 2, 1), (1, 1, 0, 0), (1, 0, 0, 1), (0, 0, 1, 1)]
    write_data(tmp_path, 3, train=rows, dev=rows[:2], test=rows[2:])
    before, _ = read_data(str(tmp_path), (3,))
    whole = b"".join((tmp_path / "3" / f"{n}.txt").read_bytes() for n in ("train", "dev", "test"))
    assert before.sha256 == hashlib.sha256(whole).hexdigest()
    write_data(tmp_path, 3, dev=rows[:1], test=rows[1:2] + rows[2:])
    after, _ = read_data(str(tmp_path), (3,))
    assert before.sha256 == after.sha256 and before.digests != after.digests


@pytest.mark.parametrize("where", ["any", "."])
def test_sequences_that_differ_in_length_are_one_set_padded_on_the_left(tmp_path, where):
    train = [(2, 1, 0, 1), (1, 0), (1, 1, 0)]
    longer = [(0, 1, 2, 1, 1), (2, 1)]
    write_data(tmp_path, where, train=train, dev=train[:2], test=longer)
    folder, splits = read_data(str(tmp_path), "any")
    assert list(splits) == [4]  # the longest of all sets
    assert splits[4].train.digits.tolist() == [[-1, 2, 1, 0], [-1, -1, -1, 1], [-1, -1, 1, 1]]
    assert splits[4].train.lengths.tolist() == [3, 1, 2]
    assert splits[4].test.lengths.tolist() == [4, 1]
    assert (folder.vocabulary, folder.classes) == (3, 2)
    assert lengths_in(Path(folder.path)) == (4,)
    again, same = read_data(folder.path, (4,))  # as a run that goes on does
    assert again == folder and (same[4].test.digits == splits[4].test.digits).all()
    assert format_sequences(splits[4].train) == (tmp_path / where / "train.txt").read_text()
    with pytest.raises(UserError, match="the longest sequence has length 4, not 7"):
        read_data(folder.path, (7,))
