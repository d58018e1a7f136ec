"""Text from results: the terminal table, the Markdown report of a run, the comparison of runs.

Plain values in, a string out; nothing is printed or written. What does not exist is shown as `-`.
"""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import numpy as np

from srn_jax.analysis.results import Results
from srn_jax.analysis.summary import (
    CHANCE,
    DEFAULT_THRESHOLD,
    Interval,
    LengthSummary,
    MemorySpan,
    memory_span,
    paired_difference,
    summarise,
)
from srn_jax.config import NUM_PAIRS, TEST_MULTIPLICITY
from srn_jax.errors import UserError

ABSENT = "-"
EMBEDDABLE = {".png", ".svg", ".jpg"}
MOST_LISTED = 20
TEST_SIZE = NUM_PAIRS * TEST_MULTIPLICITY
INTERVAL_NOTE = "Intervals are 95 % bootstrap intervals of the mean over seeds."
DEV_NOTE = "Best dev is a maximum over evaluations, so it flatters."
CHANCE_NOTE = f"Chance is {CHANCE:.2f}."
ONE_SEED_NOTE = (
    "A single seed says nothing about the variation between seeds, so there is no interval."
)
TEST_SIZE_NOTE = (
    f"{TEST_SIZE} test sequences alone leave a standard error of 4 to 5 points in one accuracy."
)
FIXED_DATA_NOTE = "Every seed saw the same data: intervals cover the initial weights alone."


def number(value: float, sign: str = "") -> str:
    """Three decimals, `-` for NaN; `sign="+"` shows the sign of a difference."""
    return ABSENT if math.isnan(value) else f"{value:{sign}.3f}"


def interval_text(interval: Interval, sign: str = "") -> str:
    """Both ends as `0.745 to 0.790`, or `-`."""
    text = f"{number(interval.low, sign)} to {number(interval.high, sign)}"
    return ABSENT if math.isnan(interval.low) else text


def span_text(span: MemorySpan) -> str:
    """The memory span in words, with `< 5` or `> 35` for one outside the lengths measured."""

    def limit(value: float) -> str:
        if math.isinf(value):
            return f"< {span.shortest}" if value < 0 else f"> {span.longest}"
        return ABSENT if math.isnan(value) else f"{value:.1f}"

    text = f"memory span (mean test accuracy above {span.threshold:g}): {limit(span.length)}"
    if not math.isnan(span.interval.low):
        text += f", 95 % interval {limit(span.interval.low)} to {limit(span.interval.high)}"
    return text


def plain_table(cells: Sequence[Sequence[str]]) -> str:
    """Header and rows in right-aligned columns, a line of dashes between; no trailing newline."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """Header and rows as a Markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [escaped[0], ["---:"] * len(cells[0]), *escaped[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def scored_seeds(summary: LengthSummary) -> str:
    """How many seeds a mean is over: `32`, or `31 of 32` where one diverged without a score."""
    return " of ".join(dict.fromkeys([str(summary.scored), str(summary.seeds)]))


def accuracy_cells(results: Results) -> list[list[str]]:
    """The header and a row a length, shortest first; `diverged` only if an experiment did."""
    cells = [["length", "seeds", "test accuracy", "sd", "95 % interval", "best dev"]]
    diverged = results.diverged.any()
    cells[0] += ["diverged"] if diverged else []
    for summary in summarise(results):
        row = [str(summary.length), scored_seeds(summary), number(summary.mean)]
        row += [number(summary.deviation), interval_text(summary.interval)]
        row += [number(summary.dev_mean), *([str(summary.diverged)] if diverged else [])]
        cells.append(row)
    return cells


def results_table(results: Results) -> str:
    """The terminal table of a run: a row a length."""
    return plain_table(accuracy_cells(results))


def comparison_cells(named_results: Mapping[str, Results]) -> list[list[str]]:
    """The header and, length by length, a row a run with its difference to the first run."""
    header = ["length", "run", "seeds", "test accuracy", "sd", "95 % interval"]
    header += ["difference", "95 % interval", "pairs"]
    rows = []
    runs = list(named_results.items())
    for position, (name, results) in enumerate(runs):
        for summary in summarise(results):
            row = [str(summary.length), name, scored_seeds(summary), number(summary.mean)]
            row += [number(summary.deviation), interval_text(summary.interval)]
            sides = results.of_length(summary.length), runs[0][1].of_length(summary.length)
            row += difference_cells(*sides) if position else [""] * 3
            rows.append((summary.length, position, row))
    return [header, *(row for _, _, row in sorted(rows))]


def comparison_notes(named_results: Mapping[str, Results]) -> list[str]:
    """What the differences are, and the memory span of each run."""
    names = list(named_results)
    note = [f"difference: the run minus {names[0]}, seed by seed"] if len(names) > 1 else []
    return note + [f"{name}: {span_text(memory_span(named_results[name]))}" for name in names]


def comparison_table(named_results: Mapping[str, Results]) -> str:
    """Several runs side by side for the terminal; differences are over the seeds they share."""
    table = plain_table(comparison_cells(named_results))
    return "\n".join([table, "", *comparison_notes(named_results)])


def comparison_report(
    named_results: Mapping[str, Results], figures: Sequence[str | PurePath] = ()
) -> str:
    """The same in Markdown, with `figures` by their paths relative to it."""
    notes = [f"- {note}" for note in comparison_notes(named_results)]
    blocks = ["# Comparison of runs", markdown_table(comparison_cells(named_results))]
    blocks += ["\n".join([*notes, f"- {INTERVAL_NOTE}"]), *map(figure_link, figures)]
    return "\n\n".join(blocks) + "\n"


def difference_cells(results: Results, baseline: Results) -> list[str]:
    """Mean, interval and pairs of the difference between the rows of a length and a baseline's."""
    try:
        found = paired_difference(results, baseline)
    except UserError:  # seeds that differ leave a difference unknown, the rest can still be shown
        return [ABSENT, ABSENT, "0"]
    return [number(found.mean, "+"), interval_text(found.interval, "+"), str(found.pairs)]


def run_report(
    run_info: Mapping[str, Any], results: Results, figures: Sequence[str | PurePath] = ()
) -> str:
    """The Markdown report of a run.

    Args:
        run_info: `command` (text or list of words), `device`, `versions` (name to version),
            `seconds`, `config` (nested settings); a missing key leaves its part out.
        results: of the whole run.
        figures: paths relative to the report; images are embedded, other files linked.
    """
    settings = dict(flat(run_info.get("config") or {}))
    lengths, seeds = np.unique(results.length), np.unique(results.seed)
    counts = f"{len(results)} experiments (lengths: {lengths.size}, seeds: {seeds.size})"
    span = span_text(memory_span(results))
    notes = [ONE_SEED_NOTE if seeds.size == 1 else INTERVAL_NOTE, DEV_NOTE]
    own_data = settings.get("data", "None") != "None"
    if own_data:  # of which neither the sizes nor the labels are the textbook's
        notes.append(FIXED_DATA_NOTE)
        settings.pop("multiplicity", None)
    else:
        notes += [CHANCE_NOTE, *([TEST_SIZE_NOTE] if seeds.size == 1 else [])]
    blocks = ["# How long a simple recurrent network remembers"]
    blocks += [f"{counts}, {results.diverged.sum()} diverged. {span[0].upper()}{span[1:]}."]
    if not run_info.get("finished", True):
        blocks += ["**This run has not finished**: all below is as of its newest checkpoint."]
    blocks += ["## Accuracy by length", markdown_table(accuracy_cells(results)), "\n".join(notes)]
    blocks += ["## Single seeds", markdown_table(seed_cells(results, own_data))]
    for length in np.unique(results.length[results.diverged]):
        gone = results.seed[results.diverged & (results.length == length)]
        blocks += [f"Diverged at length {length}: seeds {listed(gone)}."]
    if lengths.size > 1:
        blocks += ["## From one length to the next", markdown_table(change_cells(results))]
    if figures:
        blocks += ["## Figures", *map(figure_link, figures)]
    if settings:
        blocks += ["## Settings", "\n".join(f"- `{name}`: {settings[name]}" for name in settings)]
    facts = [f"- device: {run_info['device']}"] if run_info.get("device") else []
    if run_info.get("seconds") is not None:
        facts.append(f"- time: {duration(run_info['seconds'])}")
    facts += [f"- {name}: {version}" for name, version in (run_info.get("versions") or {}).items()]
    blocks += ["## Run", "\n".join(facts)] if facts else []
    if command := run_info.get("command"):
        text = command if isinstance(command, str) else shlex.join(map(str, command))
        blocks += ["## To repeat it", f"```sh\n{text}\n```"]
    return "\n\n".join(blocks) + "\n"


def seed_cells(results: Results, own_data: bool = False) -> list[list[str]]:
    """How single seeds scatter at each length, and how far their train and test sets overlap."""
    cells = [["length", "median", "interquartile mean", "5 % to 95 % of seeds"]]
    cells[0] += [f"share above {DEFAULT_THRESHOLD:g}", "95 % interval", "test sequences in train"]
    for summary in summarise(results):
        overlap = results.of_length(summary.length).overlap
        row = [str(summary.length), number(summary.median), number(summary.interquartile_mean)]
        row += [interval_text(summary.spread), number(summary.share_above)]
        row += [interval_text(summary.share_above_interval)]
        ends = map(str, np.unique([overlap.min(), overlap.max()]))
        cells.append([*row, "..".join(ends) + ("" if own_data else f" of {TEST_SIZE}")])
    return cells


def change_cells(results: Results) -> list[list[str]]:
    """The paired change in test accuracy from each length to the next."""
    lengths = np.unique(results.length)
    cells = [["lengths", "change", "95 % interval", "pairs"]]
    for shorter, longer in pairwise(lengths):
        sides = results.of_length(longer), results.of_length(shorter)
        cells.append([f"{shorter} to {longer}", *difference_cells(*sides)])
    return cells


def figure_link(path: str | PurePath) -> str:
    """An image by its relative path, or a link to a file that Markdown cannot show."""
    path = PurePath(path)
    link = f"[{path.stem}]({quote(path.as_posix())})"
    return f"!{link}" if path.suffix in EMBEDDABLE else f"{link} ({path.suffix[1:]})"


def flat(settings: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Nested settings as pairs of name and text; the names are unique without their groups."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value)
        else:
            yield name, listed(value) if isinstance(value, (list, tuple)) else str(value)


def listed(values: Iterable[Any]) -> str:
    """Comma-separated values; `0..31` for a run of whole numbers, the first few of very many."""
    values = list(values)
    whole = len(values) > 2 and isinstance(values[0], (int, np.integer))
    if whole and values == list(range(values[0], values[0] + len(values))):
        return f"{values[0]}..{values[-1]}"
    text = ", ".join(map(str, values[:MOST_LISTED]))
    return text if len(values) <= MOST_LISTED else f"{text}, ... ({len(values)} in all)"


def duration(seconds: float) -> str:
    """`1 h 02 min`, `2 min 03 s` or `4.5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
