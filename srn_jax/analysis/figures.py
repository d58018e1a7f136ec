"""The figures of runs: results and histories in, Matplotlib `Figure` objects out.

No pyplot and no global state. Colours are the textbook's; line styles, markers and the filling of
bands differ as well, so print and colour-blind readers can tell everything apart. Values that are
missing, or not there yet in a run still going on, are left out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator

from srn_jax.analysis.look import (
    CHARACTER_WIDTH,
    DEFAULT_LOOK,
    HANDLE_WIDTH,
    LINE_HEIGHT,
    Look,
)
from srn_jax.analysis.results import Histories, Results, Run, loss_stride, window_means
from srn_jax.analysis.summary import mean_interval, mean_of
from srn_jax.config import DEFAULTS, Facts
from srn_jax.errors import UserError

TRAIN_COLOR = TEST_COLOR = "#e4007f"
DEV_COLOR = "#f19ec2"
# The palette of Okabe and Ito, made for colour-blind readers, without its yellow.
RUN_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
RUN_LINES = ("-", "--", "-.", ":")
RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Figure 6.12: dev and test of the first network and of the second.
PAIR_COLORS = (("#e4007f", "#f19ec2"), ("#e8609b", "#000000"))
PAIR_STYLES = (("o-", "s--"), ("^-.", "D:"))
# Figures 6.8 and 6.9: the recurrent layer's tensors, and the steps that are shown.
NORM_STYLES = {"W": ("#e4007f", "-"), "U": ("#f19ec2", "-."), "b": ("#000000", "--")}
NORM_PROBE = "gradient_norm"
FIRST_STEPS = {"6.8": 40, "6.9": 100}
LOSS_FIGURES = {"srn": "6.6", "lstm": "6.11"}  # in the textbook; others are called loss
MOST_POINTS = 400  # of a probe's line, each a mean over some steps in long runs
MOST_TICKS = 12
LABEL_WIDTH = 70  # characters of a legend that fit under a figure of full width


def legend_below(figure: Figure) -> None:
    """Put one legend of all axes below them, where it hides nothing, in columns that fit."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    letter = FontProperties(size="small").get_size_in_points() / 72  # inches
    lines = [line for label in entries for line in label.split("\n")]
    widest = max((sum(1 + (ord(c) > 0x2E80) for c in line) for line in lines), default=1)
    fit = figure.get_figwidth() / letter / (CHARACTER_WIDTH * widest + HANDLE_WIDTH)
    columns = int(np.clip(fit, 1, 4))
    # The axes keep their height.
    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * letter * len(lines) / columns)
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    legend = figure.legend(list(entries.values()), list(entries), **where)
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(None)  # points may be too faint to see one by one


def loss_figure(
    histories: Histories,
    length: int,
    facts: Facts,
    scale: str = "linear",
    look: Look = DEFAULT_LOOK,
) -> Figure:
    """Figures 6.6 and 6.11: training loss and dev loss of one sequence length against the step.

    Several seeds: the median, which an exploding seed cannot move, and the band between the 5 % and
    95 % quantiles, at each step over the seeds that have a value there. `scale` is "linear", as in
    the textbook, or "log". Raises `UserError` if the histories have no such length.
    """
    with look.applied(6.4) as width:
        figure = look.figure(width, 0.64 * width)
        axes = figure.add_subplot()
        top = draw_losses(axes, histories, length, facts, look)
        axes.set_yscale(scale)
        if scale == "linear":
            axes.set_ylim(0, top)
        axes.set_ylabel(look.say("loss"))
        legend_below(figure)
    return figure


def draw_losses(
    axes: Axes,
    histories: Histories,
    length: int,
    facts: Facts,
    look: Look,
    by_epoch: bool = False,
) -> float:
    """Draw the losses of a length, on an axis as long as the whole run; returns a height for it.

    The height shows everything unless a few values are far above the rest: the last losses of a
    seed that explodes would press all others onto the axis.
    """
    rows = rows_of(histories, length)
    count = histories.train_loss.shape[1]
    if by_epoch:
        train_loss, window = histories.epoch_loss[rows], histories.steps_an_epoch
        train_steps = np.minimum((np.arange(train_loss.shape[1]) + 0.5) * window, count - 1)
        name = look.say("train, mean of each epoch")
    else:
        stride, name = loss_stride(count), look.say("train")
        train_loss, train_steps = histories.train_loss[rows, ::stride], np.arange(0, count, stride)
    dev_loss = histories.dev_loss[rows]
    several = "{name}, median and 5-95 % of {seeds} seeds" if rows.sum() > 1 else "{name}"
    styles: tuple[dict[str, Any], ...] = (
        {"label": name, "color": TRAIN_COLOR, "linestyle": "-"},
        {"label": look.say("dev"), "color": DEV_COLOR, "linestyle": "--", "hatch": "////"},
    )
    for style in styles:
        style["label"] = look.say(several, name=style["label"], seeds=rows.sum())
    train = draw_seeds(axes, train_steps, train_loss, **styles[0])
    dev = draw_seeds(axes, histories.eval_steps, dev_loss, **styles[1])
    gone = np.isnan(dev_loss) & ~np.isnan(dev_loss).all(axis=0)  # while other seeds went on
    title = look.say("length {length}", length=length)
    if gone.any():
        words = ", {gone} of {seeds} seeds diverged"
        title += look.say(words, gone=gone.any(axis=1).sum(), seeds=len(gone))
    axes.set_title(title)
    axes.set(xlim=(0, max(count - 1, 1)), xlabel=look.say("step"))
    least = 0.0 if math.isnan(facts.chance_loss) else facts.chance_loss
    drawn = np.concatenate([train, dev, [least]])
    return 1.05 * max(min(drawn.max(), max(least, 5 * np.quantile(drawn, 0.95))), 1e-9)


def rows_of(histories: Histories, length: int) -> np.ndarray:
    """Which experiments have a length; raises `UserError` if none has."""
    rows = histories.length == length
    if not rows.any():
        known = ", ".join(str(known) for known in np.unique(histories.length))
        raise UserError(f"no history has length {length}, expected one of {known}")
    return rows


def draw_seeds(
    axes: Axes, steps: np.ndarray, values: np.ndarray, hatch: str | None = None, **style: Any
) -> np.ndarray:
    """Draw `values [seed, step]`: one seed's line, or the median and the 5-95 % band of several.

    A band is filled, or hatched, which shows in greyscale too. Returns the upper edge of what is
    drawn, `[known step]`.
    """
    values = np.where(np.isfinite(values), values.astype(float), np.nan)
    known = ~np.isnan(values).all(axis=0)
    steps, values = steps[known], values[:, known]
    if steps.size == 1:
        style["marker"] = "o"  # a line of one point would be invisible
    if len(values) == 1 or not steps.size:
        axes.plot(steps, values[0], **style)
        return values[0]
    low, median, high = quantiles(values, [0.05, 0.5, 0.95])
    axes.plot(steps, median, zorder=3, **style)
    band = axes.fill_between(steps, low, high)
    color = style["color"]
    band.set(facecolor=(color, 0.0 if hatch else 0.18), edgecolor=(color, 0.6), hatch=hatch)
    band.set(linestyle=style["linestyle"], linewidth=0.6)
    return high


def quantiles(values: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Quantiles `[share, step]` over the seeds of `values [seed, step]`, NaN left out.

    `np.nanquantile` takes a hundred times as long, so it sees only the steps that need it.
    """
    found = np.quantile(values, shares, axis=0)
    if (some := np.isnan(values).any(axis=0)).any():
        found[:, some] = np.nanquantile(values[:, some], shares, axis=0)
    return found


def probe_figure(
    histories: Histories, probe: str, length: int, look: Look = DEFAULT_LOOK
) -> Figure:
    """What a probe recorded at one length: a line a series, over several seeds as in a loss figure.

    In a long run each point is the mean over as many steps as make a few hundred points.
    """
    rows, names = rows_of(histories, length), histories.probes[probe]
    count = histories.train_loss.shape[1]
    window = -(-count // MOST_POINTS)
    middles = (np.arange(-(-count // window)) + 0.5) * window - 0.5
    with look.applied(6.4) as width:
        figure = look.figure(width, 0.66 * width)
        axes = figure.add_subplot()
        above = [1.0]
        for place, name in enumerate(names):
            values = window_means(histories.steps[name][rows], window)
            line = {"color": RUN_COLORS[place % 7], "linestyle": RUN_LINES[place % 4]}
            label = name.partition(".")[2] or look.say(name)
            drawn = draw_seeds(axes, middles, values, label=label, **line)
            above.extend(drawn[drawn > 0])
        if max(above) > 100 * min(above):
            axes.set_yscale("log")
        words = "{name}, mean of {window} steps" if window > 1 else "{name}"
        label = look.say(words, name=look.say(probe.replace("_", " ")), window=window)
        axes.set(xlabel=look.say("step"), ylabel=label, xlim=(0, max(count - 1, 1)))
        axes.set_title(seeds_title(look, length, rows.sum()))
        legend_below(figure)
    return figure


def norm_figure(histories: Histories, length: int, steps: int, look: Look = DEFAULT_LOOK) -> Figure:
    """Figures 6.8 and 6.9: norms of the recurrent layer's gradients at each of the first steps."""
    rows = rows_of(histories, length)
    with look.applied(6.4) as width:
        figure = look.figure(width, 0.69 * width)
        axes = figure.add_subplot()
        for tensor, (color, line) in NORM_STYLES.items():
            values = histories.steps[f"{NORM_PROBE}.{tensor}"][rows, :steps]
            style = {"color": color, "linestyle": line, "label": tensor}
            draw_seeds(axes, np.arange(values.shape[1]), values, **style)
        axes.set(xlabel=look.say("step"), ylabel=look.say("L2 Norm"))
        axes.set_title(seeds_title(look, length, rows.sum()))
        axes.legend(loc="upper right")
    return figure


def seeds_title(look: Look, length: int, seeds: int) -> str:
    """The length of a figure, and what its lines and bands are over several seeds."""
    words = ", median and 5-95 % of {seeds} seeds" if seeds > 1 else ""
    return look.say("length {length}", length=length) + look.say(words, seeds=seeds)


def accuracy_figure(results: Results, facts: Facts, look: Look = DEFAULT_LOOK) -> Figure:
    """Figure 6.7: best dev accuracy and test accuracy against the sequence length.

    Several seeds: each a faint point, their mean, and its 95 % bootstrap interval.
    """
    with look.applied(6.4) as width:
        figure = look.figure(width, 0.68 * width)
        draw_accuracies(figure.add_subplot(), results, facts, look)
        legend_below(figure)
    return figure


def draw_accuracies(axes: Axes, results: Results, facts: Facts, look: Look) -> None:
    """Draw both accuracies; single seeds stand a little to the left (dev) or right (test)."""
    lengths = results.length
    seeds = np.unique(results.seed).size
    alpha = np.clip(10 / max(1, seeds), 0.04, 0.3)
    shift = 0.12 * spacing(lengths)
    places = lengths + np.random.default_rng(0).uniform(-0.6, 0.6, len(results)) * shift
    for name, scores, color, style, side in (
        (look.say("best dev"), results.best_dev_accuracy, DEV_COLOR, "s--", -shift),
        (look.say("test"), results.test_accuracy, TEST_COLOR, "o-", shift),
    ):
        if seeds > 1:
            label = look.say("{name}, single seeds", name=name)
            axes.scatter(places + side, scores, 8, color, alpha=alpha, lw=0, label=label)
            name = look.say("{name}, mean and 95 % interval", name=name)
        draw_means(axes, lengths, scores, fmt=style, color=color, label=name)
    finish_accuracy_axes(axes, lengths, facts, look, "accuracy")


def draw_means(axes: Axes, lengths: np.ndarray, scores: np.ndarray, **style: Any) -> None:
    """Draw the mean of `scores [experiment]` at each length, with its interval if it has one."""
    places = np.unique(lengths)
    groups = [scores[(lengths == place) & ~np.isnan(scores)] for place in places]
    means = np.array([mean_of(group) for group in groups])
    intervals = [mean_interval(group) for group in groups]
    ends = np.array([[interval.low, interval.high] for interval in intervals]).reshape(-1, 2)
    # Rounding can put an end of a zero width on the wrong side of the mean.
    errors = np.maximum([means - ends[:, 0], ends[:, 1] - means], 0.0)
    known = None if np.isnan(errors).all() else errors
    axes.errorbar(places, means, known, markeredgecolor="white", **style)


def spacing(lengths: np.ndarray) -> float:
    """The smallest distance between two sequence lengths, 1 if there are not two."""
    places = np.unique(lengths)
    return float(np.diff(places).min()) if places.size > 1 else 1.0


def finish_accuracy_axes(
    axes: Axes, lengths: np.ndarray, facts: Facts, look: Look, name: str
) -> None:
    """Add the chance line, labels, limits, and a tick at every length as long as they fit."""
    if not math.isnan(facts.chance):
        label = look.say("chance, {chance:.2f}", chance=facts.chance)
        axes.axhline(facts.chance, color="0.4", linestyle=":", linewidth=1.2, label=label)
    axes.set(xlabel=look.say("sequence length"), ylabel=look.say(name), ylim=(0, 1.03))
    places = np.unique(lengths)
    if places.size <= MOST_TICKS:
        axes.set_xticks(places)
    if places.size:
        axes.set_xlim(places[0] - spacing(places) / 2, places[-1] + spacing(places) / 2)


def overview_figure(
    histories: Histories, results: Results, facts: Facts, look: Look = DEFAULT_LOOK
) -> Figure:
    """All lengths on one page: losses by epoch, all on one scale, and the accuracies."""
    lengths = np.unique(histories.length)
    columns = min(4, lengths.size + 1, max(1, int((look.width or 12) / 1.6)))
    rows = -(-(lengths.size + 1) // columns)
    with look.applied(2.9 * columns) as width:
        figure = look.figure(width, width / 2.9 / columns * (2.4 * rows + 0.2))
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        loss_panels = panels[: lengths.size]
        pairs = zip(loss_panels, lengths, strict=True)
        tops = [draw_losses(axes, histories, n, facts, look, by_epoch=True) for axes, n in pairs]
        for place, axes in enumerate(loss_panels):
            axes.set_ylim(0, max(tops))
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            if place % columns == 0:
                axes.set_ylabel(look.say("loss"))
        draw_accuracies(panels[lengths.size], results, facts, look)
        for axes in panels[lengths.size + 1 :]:
            axes.set_axis_off()
        legend_below(figure)
    return figure


def comparison_figure(runs: Mapping[str, Run], look: Look = DEFAULT_LOOK) -> Figure:
    """Test accuracy of several runs against the sequence length: means with 95 % intervals."""
    with look.applied(6.4) as width:
        figure = look.figure(width, 0.66 * width)
        axes = figure.add_subplot()
        for place, (name, run) in enumerate(runs.items()):
            seeds = np.unique(run.results.seed).size
            label = look.say("{name} (seeds: {seeds})", name=name, seeds=seeds)
            style = {
                "fmt": RUN_MARKERS[place % len(RUN_MARKERS)] + RUN_LINES[place % len(RUN_LINES)],
                "color": RUN_COLORS[place % len(RUN_COLORS)],
                "capsize": 2 + 1.5 * place,  # where intervals cover each other
                "label": fill(label, int(LABEL_WIDTH * math.sqrt(width / 6.4))),
            }
            draw_means(axes, run.results.length, run.results.test_accuracy, **style)
        lengths = np.concatenate([run.results.length for run in runs.values()])
        finish_accuracy_axes(axes, lengths, common_facts(runs), look, "test accuracy")
        axes.set_title(look.say("mean over seeds and its 95 % bootstrap interval"))
        legend_below(figure)
    return figure


def pair_figure(runs: Mapping[str, Run], look: Look = DEFAULT_LOOK) -> Figure:
    """Figure 6.12: dev and test accuracy of two runs, such as SRN and LSTM, against the length."""
    with look.applied(6.4) as width:
        figure = look.figure(width, 0.75 * width)
        axes = figure.add_subplot()
        for (name, run), colors, styles in zip(runs.items(), PAIR_COLORS, PAIR_STYLES, strict=True):
            scores = run.results.best_dev_accuracy, run.results.test_accuracy
            for part, color, style, score in zip(
                ("dev", "test"), colors, styles, scores, strict=True
            ):
                label = f"{name}, {look.say(part)}"
                draw_means(axes, run.results.length, score, fmt=style, color=color, label=label)
        lengths = np.concatenate([run.results.length for run in runs.values()])
        finish_accuracy_axes(axes, lengths, common_facts(runs), look, "accuracy")
        axes.legend(loc="lower left")
    return figure


def common_facts(runs: Mapping[str, Run]) -> Facts:
    """What the tasks of several runs say alike; there is no one chance where they differ."""
    told = {run.facts for run in runs.values()}
    return told.pop() if len(told) == 1 else Facts(chance=math.nan, chance_loss=math.nan)


def gate_figure(
    name: str, values: np.ndarray, inputs: Sequence[Any], look: Look = DEFAULT_LOOK
) -> Figure:
    """Figure 6.13: a gate (I, F, O) or the internal state (C) as the sequence goes by.

    Args:
        name: of the gate; gates are shown on 0..1 and the state C on -5..5.
        values: `[unit, position]`.
        inputs: what stands at each position, its label.
        look: how it looks.
    """
    low, high = (-5, 5) if name == "C" else (0, 1)
    with look.applied(16, 16) as width:
        figure = look.figure(width, width * 6 / 16)
        axes = figure.add_subplot()
        colors = "RdBu_r" if name == "C" else "magma"
        image = axes.imshow(
            values, colors, vmin=low, vmax=high, aspect="auto", interpolation="none"
        )
        axes.set_xticks(range(len(inputs)), map(str, inputs))
        axes.set(xlabel=look.say("position"), ylabel=look.say("unit"), title=look.title or name)
        figure.colorbar(image, ax=axes, pad=0.01)
    return figure


def figures_of(run: Run, look: Look = DEFAULT_LOOK) -> dict[str, Callable[[], Figure]]:
    """What draws each figure of a run, by the name of its file."""
    results, histories, facts, settings = run.results, run.histories, run.facts, run.settings
    own = settings["task"] != DEFAULTS.task
    losses = "loss" if own else LOSS_FIGURES.get(settings["cell"], "loss")
    accuracies = "6.7" if losses == "6.6" else "accuracy"
    figures: dict[str, Callable[[], Figure]] = {}
    figures[accuracies] = partial(accuracy_figure, results, facts, look)
    if histories is None:
        return figures
    figures["overview"] = partial(overview_figure, histories, results, facts, look)
    lengths = np.unique(histories.length).tolist()
    for length in lengths:
        figures[f"{losses}_{length}"] = partial(loss_figure, histories, length, facts, look=look)
    for length in lengths:
        for probe in histories.probes:
            figures[f"{probe}_{length}"] = partial(probe_figure, histories, probe, length, look)
        if {f"{NORM_PROBE}.{tensor}" for tensor in NORM_STYLES} <= histories.steps.keys():
            number = "6.8" if settings["clip_norm"] is None else "6.9"
            name = f"{number}_{length}" if len(lengths) > 1 else number
            figures[name] = partial(norm_figure, histories, length, FIRST_STEPS[number], look=look)
    return figures
