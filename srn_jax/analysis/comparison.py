"""Several runs side by side: in what they differ, and how much that changes the accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from string import ascii_uppercase
from textwrap import fill
from typing import Any

import numpy as np

from srn_jax.analysis.report import (
    EXPLOSION_HEADER,
    EXPLOSION_NOTE,
    explosion_rows,
    figure_link,
    scored_seeds,
    span_text,
)
from srn_jax.analysis.results import Run
from srn_jax.analysis.summary import (
    UNKNOWN,
    Difference,
    LengthSummary,
    holm,
    memory_span,
    paired_difference,
    summarise,
)
from srn_jax.analysis.tables import (
    interval_text,
    markdown_table,
    number,
    p_text,
    plain_table,
)
from srn_jax.errors import UserError

TERMINAL_WIDTH = 80
SHORT_LABEL = 4  # characters of a label for which the table in the terminal has room
NO_DIFFERENCE = Difference(np.nan, UNKNOWN, 0, np.nan)
MEAN_NOTE = "Mean: of the test accuracies of all seeds, with its 95 % bootstrap interval."
P_NOTE = (
    "p: of a paired sign-flip test, corrected for the number of lengths (Holm); the intervals are "
    "not corrected."
)


@dataclass(frozen=True)
class Row:
    """A length of a run beside the same length of the baseline."""

    run: str
    summary: LengthSummary
    difference: Difference  # of nothing for the baseline, and where nothing can be paired
    p_value: float  # corrected for the number of lengths

    def cells(self, name: str) -> list[str]:
        """A row of the table, with the name under which the run is shown."""
        summary, difference = self.summary, self.difference
        row = [str(summary.length), name, scored_seeds(summary), number(summary.mean)]
        row += [interval_text(summary.interval), number(difference.mean, "+")]
        return [*row, interval_text(difference.interval, "+"), p_text(self.p_value)]

    @property
    def columns(self) -> dict[str, Any]:
        """Everything by name, for a file."""
        difference = {f"difference_{name}": x for name, x in vars(self.difference).items()}
        columns = {"run": self.run, **vars(self.summary), **difference}
        return {**columns, "difference_corrected_p_value": self.p_value}


@dataclass(frozen=True)
class Comparison:
    """Runs by name, one of them the baseline, and a row for each length of each run."""

    runs: Mapping[str, Run]
    baseline: str
    rows: Sequence[Row]

    def cells(self, shown: Mapping[str, str] | None = None) -> list[list[str]]:
        """The header and all rows; `shown` are other names for the runs."""
        header = ["length", "run", "seeds", "mean", "95 % interval"]
        header += ["difference", "its interval", "p"]
        return [header, *(row.cells((shown or {}).get(row.run, row.run)) for row in self.rows)]

    def settings(self) -> list[str]:
        """The settings, data and own files in which the runs differ, as text for each run."""
        settings: list[dict[str, Any]] = [
            run.settings | {name: value[:12] for name, value in run.own_files.items()}
            for run in self.runs.values()
        ]
        names = dict.fromkeys(name for own in settings for name in own)
        varying = [name for name in names if len({str(own.get(name)) for own in settings}) > 1]
        return [
            ", ".join(f"{name} {own.get(name)}" for name in varying) or "no setting differs"
            for own in settings
        ]

    def smallest_p(self, name: str) -> float:
        """The smallest corrected p that the pairs of a run allow, 1 without any."""
        paired = [row.difference.pairs for row in self.rows if row.run == name]
        each = [2 / 2**pairs for pairs in paired if pairs]
        return min(1.0, len(each) * min(each)) if each else 1.0

    def notes(self) -> list[str]:
        """What the differences are, what could not be paired, and the memory span of each run."""
        notes = [
            f"{name} has not finished: it is shown as of its newest checkpoint."
            for name, run in self.runs.items()
            if not run.info.get("finished", True)
        ]
        notes.append(MEAN_NOTE)
        if pairs := max((row.difference.pairs for row in self.rows), default=0):
            notes += [f"Difference: the run minus {self.baseline}, paired seed by seed.", P_NOTE]
            smallest = min(map(self.smallest_p, self.runs))
            if smallest > 0.05 and pairs > 1:  # one alone is not tested
                notes.append(f"With {pairs} pairs at most, no p can be below {smallest:.3f}.")
        base = self.runs[self.baseline]
        for name, run in self.runs.items():
            shared = np.intersect1d(run.results.length, base.results.length).tolist()
            others = [length for length in shared if not run.same_data(base, length)]
            if others:
                where = f"at length {', '.join(map(str, others))}: it is not paired there"
                where = "nothing is paired" if others == shared else where
                notes.append(f"{name} was trained on other data than {self.baseline}: {where}.")
        return notes + [
            f"{name}: {span_text(memory_span(run.results), run.facts.chance)}."
            for name, run in self.runs.items()
        ]

    def table(self) -> str:
        """All of it for the terminal, at most 80 columns wide; letters stand for long names."""
        short = all(len(name) <= SHORT_LABEL for name in self.runs)
        shown = {} if short else dict(zip(self.runs, ascii_uppercase, strict=False))
        heads = [f"{shown[name]} = {name}" if name in shown else name for name in self.runs]
        head = [f"{name}: {text}" for name, text in zip(heads, self.settings(), strict=True)]

        def wrapped(lines: list[str]) -> list[str]:
            return [fill(line, TERMINAL_WIDTH, subsequent_indent="  ") for line in lines]

        table = plain_table(self.cells(shown))
        return "\n".join([*wrapped(head), "", table, "", *wrapped(self.notes())])

    def report(self, figures: Sequence[str | PurePath] = ()) -> str:
        """The same in Markdown, with `figures` by their paths relative to it."""
        named = zip(self.runs, self.settings(), strict=True)
        head = "\n".join(f"- {name}: {text}" for name, text in named)
        notes = "\n".join(f"- {note}" for note in self.notes())
        blocks = ["# Comparison of runs", head, markdown_table(self.cells()), notes]
        exploded = [[n, *row] for n, run in self.runs.items() for row in explosion_rows(run)]
        if exploded:
            table = markdown_table([["run", *EXPLOSION_HEADER], *exploded])
            blocks += ["## Exploding gradients", table, EXPLOSION_NOTE]
        return "\n\n".join([*blocks, *map(figure_link, figures)]) + "\n"


def compare(runs: Mapping[str, Run], baseline: str | None = None) -> Comparison:
    """Compare runs, at least one, with one of them; the first if none is named.

    Seeds or a length that one side has not leave nothing to pair; nor do runs on other data.

    Raises:
        UserError: if the baseline is none of the runs.
    """
    baseline = next(iter(runs)) if baseline is None else baseline
    if baseline not in runs:
        raise UserError(f"--baseline {baseline} is none of the runs: {', '.join(runs)}")
    base = runs[baseline]
    rows: list[Row] = []
    for name, run in runs.items():
        summaries, found = summarise(run.results), []
        for summary in summaries:
            found.append(NO_DIFFERENCE)
            if run is not base and run.same_data(base, summary.length):
                sides = (side.results.of_length(summary.length) for side in (run, base))
                found[-1] = paired_difference(*sides)
        corrected = holm([difference.p_value for difference in found])
        rows += map(Row, [name] * len(found), summaries, found, corrected)
    return Comparison(runs, baseline, sorted(rows, key=lambda row: row.summary.length))
