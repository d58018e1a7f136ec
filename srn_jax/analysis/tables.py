"""Tables, a header and rows of text, for the terminal, Markdown and LaTeX; numbers as CSV."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from srn_jax.analysis.summary import Interval
from srn_jax.analysis.words import MARKS, is_readable

ABSENT = "-"
MOST_LISTED = 20
Cells = Sequence[Sequence[str]]
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "|": r"\textbar{}"}
)


def number(value: float, sign: str = "") -> str:
    """Three decimals, `-` for NaN; `sign="+"` shows the sign of a difference, never of a zero."""
    text = f"{value:{sign}z.3f}"
    return ABSENT if math.isnan(value) else text.replace("+0.000", "0.000")


def interval_text(interval: Interval, sign: str = "") -> str:
    """Both ends as `0.745 to 0.790`, or `-`."""
    text = f"{number(interval.low, sign)} to {number(interval.high, sign)}"
    return ABSENT if math.isnan(interval.low) else text


def p_text(value: float) -> str:
    """A p-value with three decimals, `<0.001` below that, `-` for NaN."""
    return "<0.001" if value < 0.001 else number(value)


def listed(values: Iterable[Any]) -> str:
    """Comma-separated values; `0..31` for a run of whole numbers, the first few of very many."""
    values = list(values)
    whole = len(values) > 2 and isinstance(values[0], (int, np.integer))
    if whole and values == list(range(values[0], values[0] + len(values))):
        return f"{values[0]}..{values[-1]}"
    text = ", ".join(map(str, values[:MOST_LISTED]))
    return text if len(values) <= MOST_LISTED else f"{text}, ... ({len(values)} in all)"


def plain_table(cells: Cells) -> str:
    """Header and rows in right-aligned columns, a line of dashes between; no trailing newline."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown_table(cells: Cells) -> str:
    """Header and rows as a Markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [escaped[0], ["---:"] * len(cells[0]), *escaped[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def latex_table(cells: Cells) -> str:
    """Header and rows as a LaTeX `tabular` with the rules of the package booktabs."""
    lines = [" & ".join(map(latex_text, row)) + r" \\" for row in cells]
    body = ["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{'r' * len(cells[0])}}}", *body, "\\end{tabular}", ""])


def latex_text(text: str) -> str:
    """Text as LaTeX; what figures show as mathematics is left as it is."""
    written, done = "", 0
    for found in MARKS.finditer(text):
        shown = found[0] if found["math"] and is_readable(found[0]) else found[0].translate(LATEX)
        written += text[done : found.start()].translate(LATEX) + shown
        done = found.end()
    return written + text[done:].translate(LATEX)


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows by column as CSV in full precision; an interval has two columns, NaN is left empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for place, row in enumerate(rows):
        columns: dict[str, Any] = {}
        for name, value in row.items():
            if isinstance(value, Interval):
                columns |= {f"{name}_low": value.low, f"{name}_high": value.high}
            else:
                columns[name] = value
        if not place:
            writer.writerow(columns)
        writer.writerow(["" if value != value else value for value in columns.values()])
    return text.getvalue()
