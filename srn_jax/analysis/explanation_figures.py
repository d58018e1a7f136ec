"""The figures that explain a run, or several variants side by side, and all files about it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from srn_jax.analysis import explanation
from srn_jax.analysis.explanation import BEST, FATES, LARGEST, NORM, STAGES, START, Explanation
from srn_jax.analysis.figures import RUN_COLORS, Drawing, draw_seeds
from srn_jax.analysis.look import Look, legend_below
from srn_jax.analysis.report import Page

MOST_COMPARED = 3  # lengths, the longest ones, in the figure of several variants
NARROWEST, ROW = 1.55, 2.5  # inches: a panel's least width, a row's height
STAGE_STYLES = (("0.55", ":"), ("#0072b2", "-"), ("#d55e00", "--"))
COLORS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # of targets
Line = tuple[np.ndarray, np.ndarray, tuple[str, str], str]  # length, values, style, label


def panels(
    lengths: Sequence[int],
    lines: Sequence[Line],
    label: str,
    look: Look,
    across: str = "position",
    chance: tuple[np.ndarray, np.ndarray] | None = None,
) -> Figure:
    """A panel a length: medians and 5-95 % bands over seeds of values `[network, place]`.

    `chance`, of lengths, is what knowing nothing gets.
    """
    columns = min(4, len(lengths), max(1, int((look.width or 12.8) / NARROWEST)))
    deep, width, several = -(-len(lengths) // columns), 3.2 * max(2, columns), False
    with look.applied(width, ROW * deep / width) as figure:
        figure.set_figheight(max(figure.get_figheight(), 0.8 * ROW * deep))
        grid = figure.subplots(deep, columns, squeeze=False, sharey=True).ravel()
        for axes, length in zip(grid, lengths, strict=False):
            for known, values, style, name in lines:
                if len(rows := values[known == length]):
                    several |= len(rows) > 1
                    draw_seeds(axes, np.arange(1, values.shape[1] + 1), rows, style, name)
            if chance is not None:
                height = chance[1][chance[0] == length].mean()
                axes.axhline(height, color="0.4", linestyle=(0, (1, 3)), label="chance")
                axes.set_ylim(0, 1.03)
            axes.set(title=f"length {length}", xlabel=across)
            ticks = MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
            axes.xaxis.set_major_locator(ticks)
        for axes in grid[len(lengths) :]:
            axes.set_axis_off()
        for axes in grid[::columns]:
            axes.set_ylabel(label)
        legend_below(figure, "median and 5-95 % of seeds" if several else "")
        legend = figure.legends[0].get_window_extent()
        figure.set_figheight(figure.get_figheight() + legend.height / figure.dpi)
    return figure


def figures_of(found: Explanation, look: Look) -> dict[str, Drawing]:
    """What draws each figure, by the name of its file."""
    values, lengths, solver = explanation.curves(found), found.lengths, found.solver
    chance = found.length, found.chance.mean(axis=1)

    def readouts(*shown: tuple[np.ndarray, int, str, str]) -> Callable[[], Figure]:
        lines = [
            (found.length[rows], found.readout[stage, rows, n], (color, line), f"{target}, {words}")
            for (n, target), color in zip(enumerate(found.targets), cycle(COLORS), strict=False)
            for rows, stage, line, words in shown
        ]
        return partial(panels, lengths, lines, "accuracy of a readout", look, chance=chance)

    every = np.ones_like(solver)
    drawn = {"forgetting": readouts((every, BEST, "-", "best"), (every, START, ":", "start"))}
    for name, of, label, across in (
        ("gradient_through_time", values[NORM], NORM, "position"),
        ("jacobian", values[LARGEST], "log10 largest growth", "position"),
        ("perturbation", found.product, "log10 singular value", "rank of the singular value"),
    ):
        if not np.isnan(of).all():  # as at length 1, and where only hidden states are known
            told = zip(of, STAGE_STYLES, STAGES, strict=True)
            lines = [(found.length, *one) for one in told]
            drawn[name] = partial(panels, lengths, lines, label, look, across)
    if solver.any() and not solver.all():
        both = (solver, BEST, "-", "solvers"), (~solver, BEST, "--", "others")
        drawn["solvers_and_others"] = readouts(*both)
    return {name: Drawing("explanation", draw) for name, draw in drawn.items()}


def figures_of_several(found: Mapping[str, Explanation], look: Look) -> dict[str, Drawing]:
    """What readouts find of the answer, of the longest lengths that all variants have."""
    shared = sorted(set.intersection(*(set(one.lengths) for one in found.values())))
    known = np.concatenate([one.length for one in found.values()])
    chance = known, np.concatenate([one.chance.mean(axis=1) for one in found.values()])
    lines = [
        (
            one.length,
            one.readout[stage, :, one.is_answer.argmax()],
            (color, line),
            f"{name}, {told}",
        )
        for (name, one), color in zip(found.items(), cycle(RUN_COLORS), strict=False)
        for stage, line, told in ((BEST, "-", "trained"), (START, ":", "before training"))
    ]
    label = f"readout of {next(iter(found.values())).answer}"
    draw = partial(panels, shared[-MOST_COMPARED:], lines, label, look, chance=chance)
    return {"why": Drawing("explanation", draw)} if shared and len(found) > 1 else {}


def write_explanation(
    found: Mapping[str, Explanation], folder: Path, look: Look, question: str
) -> list[Path]:
    """Write tables, figures and the page into a folder; returns their paths.

    Of several variants each has folders of its own for tables and figures.
    """
    page, parts, several = Page(folder, look), [], len(found) > 1

    def save(table: pd.DataFrame, stem: str) -> None:
        page.save(f"{stem}.csv", table.to_csv(index=False, lineterminator="\n"))

    for name, one in found.items():
        under = name.replace("/", "_") if several else "."
        save(summary := explanation.summary_table(one), f"{under}/summary")
        save(explanation.network_table(one), f"{under}/networks")
        save(explanation.staged(one, explanation.curves(one)), f"{under}/curves")
        part = {"name": name, "found": one, "claim": partial(explanation.claim, summary)}
        part["answers"] = explanation.answers(one, summary)
        part["intervals"] = summary.interval_low.notna().sum()
        part["pictures"] = page.draw(figures_of(one, look), under)
        parts.append(part | {"family": not np.isnan(one.gradient).all()})
    pictures = page.draw(figures_of_several(found, look))
    if several:
        save(explanation.difference_table(found), "differences")
    values = {"parts": parts, "pictures": pictures, "fates": FATES, "question": question}
    page.write("explanation", values)
    return page.finish()
