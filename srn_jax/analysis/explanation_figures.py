"""The figures that explain a run, or several variants side by side, and all files about it."""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from srn_jax.analysis import explanation
from srn_jax.analysis import explanation_tables as tables
from srn_jax.analysis.explanation_tables import (
    ALL,
    BEST,
    LARGEST,
    NORM,
    OTHERS,
    SOLVERS,
    STAGES,
    START,
    Explanation,
)
from srn_jax.analysis.figures import RUN_COLORS
from srn_jax.analysis.look import Look, legend_below, save_figure
from srn_jax.files import write_atomically

MOST_COMPARED = 3  # lengths, the longest ones, in the figure of several variants
NARROWEST, ROW = 1.55, 2.5  # inches: a panel's least width, a row's height
STAGE_STYLES = (("0.55", ":"), ("#0072b2", "-"), ("#d55e00", "--"))
COLORS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # of targets
SEEDS = "median and 5-95 % of seeds"
Draw = Callable[[Axes, int], None]


def panels(
    lengths: Sequence[int], rows: Mapping[str, Draw], look: Look, across: str, note: str
) -> Figure:
    """A panel a length; each kind, `rows` by the words beside it, starts a new row.

    The legend of all stands below, and the note, about all lines, above it.
    """
    columns = min(4, len(lengths), max(1, int((look.width or 12.8) / NARROWEST)))
    deep = -(-len(lengths) // columns)  # rows of a kind
    width, number = 3.2 * max(2, columns), len(rows) * deep
    with look.applied(width, ROW * number / width) as figure:
        figure.set_figheight(max(figure.get_figheight(), 0.8 * ROW * number))
        grid = figure.subplots(number, columns, squeeze=False, sharey=True)
        for place, axes in enumerate(grid.ravel()):
            kind, which = divmod(place, deep * columns)
            label, draw = list(rows.items())[kind]
            if which >= len(lengths):
                axes.set_axis_off()
                continue
            draw(axes, lengths[which])
            axes.set(title=f"length {lengths[which]}", xlabel=across)
            ticks = MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
            axes.xaxis.set_major_locator(ticks)
            if place % columns == 0:
                axes.set_ylabel(label)
        legend_below(figure, note)
        renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        more = figure.legends[0].get_window_extent(renderer).height / figure.dpi
        figure.set_figheight(figure.get_figheight() + more)
    return figure


def draw_seeds(axes: Axes, values: np.ndarray, style: tuple[str, str], label: str) -> None:
    """Median and 5-95 % band of `values [seed, place]` at the places 1, 2, ... that are known."""
    at = np.flatnonzero(np.isfinite(values).any(axis=0))
    low, median, high = np.nanquantile(values[:, at], [0.05, 0.5, 0.95], axis=0)
    marker = "o" if at.size == 1 else ""
    axes.plot(at + 1, median, style[1], color=style[0], label=label, marker=marker)
    axes.fill_between(at + 1, low, high, color=style[0], alpha=0.2, lw=0, label=label)


def note_of(found: Explanation) -> str:
    """What lines and bands are, where a figure has both."""
    return SEEDS if np.unique(found.seed).size > 1 else ""


def stage_figure(
    found: Explanation, values: np.ndarray, label: str, across: str, look: Look
) -> Figure:
    """Median and 5-95 % band over seeds of `values [stage, experiment, place]`, one line each."""

    def draw(axes: Axes, length: int) -> None:
        for stage, name in enumerate(STAGES):
            rows = values[stage, found.length == length]
            draw_seeds(axes, rows, STAGE_STYLES[stage], name)

    return panels(found.lengths, {label: draw}, look, across, note_of(found))


def forgetting_figure(found: Explanation, look: Look, by_solver: bool = False) -> Figure:
    """Readout accuracy against the position: of all networks, or of solvers and others."""
    both = ((SOLVERS, BEST, "-"), (OTHERS, BEST, "--"))
    shown = both if by_solver else ((ALL, BEST, "-"), (ALL, START, ":"))

    def draw(axes: Axes, length: int) -> None:
        groups = found.groups(length)
        for n, target in enumerate(found.targets):
            for group, stage, line in shown:
                rows = found.readout[stage, groups[group], n]
                label = f"{target}, {group if by_solver else STAGES[stage]}"
                if len(rows):
                    draw_seeds(axes, rows, (COLORS[n % len(COLORS)], line), label)
        chance_line(axes, found.chance[groups[ALL]].mean())

    rows: dict[str, Draw] = {"accuracy of a readout": draw}
    return panels(found.lengths, rows, look, "position", note_of(found))


def chance_line(axes: Axes, chance: float) -> None:
    """What a readout that knows nothing gets right, on an axis of accuracies."""
    axes.axhline(chance, color="0.4", linestyle=(0, (1, 3)), label="chance")
    axes.set_ylim(0, 1.03)


def unseen_figure(found: Explanation, look: Look) -> Figure:
    """Mean accuracy by the length trained on and the length tested on, the diagonal framed."""
    table = np.stack([found.unseen[found.length == n].mean(axis=0) for n in found.lengths])
    with look.axes(5.0, 0.85) as (figure, axes):
        image = axes.imshow(table, "viridis", aspect="auto", vmin=0, vmax=1, origin="lower")
        room = figure.get_figwidth() * 72 * 0.6 / table.shape[1]  # points in a cell
        for (row, column), mean in np.ndenumerate(table):
            color, size = ("white" if mean < 0.6 else "black"), min(10, room / 2.4)
            if size >= 5:
                words = f"{mean:.2f}"
                axes.text(column, row, words, color=color, size=size, ha="center", va="center")
            if found.tested[column] == found.lengths[row]:
                corner = column - 0.5, row - 0.5
                frame = Rectangle(corner, 1, 1, fill=False, edgecolor="#d55e00", lw=2.5)
                axes.add_patch(frame).set(clip_on=False, zorder=3)  # whole at the edge
        axes.set_xticks(range(found.tested.size), map(str, found.tested))
        axes.set_yticks(range(len(found.lengths)), map(str, found.lengths))
        axes.set(xlabel="tested on length", ylabel="trained on length")
        figure.colorbar(image, ax=axes, label="test accuracy")
    return figure


def figures_of(found: Explanation, look: Look) -> dict[str, Callable[[], Figure]]:
    """What draws each figure, by the name of its file."""
    drawn: dict[str, Callable[[], Figure]] = {}
    drawn["forgetting"] = partial(forgetting_figure, found, look)
    if not np.isnan(found.gradient).all():
        values = tables.curves(found)
        ranks = "rank of the singular value"
        for stem, arguments in {
            "gradient_through_time": (values[NORM], NORM, "position"),
            "jacobian": (values[LARGEST], "log10 largest growth", "position"),
            "perturbation": (found.product, "log10 singular value", ranks),
        }.items():
            if not np.isnan(arguments[0]).all():  # as at length 1
                drawn[stem] = partial(stage_figure, found, *arguments, look)
    if found.solver.any() and not found.solver.all():
        drawn["solvers_and_others"] = partial(forgetting_figure, found, look, True)
    if found.tested.size > 1:
        drawn["unseen_lengths"] = partial(unseen_figure, found, look)
    return drawn


def comparison_figure(
    found: Mapping[str, Explanation], curves: Mapping[str, pd.DataFrame], look: Look
) -> Figure:
    """What readouts find of the answer at each position, of several variants side by side.

    Means with 95 % intervals over seeds, before training and at the best step, for the longest
    lengths that all have.
    """
    shown = common_lengths(found)[-MOST_COMPARED:]

    def draw(axes: Axes, length: int) -> None:
        for place, (name, table) in enumerate(curves.items()):
            for stage, words, line in ((BEST, "trained", "-"), (START, "before training", ":")):
                rows = table[(table.length == length) & (table.group == ALL)]
                rows = rows[rows.stage == STAGES[stage]]
                style: Any = {"color": RUN_COLORS[place % len(RUN_COLORS)]}
                style["label"] = f"{name}, {words}"
                axes.plot(rows.position, rows["mean"], line, **style)
                ends = rows.interval_low, rows.interval_high
                axes.fill_between(rows.position, *ends, alpha=0.2, lw=0, **style)
        chances = [one.chance[one.length == length].mean() for one in found.values()]
        chance_line(axes, float(np.mean(chances)))

    rows: dict[str, Draw] = {f"readout of {next(iter(found.values())).answer}": draw}
    return panels(shown, rows, look, "position", "mean and 95 % interval over seeds")


def common_lengths(found: Mapping[str, Explanation]) -> list[int]:
    """The lengths that all variants have networks of, shortest first."""
    return sorted(set.intersection(*(set(one.lengths) for one in found.values())))


def write_explanation(
    found: Mapping[str, Explanation], folder: Path, look: Look, question: str
) -> list[Path]:
    """Write arrays, tables, figures and the page into a folder; returns their paths.

    Of several variants each has a folder of its own, and this one what stands side by side.
    """
    if not {"png", "svg"} & set(look.formats):  # the page shows one of them
        look = dataclasses.replace(look, formats=(*look.formats, "png"))
    if len(found) == 1:
        return write_one(next(iter(found.values())), folder, look, question)
    paths, curves = [], {}
    for name, one in found.items():
        paths += write_one(one, folder / name.replace("/", "_"), look, question)
        curves[name] = tables.curve_table(one, f"readout of {one.answer}")
        curves[name] = curves[name][curves[name].measure == f"readout of {one.answer}"]
    drawn = (
        {"why": partial(comparison_figure, found, curves, look)} if common_lengths(found) else {}
    )
    figures, pictures = draw_all(drawn, folder, look)
    pages = explanation.overview(found, question, pictures)
    content = {"differences.csv": csv_of(tables.difference_table(found))} | pages
    return paths + write_files(folder, content) + figures


def write_one(found: Explanation, folder: Path, look: Look, question: str) -> list[Path]:
    """Write what explains one variant into a folder."""
    np.savez_compressed(file := io.BytesIO(), stage=STAGES, **dataclasses.asdict(found))
    summary = tables.summary_table(found)
    tested = pd.DataFrame({"tested": found.tested})
    written = {
        "networks": tables.network_table(found),
        "summary": summary,
        "curves": tables.curve_table(found),
        "unseen_lengths": tables.mean_table(found, tested, found.unseen),
    }
    content: dict[str, str | bytes] = {f"{n}.csv": csv_of(table) for n, table in written.items()}
    figures, pictures = draw_all(figures_of(found, look), folder, look)
    content |= explanation.page(found, summary, question, pictures)
    content["explanation.npz"] = file.getvalue()
    return write_files(folder, content) + figures


def csv_of(table: pd.DataFrame) -> str:
    """A table in full precision; NaN is left empty."""
    return table.to_csv(index=False, lineterminator="\n")


def draw_all(
    figures: Mapping[str, Callable[[], Figure]], folder: Path, look: Look
) -> tuple[list[Path], dict[str, Path]]:
    """Draw figures into a folder, which is created; all paths, and those that a page can show."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {stem: save_figure(draw(), folder / stem, look) for stem, draw in figures.items()}
    shown = {s: next(p for p in its if p.suffix in (".png", ".svg")) for s, its in paths.items()}
    return [path for its in paths.values() for path in its], shown


def write_files(folder: Path, content: Mapping[str, str | bytes]) -> list[Path]:
    """Write files into a folder; returns their paths."""
    for name, written in content.items():
        write_atomically(folder / name, written.encode() if isinstance(written, str) else written)
    return [folder / name for name in content]
