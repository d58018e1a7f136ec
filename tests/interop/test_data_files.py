"""The textbook's files byte for byte, and the reader of anyone's files."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from srn_jax.config import SweepConfig
from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import (
    TEXTBOOK_LENGTHS,
    digit_sum,
    format_sequences,
    lengths_in,
    read_data,
    read_sequences,
    textbook_splits,
    write_splits,
)
from srn_jax.runs.settings import config_of, differences, settings_of

SHA256 = {  # of the textbook's own files
    "5/train.txt": "c4296d119b8ed4f5489a12c062846134252f08ffe2c967a10fe467a2f8b2d73a",
    "5/dev.txt": "e7d6f947533e239d4735e3db383624a12399bf51b5b1901399fb3e47fff64038",
    "5/test.txt": "c6ea050ca76747b5d7b588bd9acbdfc34ad4228762b4923cc54dd20eed1b17d0",
    "20/train.txt": "60acd43edbd569d2befba492b9be3c4fc7487b631c1492f8f456dfc162fdde40",
    "35/test.txt": "7c0aa6fac99fab48a2b8d6ddef98be45f3837082f02669350f7e491f26128f61",
}


def test_the_textbooks_files_are_reproduced_byte_for_byte(tmp_path, run_script):
    done = run_script("generate_data.py", "--out", tmp_path / "new" / "folder")
    assert done.returncode == 0, done.stderr
    root = tmp_path / "new" / "folder"
    for name, digest in SHA256.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == digest, name
    assert len(list(root.rglob("*.txt"))) == 21
    assert lengths_in(root) == TEXTBOOK_LENGTHS


def test_the_textbooks_overlap_of_test_and_training_set_is_0_to_10():
    assert {splits.overlap for _, splits in textbook_splits()} <= set(range(11))


def test_what_is_written_is_read_again(tmp_path):
    for length, splits in textbook_splits((3, 6), (2, 1, 1), seed=4):
        write_splits(tmp_path, length, splits)
    folder, again = read_data(str(tmp_path), (3, 6))
    assert (folder.vocabulary, folder.classes, folder.chance) == (10, 19, 0.10)
    for length, splits in textbook_splits((3, 6), (2, 1, 1), seed=4):
        for name in ("train", "dev", "test"):
            one, other = getattr(splits, name), getattr(again[length], name)
            assert (one.digits == other.digits).all() and (one.labels == other.labels).all()


def test_a_file_of_windows_or_without_a_last_line_feed_is_read(tmp_path):
    text = format_sequences(digit_sum(4, 1, np.random.RandomState(0)))
    for content in (text, text.replace("\n", "\r\n"), text[:-1], "\ufeff" + text):
        (tmp_path / "train.txt").write_bytes(content.encode())
        assert len(read_sequences(tmp_path / "train.txt", 4)) == 100


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "line 1: empty line"),
        (b"1 2 3\t3\n\n1 2 3\t3\n", "line 2: empty line"),
        (b"1 2 3\t3\n1 2\t3\n", "line 2: 2 numbers, expected 3"),
        (b"1 2 3 4\t3\n", "line 1: 4 numbers, expected 3"),
        (b"1 x 3\t3\n", "line 1: 'x' is not a whole number"),
        (b"1 02 3\t3\n", "line 1: '02' is not a whole number"),
        (b"1 12345 3\t3\n", "line 1: '12345' is too large"),
        (b"1  2 3\t3\n", "line 1: '' is not a whole number"),
        ("1 ٢ 3\t3\n".encode(), "line 1: '٢' is not a whole number"),
        (b"1 2 3 3\n", "line 1: no tab"),
        (b"1 2 3\t10000\n", "line 1: label '10000' is too large"),
        (b"1 2 3\t99999999\n", "line 1: label '99999999' is too large"),
        (b"1 2 3\t-1\n", "line 1: label '-1' is not a whole number"),
        (b"1 2 3\t3.0\n", "line 1: label '3.0' is not a whole number"),
        (b"1 2 3\t\n", "line 1: label '' is not a whole number"),
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


def write_data(folder, length, **sets):
    """Files of one length, each set given as lists of tokens and label."""
    (folder / str(length)).mkdir()
    for name, rows in sets.items():
        text = "".join(" ".join(map(str, row[:-1])) + f"\t{row[-1]}\n" for row in rows)
        (folder / str(length) / f"{name}.txt").write_text(text)


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


def test_a_digest_is_of_what_was_read(tmp_path):
    for _, splits in textbook_splits((3,), (1, 1, 1)):
        write_splits(tmp_path, 3, splits)
    folder, splits = read_data(str(tmp_path), (3,))
    content = b"".join(
        format_sequences(getattr(splits[3], name)).encode() for name in ("train", "dev", "test")
    )
    assert folder.sha256 == hashlib.sha256(content).hexdigest()


def test_lines_that_moved_from_one_set_to_another_are_other_data(tmp_path):
    rows = [(0, 1, 2, 1), (1, 1, 0, 0), (1, 0, 0, 1), (0, 0, 1, 1)]
    write_data(tmp_path, 3, train=rows, dev=rows[:2], test=rows[2:])
    before, _ = read_data(str(tmp_path), (3,))
    write_data(tmp_path, 4, **{n: [(0, *row) for row in rows] for n in ("train", "dev", "test")})
    (tmp_path / "3" / "dev.txt").write_text("0 1 2\t1\n")
    (tmp_path / "3" / "test.txt").write_text("1 1 0\t0\n1 0 0\t1\n0 0 1\t1\n")
    after, _ = read_data(str(tmp_path), (3,))
    assert before.sha256 == after.sha256 and not before.same(after)
    assert dataclasses.replace(before, digests=()).same(after)  # an old run knows no better
    told = [settings_of(SweepConfig((3,), (0,), data=folder)) for folder in (before, after)]
    assert differences(told[0], told[0]) == []
    assert "with its files cut elsewhere" in differences(*told)[0]
    assert config_of(json.loads(json.dumps(told[0]))).data == before
