"""Any file is read as what it says, or refused with its name and line."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srn_jax.errors import UserError
from srn_jax.interop.textbook_files import (
    Sequences,
    format_sequences,
    read_sequences,
)

# Texts that are examples, almost examples, and anything; `\x85`, `\u2028` and friends are where
# Python's `splitlines` would cut, and `٣` is where its `int` would read a 3.
DIGITS = st.integers(0, 9).map(str)
ODD = st.sampled_from(["", " ", "\t", "\r", "\n", "-1", "+1", "10", "٣", "³", "x", "\x85", "\x0b"])
LABELS = st.integers(-1, 20).map(str) | st.sampled_from(["07", "1_0", "1.0", "", " 3", "３"])


def lines(length):
    digits = st.lists(DIGITS, min_size=length, max_size=length)
    sloppy = st.lists(DIGITS | ODD, max_size=length + 1)
    gaps = st.sampled_from([" ", " ", " ", "  ", "\t", ""])
    good = st.builds("{}\t{}".format, digits.map(" ".join), st.integers(0, 18))
    almost = st.builds(
        lambda parts, gap, tab, label, end: gap.join(parts) + tab + label + end,
        digits | sloppy,
        gaps,
        st.sampled_from(["\t", "\t", " ", ""]),
        LABELS,
        st.sampled_from(["", "", "\r", " ", "\u2028", "\ufeff"]),
    )
    return good | almost


def texts(length):
    return st.builds(
        lambda rows, feed, end: feed.join(rows) + end,
        st.lists(lines(length), min_size=1, max_size=6),
        st.sampled_from(["\n", "\r\n"]),
        st.sampled_from(["", "\n", "\r\n", "\n\n"]),
    )


NUMBERS = {b"%d" % number: number for number in range(10_000)}


def parse(content, length):
    """The same format, told in another way: examples, or the number of the first bad line."""
    rows = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if rows[-1] == b"":
        rows = rows[:-1] or [b""]
    examples = []
    for number, row in enumerate(rows, start=1):
        row = row[:-1] if row.endswith(b"\r") else row
        cells = row.split(b"\t")
        known = NUMBERS
        digits = [known.get(part) for part in cells[0].split(b" ")]
        if len(cells) != 2 or cells[1] not in known or None in digits or len(digits) != length:
            return number
        examples.append((digits, known[cells[1]]))
    return examples


def assert_read_or_refused(path, content, length):
    path.write_bytes(content)
    try:
        content.decode("utf-8")
        expected = parse(content, length)
    except UnicodeDecodeError as error:  # found before anything else
        expected = content[: error.start].count(b"\n") + 1
    if isinstance(expected, int):
        with pytest.raises(UserError) as caught:
            read_sequences(path, length)
        message = str(caught.value)
        assert re.match(rf"{re.escape(str(path))}, line {expected}: .", message)
        assert "\n" not in message and len(message) < len(str(path)) + 200
        return
    read = read_sequences(path, length)
    assert read.digits.shape == (len(expected), length)
    pairs = zip(read.digits.tolist(), read.labels.tolist(), strict=True)
    assert [*pairs] == expected


once_a_file = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.no_jax
@once_a_file
@given(data=st.data(), length=st.integers(3, 5))
def test_a_text_is_read_as_what_it_says_or_refused_with_file_and_line(tmp_path, data, length):
    text = data.draw(texts(length) | st.text(max_size=40))
    assert_read_or_refused(tmp_path / "train.txt", text.encode("utf-8"), length)


@once_a_file
@given(content=st.binary(max_size=60), length=st.integers(3, 5))
def test_any_bytes_are_read_as_what_they_say_or_refused(tmp_path, content, length):
    assert_read_or_refused(tmp_path / "train.txt", content, length)


@pytest.mark.no_jax
@once_a_file
@given(data=st.data(), length=st.integers(3, 5), byte=st.binary(min_size=1, max_size=1))
def test_a_good_file_with_one_wrong_byte_is_read_as_what_it_says_or_refused(
    tmp_path, data, length, byte
):
    example = st.tuples(
        st.lists(st.integers(0, 9), min_size=length, max_size=length), st.integers(0, 18)
    )
    content = "".join(
        " ".join(map(str, digits)) + f"\t{label}\n"
        for digits, label in data.draw(st.lists(example, min_size=1, max_size=5))
    ).encode()
    assert len(read_back(tmp_path / "dev.txt", content, length)) == content.count(b"\n")
    place = data.draw(st.integers(0, len(content) - 1))
    changed = content[:place] + byte + content[place + 1 :]
    assert_read_or_refused(tmp_path / "dev.txt", changed, length)


def read_back(path, content, length) -> Sequences:
    path.write_bytes(content)
    sequences = read_sequences(path, length)
    assert format_sequences(sequences).encode() == content
    return sequences
