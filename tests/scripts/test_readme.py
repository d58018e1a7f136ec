"""Both READMEs say the same, and their commands are ones that the scripts take."""

import re
import shlex
from pathlib import Path

import pytest

from srn_jax.__main__ import COMMANDS
from srn_jax.cli import options as cli

ROOT = Path(__file__).parents[2]
TEXTS = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(text):
    """Fenced blocks: Python as it is, of others the commands without what is said of them."""
    found = FENCE.findall(text)
    return [body if kind == "python" else commands(body) for kind, body in found]


def commands(body):
    return [line.partition("  # ")[0].partition(" # ")[0].strip() for line in body.splitlines()]


def sections(text):
    """The text between headings, without fenced blocks and HTML comments."""
    plain = re.sub(r"<!--.*?-->\n", "", FENCE.sub("", text))
    return re.split(r"^#+ .*$", plain, flags=re.MULTILINE)


def spans(text):
    return sorted(set(re.findall(r"`([^`]+)`", text.replace("\n", " "))))


def cells(text):
    """Numbers and code of each cell of each table; the words around them are translated."""
    rows = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [
        [(re.findall(r"[+-]?\d[\d.,]*", cell), spans(cell)) for cell in row.split("|")]
        for row in rows
    ]


def test_both_have_the_same_commands_and_programs():
    english, chinese = map(blocks, TEXTS)
    assert chinese == english


def test_both_have_the_same_sections_each_with_the_same_code_and_links():
    english, chinese = map(sections, TEXTS)
    assert len(chinese) == len(english)
    for own, theirs in zip(chinese[1:], english[1:], strict=True):
        assert spans(own) == spans(theirs)
        links = re.compile(r"\]\((?!README)([^)]+)\)")  # apart from the one to the other
        assert links.findall(own) == links.findall(theirs)


def test_both_have_the_same_tables():
    english, chinese = map(cells, TEXTS)
    assert chinese == english
    assert len(english) > 10


class Parsed(Exception):
    """The options were taken."""


COMMANDS_SHOWN = [
    line.strip("`").replace("\n", " ")
    for line in re.findall(r"^python scripts/.*$|`python scripts/[^`]*`", TEXTS[0], re.MULTILINE)
]


@pytest.mark.parametrize("line", COMMANDS_SHOWN)
def test_a_command_of_the_readme_is_one_that_its_script_takes(line, monkeypatch):
    (command,) = commands(line)
    script, *arguments = shlex.split(command.replace("[RUN ...]", "RUN"))[1:]
    name = Path(script).stem.replace("_", "-")
    assert (ROOT / script).exists()
    if name == "benchmark":
        return

    def parse(parser, words):
        raise Parsed(super(cli.Parser, parser).parse_args(words))

    monkeypatch.setattr(cli.Parser, "parse_args", parse)
    with pytest.raises(Parsed):
        COMMANDS[name](arguments)


def test_there_are_as_many_commands_as_the_readme_is_known_to_show():
    assert len(COMMANDS_SHOWN) > 20
