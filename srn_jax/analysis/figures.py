"""The figures of runs: results and histories in, Matplotlib `Figure` objects out.

Colours are the textbook's; line styles, markers and the filling of bands differ as well, so print
and colour-blind readers can tell everything apart. Values that are missing, or not there yet in a
run still going on, are left out.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox, TransformedBbox

from srn_jax.analysis.look import DEFAULT_LOOK, PNG_DPI, Look, legend_below
from srn_jax.analysis.results import Histories, Results, Run, loss_stride, window_means
from srn_jax.analysis.summary import mean_interval, mean_of
from srn_jax.analysis.words import words_of
from srn_jax.config import DEFAULTS, Facts

TRAIN_COLOR = TEST_COLOR = "#e4007f"
DEV_COLOR = "#f19ec2"
# The palette of Okabe and Ito, made for colour-blind readers, without its yellow.
RUN_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
RUN_LINES = ("-", "--", "-.", ":")
RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Figure 6.12: dev and test of the first network and of the second.
PAIR_STYLES = ((("#e4007f", "o-"), ("#f19ec2", "s--")), (("#e8609b", "^-."), ("#000000", "D:")))
# Figures 6.8 and 6.9: the recurrent layer's tensors, and the steps that are shown.
NORM_PROBE = "gradient_norm"
NORM_STYLES = {"W": ("#e4007f", "-"), "U": ("#f19ec2", "-."), "b": ("#000000", "--")}
FIRST_STEPS = {"6.8": 40, "6.9": 100}
MOST_POINTS = 400  # of a probe's line, each a mean over some steps in long runs
LOWEST = 0.05  # a logarithmic axis with zeros to leave out begins a decade below this quantile
DIGIT_WIDTH = 0.64  # of a tick's label, in units of the type's size
LABEL_WIDTH = 70  # characters of a legend that fit under a figure


def loss_figure(
    histories: Histories, results: Results, length: int, facts: Facts, look: Look = DEFAULT_LOOK
) -> Figure:
    """Figures 6.6 and 6.11: training loss and dev loss of one sequence length against the step.

    Several seeds: the median, which an exploding seed cannot move, and the band between the 5 % and
    95 % quantiles, at each step over the seeds that have a value there.
    """
    with look.axes(6.4, 0.64) as (figure, axes):
        top = draw_losses(axes, histories, results, length, facts, look)
        axes.set(ylim=(0, top), ylabel=look.say("loss"))
        legend_below(figure)
    return figure


def draw_losses(
    axes: Axes,
    histories: Histories,
    results: Results,
    length: int,
    facts: Facts,
    look: Look,
    by_epoch: bool = False,
) -> float:
    """Draw the losses of a length, on an axis as long as the whole run; returns a height for it.

    The height shows everything unless a few values are far above the rest: the last losses of a
    seed that explodes would press all others onto the axis.
    """
    rows = histories.length == length
    count, seeds = histories.train_loss.shape[1], int(rows.sum())
    stride, name, train_loss = loss_stride(count), "train", histories.train_loss
    train_steps: np.ndarray = np.arange(0, count, stride)
    if by_epoch:
        window, name = histories.steps_an_epoch, "train, mean of each epoch"
        train_loss, stride = histories.epoch_loss, 1
        train_steps = np.minimum((np.arange(train_loss.shape[1]) + 0.5) * window, count - 1)
    dev_loss = histories.dev_loss[rows]
    label = "{name}, median and 5-95 % of {seeds} seeds" if seeds > 1 else "{name}"
    drawn: list[Any] = [[0.0 if math.isnan(facts.chance_loss) else facts.chance_loss]]
    for words, steps, values, style in (
        (name, train_steps, train_loss[rows, ::stride], (TRAIN_COLOR, "-")),
        ("dev", histories.eval_steps, dev_loss, (DEV_COLOR, "--")),
    ):
        words = look.say(label, name=look.say(words), seeds=seeds)
        hatch = "////" if words.startswith(look.say("dev")) else None
        drawn.append(draw_seeds(axes, steps, values, style, words, hatch))
    gone = results.of_length(length).diverged.sum()
    words = ", {gone} of {seeds} seeds diverged" if gone else ""
    title = look.say("length {length}", length=length)
    axes.set_title(title + look.say(words, gone=gone, seeds=seeds))
    axes.set(xlim=(0, max(count - 1, 1)), xlabel=look.say("step"))
    heights = np.concatenate(drawn)
    return 1.05 * max(min(heights.max(), max(heights[0], 5 * np.quantile(heights, 0.95))), 1e-9)


def draw_seeds(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    style: tuple[str, str],
    label: str,
    hatch: str | None = None,
) -> np.ndarray:
    """Draw `values [seed, step]`: one seed's line, or the median and the 5-95 % band of several.

    `style` is a colour and a line. A band is filled, or hatched, which shows in greyscale too.
    Returns the upper edge of what is drawn, `[known step]`.
    """
    color, line = style
    values = np.where(np.isfinite(values), values.astype(float), np.nan)
    known = ~np.isnan(values).all(axis=0)
    steps, values = steps[known], values[:, known]
    if axes.get_yscale() == "log":  # on which a zero is a gap, and no wall down to the axis
        values = np.where(values > 0, values, np.nan)
    low, median, high = quantiles(values, [0.05, 0.5, 0.95])
    (drawn,) = axes.plot(steps, median, color=color, linestyle=line, label=label, zorder=3)
    gap = np.isnan(np.pad(median, 1, constant_values=np.nan))
    if (lone := ~gap[1:-1] & gap[:-2] & gap[2:]).any():  # or they are invisible
        drawn.set(marker="o" if steps.size == 1 else ".", markevery=np.flatnonzero(lone).tolist())
        # Whole at the first and the last step.
        drawn.set_clip_box(TransformedBbox(Bbox([[-1, 0], [2, 1]]), axes.transAxes))
    if len(values) > 1:
        band = axes.fill_between(steps, low, high, linestyle=line, linewidth=0.6, hatch=hatch)
        band.set(facecolor=(color, 0.0 if hatch else 0.18), edgecolor=(color, 0.6))
    return high


def quantiles(values: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Quantiles `[share, step]` over the seeds of `values [seed, step]`, NaN left out.

    `np.nanquantile` takes a hundred times as long, so it sees only the steps that need it.
    """
    found, missing = np.quantile(values, shares, axis=0), np.isnan(values)
    if (some := missing.any(axis=0) & ~missing.all(axis=0)).any():
        found[:, some] = np.nanquantile(values[:, some], shares, axis=0)
    return found


def probe_figure(
    histories: Histories, probe: str, length: int, look: Look = DEFAULT_LOOK
) -> Figure:
    """What a probe recorded at one length, a line for each series; seeds as in a loss figure.

    In a long run each point is the mean over as many steps as make a few hundred points. Zeros,
    which have no place on a logarithmic axis, are left out there.
    """
    rows, count = histories.length == length, histories.train_loss.shape[1]
    window = -(-count // MOST_POINTS)
    middles = (np.arange(-(-count // window)) + 0.5) * window - 0.5
    names = histories.probes[probe]
    values = np.stack([window_means(histories.steps[name][rows], window) for name in names])
    values[~np.isfinite(values)] = np.nan
    above = np.stack([quantiles(one, [0.95]) for one in values])
    above = np.append(above[above > 0], 1.0)
    with look.axes(6.4, 0.66) as (figure, axes):
        if above.max() > 100 * above.min() and not (values < 0).any():
            axes.set_yscale("log")
        for place, name in enumerate(names):
            style = RUN_COLORS[place % len(RUN_COLORS)], RUN_LINES[place % len(RUN_LINES)]
            label = words_of(name.partition(".")[2] or name)
            draw_seeds(axes, middles, values[place], style, label)
        words = "{name}, mean of {window} steps" if window > 1 else "{name}"
        label = look.say(words, name=look.say(probe.replace("_", " ")), window=window)
        finish_step_axes(axes, length, int(rows.sum()), label, look)
        axes.set_xlim(0, max(count - 1, 1))
        zeros = axes.get_yscale() == "log" and (values == 0).any()
        if zeros:
            axes.set_ylim(bottom=np.quantile(values[values > 0], LOWEST) / 10)
        legend_below(figure, look.say("zeros left out") if zeros else "")
    return figure


def norm_figure(histories: Histories, length: int, steps: int, look: Look = DEFAULT_LOOK) -> Figure:
    """Figures 6.8 and 6.9: norms of the recurrent layer's gradients at each of the first steps."""
    rows = histories.length == length
    with look.axes(6.4, 0.69) as (figure, axes):
        for tensor, style in NORM_STYLES.items():
            values = histories.steps[f"{NORM_PROBE}.{tensor}"][rows, :steps]
            draw_seeds(axes, np.arange(values.shape[1]), values, style, tensor)
        finish_step_axes(axes, length, int(rows.sum()), look.say("L2 Norm"), look)
        axes.legend(loc="upper right")
    return figure


def finish_step_axes(axes: Axes, length: int, seeds: int, name: str, look: Look) -> None:
    """Label axes over steps, and say what lines and bands are over several seeds."""
    words = ", median and 5-95 % of {seeds} seeds" if seeds > 1 else ""
    axes.set_title(look.say("length {length}", length=length) + look.say(words, seeds=seeds))
    axes.set(xlabel=look.say("step"), ylabel=name)


def accuracy_figure(results: Results, facts: Facts, look: Look = DEFAULT_LOOK) -> Figure:
    """Figure 6.7: best dev accuracy and test accuracy against the sequence length.

    Several seeds: each a faint point, their mean, and its 95 % bootstrap interval.
    """
    with look.axes(6.4, 0.68) as (figure, axes):
        draw_accuracies(axes, results, facts, look)
        legend_below(figure)
    return figure


def draw_accuracies(axes: Axes, results: Results, facts: Facts, look: Look) -> None:
    """Draw both accuracies; single seeds stand a little to the left (dev) or right (test)."""
    lengths, seeds = results.length, np.unique(results.seed).size
    alpha = np.clip(10 / max(1, seeds), 0.04, 0.3)
    shift = 0.12 * spacing(lengths)
    places = lengths + np.random.default_rng(0).uniform(-0.6, 0.6, len(results)) * shift
    for words, scores, color, style, side in (
        ("best dev", results.best_dev_accuracy, DEV_COLOR, "s--", -shift),
        ("test", results.test_accuracy, TEST_COLOR, "o-", shift),
    ):
        name = look.say(words)
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
    """Add the chance line, labels, limits, and a tick at every length that has room for it."""
    if not math.isnan(facts.chance):
        label = look.say("chance, {chance:.2f}", chance=facts.chance)
        axes.axhline(facts.chance, color="0.4", linestyle=":", linewidth=1.2, label=label)
    axes.set(xlabel=look.say("sequence length"), ylabel=look.say(name), ylim=(0, 1.03))
    places = np.unique(lengths)
    if places.size:
        low, high = places[0] - spacing(places) / 2, places[-1] + spacing(places) / 2
        label = DIGIT_WIDTH * (len(str(places[-1])) + 1) * rcParams["font.size"] / 72  # inches
        room = label * PNG_DPI * (high - low) / axes.get_window_extent().width
        axes.set(xlim=(low, high), xticks=apart(places.tolist(), room))


def apart(places: Sequence[float], least: float) -> list[float]:
    """The first of ascending places, and each that is at least so far from the one before it."""
    found: list[float] = []
    for place in places:
        if not found or place - found[-1] >= least:
            found.append(place)
    return found


def overview_figure(
    histories: Histories, results: Results, facts: Facts, look: Look = DEFAULT_LOOK
) -> Figure:
    """All lengths on one page: losses by epoch, all on one scale, and the accuracies."""
    lengths = np.unique(histories.length)
    columns = min(4, lengths.size + 1, max(1, int((look.width or 12) / 1.6)))
    rows = -(-(lengths.size + 1) // columns)
    with look.applied(2.9 * columns, (2.4 * rows + 0.2) / 2.9 / columns) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        pairs = list(zip(panels, lengths, strict=False))
        common = histories, results
        tops = [draw_losses(axes, *common, n, facts, look, by_epoch=True) for axes, n in pairs]
        for place, (axes, _) in enumerate(pairs):
            axes.set_ylim(0, max(tops))
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_ylabel("" if place % columns else look.say("loss"))
            axes.tick_params(labelleft=place % columns == 0)  # they have one scale
        draw_accuracies(panels[lengths.size], results, facts, look)
        for axes in panels[lengths.size + 1 :]:
            axes.set_axis_off()
        legend_below(figure)
    return figure


def comparison_figure(runs: Mapping[str, Run], look: Look = DEFAULT_LOOK) -> Figure:
    """Test accuracy of several runs against the sequence length: means with 95 % intervals."""
    with look.axes(6.4, 0.66) as (figure, axes):
        for place, (name, run) in enumerate(runs.items()):
            seeds = np.unique(run.results.seed).size
            scored = np.unique(run.results.seed[~np.isnan(run.results.test_accuracy)]).size
            words = "{name} (seeds: {seeds})"
            if scored < seeds:
                words = "{name} (seeds: {scored} of {seeds})"
            label = look.say(words, name=name, seeds=seeds, scored=scored)
            style = {
                "fmt": RUN_MARKERS[place % len(RUN_MARKERS)] + RUN_LINES[place % len(RUN_LINES)],
                "color": RUN_COLORS[place % len(RUN_COLORS)],
                "capsize": 2 + 1.5 * place,  # where intervals cover each other
                "label": words_of(fill(label, LABEL_WIDTH)),  # a formula may be cut
            }
            draw_means(axes, run.results.length, run.results.test_accuracy, **style)
        finish_comparison(axes, runs, look, "test accuracy")
        axes.set_title(look.say("mean over seeds and its 95 % bootstrap interval"))
        legend_below(figure)
    return figure


def pair_figure(runs: Mapping[str, Run], look: Look = DEFAULT_LOOK) -> Figure:
    """Figure 6.12: dev and test accuracy of two runs, such as SRN and LSTM, against the length."""
    with look.axes(6.4, 0.75) as (figure, axes):
        for (name, run), (dev, test) in zip(runs.items(), PAIR_STYLES, strict=True):
            for part, (color, style), scores in (
                ("dev", dev, run.results.best_dev_accuracy),
                ("test", test, run.results.test_accuracy),
            ):
                label = f"{words_of(name)}, {look.say(part)}"
                draw_means(axes, run.results.length, scores, fmt=style, color=color, label=label)
        finish_comparison(axes, runs, look, "accuracy")
        legend_below(figure)
    return figure


def finish_comparison(axes: Axes, runs: Mapping[str, Run], look: Look, name: str) -> None:
    """`finish_accuracy_axes` for several runs; where tasks differ there is no one chance."""
    told = {run.facts for run in runs.values()}
    facts = told.pop() if len(told) == 1 else Facts(chance=math.nan)
    lengths = np.concatenate([run.results.length for run in runs.values()])
    finish_accuracy_axes(axes, lengths, facts, look, name)


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
    low, high, colors = (-5, 5, "RdBu_r") if name == "C" else (0, 1, "magma")
    with look.axes(16, 6 / 16, type_size=16) as (figure, axes):
        image = axes.imshow(
            values, colors, vmin=low, vmax=high, aspect="auto", interpolation="none"
        )
        axes.set_xticks(range(len(inputs)), map(str, inputs))
        axes.set(xlabel=look.say("position"), ylabel=look.say("unit"), title=name)
        figure.colorbar(image, ax=axes, pad=0.01)
    return figure


def section_of(settings: Mapping[str, Any]) -> str | None:
    """The section of the textbook's chapter whose figures a run has; None if it is of none."""
    if settings["task"] != DEFAULTS.task:
        return None
    if settings["optimizer"] == "sgd" and settings["cell"] == "srn":
        return "6.2"
    return {"srn": "6.1", "lstm": "6.3"}.get(settings["cell"])


def figures_of(run: Run, look: Look = DEFAULT_LOOK) -> dict[str, Callable[[], Figure]]:
    """What draws each figure of a run, by the name of its file, which is the textbook's."""
    results, histories, facts, settings = run.results, run.histories, run.facts, run.settings
    section = section_of(settings)
    accuracies = "6.7" if section == "6.1" else "accuracy"
    figures: dict[str, Callable[[], Figure]] = {}
    figures[accuracies] = partial(accuracy_figure, results, facts, look)
    if histories is None:
        return figures
    figures["overview"] = partial(overview_figure, histories, results, facts, look)
    lengths = np.unique(histories.length).tolist()
    losses = {"6.1": "6.6", "6.3": "6.11"}.get(section or "", "loss")
    for length in lengths:
        draw = partial(loss_figure, histories, results, length, facts, look)
        figures[f"{losses}_{length}"] = draw
    for length in lengths:
        for probe in histories.probes:
            figures[f"{probe}_{length}"] = partial(probe_figure, histories, probe, length, look)
        recorded = {f"{NORM_PROBE}.{tensor}" for tensor in NORM_STYLES} <= histories.steps.keys()
        if section == "6.2" and recorded:
            number = "6.8" if settings["clip_norm"] is None else "6.9"
            name = f"{number}_{length}" if len(lengths) > 1 else number
            figures[name] = partial(norm_figure, histories, length, FIRST_STEPS[number], look)
    return figures
