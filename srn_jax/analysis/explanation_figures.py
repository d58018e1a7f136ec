"""The figures that explain a run, or several side by side, and the files of an explanation."""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from srn_jax.analysis.explanation import (
    ALL,
    BEST,
    FEWEST,
    LARGEST,
    NORM,
    OTHERS,
    SOLVERS,
    STAGES,
    START,
    Explanation,
    Row,
    curve_rows,
    curves,
    difference_rows,
    mean_rows,
    network_rows,
    page,
    summary_rows,
)
from srn_jax.analysis.figures import RUN_COLORS, draw_seeds
from srn_jax.analysis.look import (
    DEFAULT_LOOK,
    LINE_HEIGHT,
    PNG_DPI,
    SMALLEST_TYPE,
    Look,
    legend_below,
    save_figure,
)
from srn_jax.analysis.results import write_atomically
from srn_jax.analysis.tables import csv_table
from srn_jax.analysis.words import words_of

MOST_COMPARED = 3  # lengths, the longest ones, in the figure of several runs
NUMBER_WIDTH = 3.0  # of `0.50` and its margin, in units of the type's size
NARROWEST, ROW = 1.6, 2.72  # inches: a panel's least width, a row's height with type of 10 points


def panels(
    lengths: Sequence[int],
    draw: Sequence[Callable[[Axes, int], None]],
    labels: Sequence[str],
    look: Look,
    across: str = "position",
    note: str = "",
) -> Figure:
    """A panel a length, each drawn by `draw[kind](axes, length)`; each kind starts a new row.

    The note is about all lines, above their legend.
    """
    most = int((look.width or 12.8) / NARROWEST)
    columns = min(4, len(lengths), max(1, most))
    deep = -(-len(lengths) // columns)  # rows of a kind
    rows, width = len(draw) * deep, 3.2 * max(2, columns)
    with look.applied(width, ROW * rows / width) as figure:
        # Type shrinks less than the width, and so do rows: labels fit as at the default width.
        least = ROW * rows * rcParams["font.size"] / 10
        figure.set_figheight(max(figure.get_figheight(), least))
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for place, axes in enumerate(grid.ravel()):
            kind, which = divmod(place, deep * columns)
            if which >= len(lengths):
                axes.set_axis_off()
                continue
            draw[kind](axes, lengths[which])
            title = look.say("length {length}", length=lengths[which])
            axes.set(title=title, xlabel=look.say(across))
            ticks = MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
            axes.xaxis.set_major_locator(ticks)
            if place % columns == 0:
                axes.set_ylabel(labels[kind])
        legend_below(figure, note)
    return figure


def note_of(found: Explanation, look: Look) -> str:
    """What lines and bands are, where a figure has both."""
    return look.say("median and 5-95 % of seeds") if np.unique(found.seed).size > 1 else ""


def stage_figure(
    found: Explanation, values: np.ndarray, label: str, across: str, look: Look
) -> Figure:
    """Median and 5-95 % band over seeds of `values [stage, experiment, place]`, one line each."""

    def draw(axes: Axes, length: int) -> None:
        for stage, name in enumerate(STAGES):
            rows = values[stage, found.length == length]
            style = RUN_COLORS[stage], ("-", "--", "-.")[stage]
            draw_seeds(axes, np.arange(1, rows.shape[1] + 1), rows, style, look.say(name))

    return panels(found.lengths, [draw], [look.say(label)], look, across, note_of(found, look))


def forgetting_figure(found: Explanation, look: Look, by_solver: bool = False) -> Figure:
    """Readout accuracy against the position: of all networks, or of solvers and others."""
    both = ((SOLVERS, BEST, "-"), (OTHERS, BEST, "--"))
    shown = both if by_solver else ((ALL, BEST, "-"), (ALL, START, ":"))

    def draw(axes: Axes, length: int) -> None:
        groups = found.groups(length)
        for n, target in enumerate(found.targets):
            for group, stage, line in shown:
                rows = found.readout[stage, groups[group], n]
                which = group if by_solver else STAGES[stage]
                label = f"{look.say(target)}, {look.say(which)}"
                if len(rows):
                    style = RUN_COLORS[n % len(RUN_COLORS)], line
                    draw_seeds(axes, np.arange(1, rows.shape[1] + 1), rows, style, label)
        chance = found.chance[groups[ALL]].mean()
        axes.axhline(chance, color="0.4", linestyle=":", label=look.say("chance"))
        axes.set_ylim(0, 1.03)

    label = look.say("accuracy of a linear readout")
    return panels(found.lengths, [draw], [label], look, note=note_of(found, look))


def unseen_figure(found: Explanation, look: Look) -> Figure:
    """Mean accuracy by the length trained on and the length tested on, the diagonal framed."""
    table = np.stack([found.unseen[found.length == n].mean(axis=0) for n in found.lengths])
    with look.axes(5.0, 0.85) as (figure, axes):
        image = axes.imshow(table, "viridis", aspect="auto", vmin=0, vmax=1, origin="lower")
        points = np.array(axes.get_window_extent().size) * 72 / PNG_DPI
        wide, high = points / table.shape[::-1]  # of a cell
        size = min(rcParams["font.size"], wide / NUMBER_WIDTH, high / LINE_HEIGHT)
        for (row, column), mean in np.ndenumerate(table):
            color = "white" if mean < 0.6 else "black"
            words = f"{mean:.2f}" if size >= SMALLEST_TYPE else ""
            axes.text(column, row, words, color=color, size=size, ha="center", va="center")
            if found.tested[column] == found.lengths[row]:
                corner = column - 0.5, row - 0.5
                frame = Rectangle(corner, 1, 1, fill=False, edgecolor="#d55e00", lw=2.5)
                frame.set(clip_on=False, zorder=3)  # whole at the edge, above the axes' own line
                axes.add_patch(frame)
        axes.set_xticks(range(found.tested.size), map(str, found.tested))
        axes.set_yticks(range(len(found.lengths)), map(str, found.lengths))
        axes.set(xlabel=look.say("tested on length"), ylabel=look.say("trained on length"))
        figure.colorbar(image, ax=axes, label=look.say("test accuracy"))
    return figure


def figures_of(found: Explanation, look: Look = DEFAULT_LOOK) -> dict[str, Callable[[], Figure]]:
    """What draws each figure, by the name of its file."""
    drawn: dict[str, Callable[[], Figure]] = {}
    drawn["forgetting"] = partial(forgetting_figure, found, look)
    if not np.isnan(found.gradient).all():
        values, ranks = curves(found), "rank of the singular value"
        for stem, arguments in {
            "gradient_through_time": (values[NORM], NORM, "position"),
            "jacobian": (values[LARGEST], LARGEST, "position"),
            "perturbation": (found.product, "log10 singular value", ranks),
        }.items():
            drawn[stem] = partial(stage_figure, found, *arguments, look)
    if found.solver.any() and not found.solver.all():
        drawn["solvers_and_others"] = partial(forgetting_figure, found, look, True)
    if found.tested.size > 1:
        drawn["unseen_lengths"] = partial(unseen_figure, found, look)
    return drawn


def comparison_figure(
    found: Mapping[str, Explanation],
    curves_of: Mapping[str, Sequence[Row]],
    look: Look = DEFAULT_LOOK,
) -> Figure:
    """What linear readouts find of the answer at each position, of several runs side by side.

    It is the first target where no target is the whole answer. Means with 95 % intervals over
    seeds, for the longest lengths that all have: all networks before training and at the best step
    above; solvers and others at the best step below, where enough are of that kind for an interval.
    """
    shown = common_lengths(found)[-MOST_COMPARED:]

    def draw(lines: Sequence[tuple[str, int, str, str]], axes: Axes, length: int) -> None:
        for place, (name, run) in enumerate(found.items()):
            target = run.targets[run.is_answer.argmax()]
            for group, stage, words, line in lines:
                key = f"readout of {target}", STAGES[stage], length, group
                columns = "measure", "stage", "length", "group"
                rows = [r for r in curves_of[name] if tuple(r[c] for c in columns) == key]
                if not rows or (group != ALL and rows[0]["networks"] < FEWEST):
                    continue
                at = [row["position"] for row in rows]
                color = RUN_COLORS[place % len(RUN_COLORS)]
                label = f"{words_of(name.removeprefix('cell='))}, {look.say(words)}"
                axes.plot(at, [row["mean"] for row in rows], line, color=color, label=label)
                low, high = ([getattr(row["interval"], e) for row in rows] for e in ("low", "high"))
                axes.fill_between(at, low, high, color=color, alpha=0.2, lw=0)
        chance = np.mean([run.chance[run.length == length].mean() for run in found.values()])
        axes.axhline(chance, color="0.4", linestyle=(0, (1, 3)), label=look.say("chance"))
        axes.set_ylim(0, 1.03)

    stages = ((ALL, BEST, "trained", "-"), (ALL, START, "before training", ":"))
    groups = ((SOLVERS, BEST, "solvers", "-."), (OTHERS, BEST, "others", "--"))
    target = next(iter(found.values())).targets[0]
    if all(run.is_answer.any() for run in found.values()):
        target = "the answer"
    lines_of = {"accuracy of a linear\nreadout of {target}: all": stages}
    sizes = [
        run.groups(length)[group].sum()
        for run in found.values()
        for length in shown
        for group in (SOLVERS, OTHERS)
    ]
    if max(sizes) >= FEWEST:
        lines_of["accuracy of a linear\nreadout of {target}: by outcome"] = groups
    labels = [look.say(words, target=look.say(target)) for words in lines_of]
    return panels(shown, [partial(draw, lines) for lines in lines_of.values()], labels, look)


def common_lengths(found: Mapping[str, Explanation]) -> list[int]:
    """The lengths that all runs have networks of, shortest first."""
    return sorted(set.intersection(*(set(run.lengths) for run in found.values())))


def write_explanation(
    found: Explanation,
    folder: Path,
    question: str,
    notes: Sequence[str] = (),
    look: Look = DEFAULT_LOOK,
) -> list[Path]:
    """Write arrays, tables, figures and the page into a folder; returns their paths."""
    arrays: dict[str, Any] = dataclasses.asdict(found)
    np.savez_compressed(file := io.BytesIO(), stage=STAGES, **arrays)
    columns = {(int(n),): found.unseen[:, c] for c, n in enumerate(found.tested)}
    summary = summary_rows(found)
    tables = {
        "networks": network_rows(found),
        "summary": summary,
        "curves": curve_rows(found),
        "unseen_lengths": mean_rows(found, columns, ("tested",)),
    }
    content = {f"{name}.csv": csv_table(rows).encode() for name, rows in tables.items()}
    content["explanation.npz"] = file.getvalue()
    content["explanation.md"] = page(found, summary, question, notes).encode()
    return write_files(folder, content, figures_of(found, look), look)


def write_comparison(
    found: Mapping[str, Explanation], folder: Path, look: Look = DEFAULT_LOOK
) -> list[Path]:
    """Write what several runs have explained side by side into a folder; returns the paths."""
    readouts = {name: curve_rows(run, "readout") for name, run in found.items()}
    figure = partial(comparison_figure, found, readouts, look)
    content = {"differences.csv": csv_table(difference_rows(found)).encode()}
    return write_files(folder, content, {"why": figure} if common_lengths(found) else {}, look)


def write_files(
    folder: Path,
    content: Mapping[str, bytes],
    figures: Mapping[str, Callable[[], Figure]],
    look: Look,
) -> list[Path]:
    """Write files and figures into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, written in content.items():
        write_atomically(folder / name, written)
    paths = [folder / name for name in content]
    for stem, draw in figures.items():
        paths += save_figure(draw(), folder / stem, look)
    return paths
