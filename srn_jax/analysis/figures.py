"""The figures of a run: results and histories in, Matplotlib `Figure` objects out.

No pyplot and no global state. Training loss and test accuracy have the textbook's strong colour and
a solid line, the dev set its pale one and a dashed line, so print and colour-blind readers can tell
them apart. Values that are missing, or not there yet in a run still going on, are left out.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from srn_jax.analysis.results import Histories, Results, write_atomically
from srn_jax.analysis.summary import CHANCE, mean_interval, mean_of
from srn_jax.config import NUM_CLASSES
from srn_jax.errors import UserError

TRAIN_COLOR = TEST_COLOR = "#e4007f"
DEV_COLOR = "#f19ec2"
# The palette of Okabe and Ito, made for colour-blind readers, without its yellow.
RUN_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
RUN_LINES = ("-", "--", "-.", ":")
RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LOSS_STRIDE = 100  # the textbook draws the training loss of every 100th step
FEWEST_LOSSES = 100  # so a short run is drawn more densely
UNTRAINED_LOSS = math.log(NUM_CLASSES)
MOST_TICKS = 12
LABEL_WIDTH = 70  # characters of a legend that fit under a figure
PNG_DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, laid out so that no label is cut off."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_below(figure: Figure, columns: int) -> None:
    """Put one legend of all axes below them, where it hides nothing."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    look: dict[str, Any] = {"handles": list(entries.values()), "labels": list(entries)}
    look |= {"loc": "outside lower center", "fontsize": "small", "handlelength": 3.2}
    legend = figure.legend(ncols=columns, **look)
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(None)  # points may be too faint to see one by one


def loss_figure(histories: Histories, length: int, scale: str = "linear") -> Figure:
    """Figure 6.6: training loss and dev loss of one sequence length against the step.

    Several seeds: the median, which an exploding seed cannot move, and the band between the 5 % and
    95 % quantiles, at each step over the seeds that have a value there. `scale` is "linear", as in
    the textbook, or "log". Raises `UserError` if the histories have no such length.
    """
    figure = new_figure(6.4, 4.4)
    axes = figure.add_subplot()
    top = draw_losses(axes, histories, length)
    axes.set_yscale(scale)
    if scale == "linear":
        axes.set_ylim(0, top)
    axes.set_ylabel("loss")
    legend_below(figure, columns=2)
    return figure


def draw_losses(axes: Axes, histories: Histories, length: int) -> float:
    """Draw the losses of a length, on an axis as long as the whole run; returns a height for it.

    The height shows everything unless a few values are far above the rest: the last losses of a
    seed that explodes would press all others onto the axis.
    """
    rows = histories.length == length
    if not rows.any():
        known = ", ".join(str(known) for known in np.unique(histories.length))
        raise UserError(f"no history has length {length}, expected one of {known}")
    count = histories.train_loss.shape[1]
    stride = min(LOSS_STRIDE, max(1, count // FEWEST_LOSSES))
    train_loss = histories.train_loss[rows, ::stride]
    train_steps, dev_loss = np.arange(0, count, stride), histories.dev_loss[rows]
    train = draw_seeds(axes, train_steps, train_loss, "train", TRAIN_COLOR, "-")
    dev = draw_seeds(axes, histories.eval_steps, dev_loss, "dev", DEV_COLOR, "--")
    gone = np.isnan(dev_loss) & ~np.isnan(dev_loss).all(axis=0)  # while other seeds went on
    note = f", {gone.any(axis=1).sum()} of {len(gone)} seeds diverged" if gone.any() else ""
    axes.set_title(f"length {length}{note}", fontsize="medium")
    axes.set(xlim=(0, max(count - 1, 1)), xlabel="step")
    drawn = np.concatenate([train, dev, [UNTRAINED_LOSS]])
    return 1.05 * min(drawn.max(), max(UNTRAINED_LOSS, 5 * np.quantile(drawn, 0.95)))


def draw_seeds(
    axes: Axes, steps: np.ndarray, values: np.ndarray, name: str, color: str, line: str
) -> np.ndarray:
    """Draw `values [seed, step]`: one seed's line, or the median and the 5-95 % band of several.

    Returns the upper edge of what is drawn, `[known step]`.
    """
    alpha = 0.14 if line == "-" else 0.35  # the strong colour's band must not hide the pale line
    values = np.where(np.isfinite(values), values.astype(float), np.nan)
    known = ~np.isnan(values).all(axis=0)
    steps, values = steps[known], values[:, known]
    style: dict[str, Any] = {"color": color, "linestyle": line, "linewidth": 1.8}
    if steps.size == 1:
        style["marker"] = "o"  # a line of one point would be invisible
    if len(values) == 1 or not steps.size:
        axes.plot(steps, values[0], label=name, **style)
        return values[0]
    low, median, high = np.nanquantile(values, [0.05, 0.5, 0.95], axis=0)
    axes.plot(steps, median, label=f"{name}, median of {len(values)} seeds", **style)
    band = axes.fill_between(steps, low, high, label=f"{name}, 5-95 % of seeds")
    band.set(facecolor=(color, alpha), edgecolor=(color, 0.6), linestyle=line, linewidth=0.6)
    return high


def accuracy_figure(results: Results) -> Figure:
    """Figure 6.7: best dev accuracy and test accuracy against the sequence length.

    Several seeds: each a faint point, their mean, and its 95 % bootstrap interval.
    """
    figure = new_figure(6.4, 4.8)
    axes = figure.add_subplot()
    draw_accuracies(axes, results)
    legend_below(figure, columns=2)
    return figure


def draw_accuracies(axes: Axes, results: Results) -> None:
    """Draw both accuracies, with several seeds dev a little to the left and test to the right."""
    lengths = results.length
    seeds = np.unique(results.seed).size
    several, alpha = seeds > 1, np.clip(10 / max(1, seeds), 0.04, 0.3)
    shift = 0.08 * spacing(lengths) if several else 0.0
    places = lengths + np.random.default_rng(0).uniform(-0.7, 0.7, len(results)) * shift
    for name, scores, color, style, side in (
        ("best dev", results.best_dev_accuracy, DEV_COLOR, "s--", -shift),
        ("test", results.test_accuracy, TEST_COLOR, "o-", shift),
    ):
        if several:
            label = f"{name}, single seeds"
            axes.scatter(places + side, scores, 8, color, alpha=alpha, lw=0, label=label)
        label = f"{name}, mean and 95 % bootstrap interval" if several else name
        draw_means(axes, lengths, scores, side, fmt=style, color=color, label=label)
    finish_accuracy_axes(axes, lengths, "accuracy")


def draw_means(
    axes: Axes, lengths: np.ndarray, scores: np.ndarray, shift: float, **style: Any
) -> None:
    """Draw the mean of `scores [experiment]` at each length, with its interval if it has one."""
    places = np.unique(lengths)
    groups = [scores[(lengths == place) & ~np.isnan(scores)] for place in places]
    means = np.array([mean_of(group) for group in groups])
    intervals = [mean_interval(group) for group in groups]
    ends = np.array([[interval.low, interval.high] for interval in intervals]).reshape(-1, 2)
    # Rounding can put an end of a zero width on the wrong side of the mean.
    errors = np.maximum([means - ends[:, 0], ends[:, 1] - means], 0.0)
    known = None if np.isnan(errors).all() else errors
    style |= {"capsize": 3, "markersize": 6, "markeredgecolor": "white", "linewidth": 1.8}
    axes.errorbar(places + shift, means, known, **style)


def spacing(lengths: np.ndarray) -> float:
    """The smallest distance between two sequence lengths, 1 if there are not two."""
    places = np.unique(lengths)
    return float(np.diff(places).min()) if places.size > 1 else 1.0


def finish_accuracy_axes(axes: Axes, lengths: np.ndarray, name: str) -> None:
    """Add the chance line, labels, limits, and a tick at every length as long as they fit."""
    axes.axhline(CHANCE, color="0.4", linestyle=":", lw=1.2, label=f"chance, {CHANCE:.2f}")
    axes.set(xlabel="sequence length", ylabel=name, ylim=(0, 1.03))
    places = np.unique(lengths)
    if places.size <= MOST_TICKS:
        axes.set_xticks(places)
    if places.size:
        axes.set_xlim(places[0] - spacing(places) / 2, places[-1] + spacing(places) / 2)


def overview_figure(histories: Histories, results: Results) -> Figure:
    """All lengths on one page: the losses of each, on one scale, and the accuracies."""
    lengths = np.unique(histories.length)
    columns = min(4, lengths.size + 1)
    rows = -(-(lengths.size + 1) // columns)
    figure = new_figure(2.9 * columns, 2.5 * rows + 2.4 / columns)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    loss_panels = panels[: lengths.size]
    pairs = zip(loss_panels, lengths, strict=True)
    top = max((draw_losses(axes, histories, length) for axes, length in pairs), default=0.0)
    for axes in loss_panels:
        axes.set_ylim(0, top)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    for axes in loss_panels[::columns]:
        axes.set_ylabel("loss")
    draw_accuracies(panels[lengths.size], results)
    for axes in panels[lengths.size + 1 :]:
        axes.set_axis_off()
    legend_below(figure, columns)
    return figure


def comparison_figure(named_results: Mapping[str, Results]) -> Figure:
    """Test accuracy of several runs against the sequence length: means with 95 % intervals."""
    figure = new_figure(6.4, 4.2 + 0.2 * len(named_results))
    axes = figure.add_subplot()
    lengths = np.concatenate([results.length for results in named_results.values()])
    middle = (len(named_results) - 1) / 2
    for place, (name, results) in enumerate(named_results.items()):
        shift = (place - middle) * spacing(lengths) * min(0.06, 0.4 / len(named_results))
        style = {
            "fmt": RUN_MARKERS[place % len(RUN_MARKERS)] + RUN_LINES[place % len(RUN_LINES)],
            "color": RUN_COLORS[place % len(RUN_COLORS)],
            "label": fill(f"{name} (seeds: {np.unique(results.seed).size})", LABEL_WIDTH),
        }
        draw_means(axes, results.length, results.test_accuracy, shift, **style)
    finish_accuracy_axes(axes, lengths, "test accuracy")
    axes.set_title("mean over seeds and its 95 % bootstrap interval", fontsize="medium")
    legend_below(figure, columns=1)
    return figure


def save_figures(folder: Path, results: Results, histories: Histories) -> list[Path]:
    """Write all figures of a run into `folder/figures/`, named as in the textbook; their paths."""
    lengths = np.unique(histories.length)
    figures = {f"6.6_{length}": loss_figure(histories, length) for length in lengths}
    figures |= {"6.7": accuracy_figure(results), "overview": overview_figure(histories, results)}
    target = folder / "figures"
    target.mkdir(parents=True, exist_ok=True)
    return [path for name in figures for path in save_figure(figures[name], target / name)]


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `<stem>.pdf` and `<stem>.png`, without a date: the same figure is the same bytes."""
    paths = []
    for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=PNG_DPI, metadata=metadata)
        paths.append(stem.with_name(f"{stem.name}.{kind}"))
        write_atomically(paths[-1], buffer.getvalue())
    return paths
