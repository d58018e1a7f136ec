"""The figures of runs: results and histories in, Matplotlib `Figure` objects out.

Colours are the textbook's, and a role has one colour in all figures; line styles and markers differ
as well, for print and colour-blind readers. Missing values are left out.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox, TransformedBbox

from srn_jax.analysis.look import DEFAULT_LOOK, Look, legend_below
from srn_jax.analysis.records import Histories, Variant, loss_stride
from srn_jax.analysis.stats import POSITIVE, SHARE, mean_estimate, score_of
from srn_jax.config import DEFAULTS

TRAIN_COLOR = TEST_COLOR = "#e4007f"  # which are never in the same axes
DEV_COLOR = "#f19ec2"
# Of dev and test: colour, marker and line, and the side on which single seeds stand.
ROLES = ((DEV_COLOR, "s--", -1), (TEST_COLOR, "o-", 1))
FAINT = 0.4  # opacity of a dot, with few seeds
# The palette of Okabe and Ito, made for colour-blind readers, without its yellow.
RUN_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
RUN_LINES = ("-", "--", "-.", ":")
RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Figures 6.8 and 6.9: the recurrent layer's tensors, and the steps that are shown.
NORM_PROBE = "gradient_norm"
NORM_STYLES = {"W": ("#e4007f", "-"), "U": ("#f19ec2", "-."), "b": ("#000000", "--")}
FIRST_STEPS = {"6.8": 40, "6.9": 100}
MOST_POINTS = 400  # of a line over steps, each a mean over some steps in long runs
PANEL_POINTS = 130  # of a line in a panel of the overview
LOWEST = 0.05  # a logarithmic axis with zeros to leave out begins a decade below this quantile
WIDE = 30  # times the smallest value that the largest may be on a linear axis of errors
LETTER_WIDTH = 0.64  # of a tick's label, in units of the type's size


class Scores(NamedTuple):
    """Two columns of results, what they are called in a legend, and both together on an axis."""

    dev: str
    test: str
    dev_name: str
    test_name: str
    name: str


ACCURACIES = Scores("best_dev_accuracy", "test_accuracy", "best dev", "test", "accuracy")
ERRORS = Scores("dev_loss", "test_loss", "dev", "test", "error (loss)")


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn; templates have a caption for each kind."""

    kind: str
    draw: Callable[[], Figure]
    length: int | None = None  # of which it is, if of one


@dataclass(frozen=True)
class Gates:
    """What the gates of one network do along one sequence."""

    seed: int
    symbols: Sequence[Any]  # [position]
    values: Mapping[str, np.ndarray]  # [unit, position], by the gate's name


def history_of(variant: Variant) -> Histories:
    """The histories of a variant that has them."""
    if variant.histories is None:
        raise ValueError(f"{variant.name} has no histories")
    return variant.histories


def over_seeds(seeds: Sequence[int]) -> str:
    """What a line and a band are, or which seed a line is of."""
    several = len(seeds) > 1
    return f"median, 5-95 % of {len(seeds)} seeds" if several else f"seed {seeds[0]}"


@contextmanager
def framed(look: Look, title: str, ratio: float = 0.64) -> Iterator[tuple[Figure, Axes]]:
    """A figure and its only axes, a title that fits above them and a legend of all below."""
    with look.axes(6.4, ratio) as (figure, axes):
        yield figure, axes
        letter = LETTER_WIDTH * rcParams["font.size"] / 72  # inches
        axes.set_title(fill(title, max(20, int(0.85 * figure.get_figwidth() / letter))))
        legend_below(figure)


def thinned(count: int) -> np.ndarray:
    """The places of at most so many of a row of values, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))


def loss_figure(variant: Variant, length: int, look: Look = DEFAULT_LOOK) -> Figure:
    """Figures 6.6 and 6.11: training and dev loss of one length; of several seeds the median."""
    histories = history_of(variant)
    rows = variant.results[variant.results["length"] == length]
    diverged = f", {rows['diverged'].sum()} diverged" if rows["diverged"].any() else ""
    title = f"length {length}: {over_seeds(rows['seed'].tolist())}{diverged}"
    with framed(look, title, 0.6) as (figure, axes):
        drawn = np.flatnonzero(histories.loss_steps % loss_stride(histories.steps) == 0)
        drawn = drawn[thinned(drawn.size)]
        train = histories.loss_steps[drawn], histories.train_loss[:, drawn]
        axes.set(ylim=(0, draw_losses(axes, variant, length, *train)), ylabel="loss")
    return figure


def draw_losses(
    axes: Axes, variant: Variant, length: int, train_steps: np.ndarray, train_loss: np.ndarray
) -> float:
    """Draw the losses of a length; returns a height, which no exploding seed can lift far."""
    histories, chance = history_of(variant), variant.facts.chance_loss
    rows, evaluations = histories.length == length, thinned(len(histories.eval_steps))
    dev = histories.eval_steps[evaluations], histories.dev_loss[:, evaluations]
    drawn: list[Any] = [[0.0 if math.isnan(chance) else chance]]
    for name, (steps, values), style, hatch in (
        ("train", (train_steps, train_loss), (TRAIN_COLOR, "-"), None),
        ("dev", dev, (DEV_COLOR, "--"), "////"),
    ):
        drawn.append(draw_seeds(axes, steps, values[rows], style, name, hatch))
    axes.set(xlim=(0, max(histories.steps - 1, 1)), xlabel="step")
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
    """Draw `values [seed, step]`: one seed's line, or the median and the 5-95 % band of several."""
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
        band.set(facecolor=(color, 0.0 if hatch else 0.18), edgecolor=(color, 0.6), label=label)
    return high


def quantiles(values: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Quantiles `[share, step]` of `values [seed, step]`; `nanquantile` is slow."""
    found, missing = np.quantile(values, shares, axis=0), np.isnan(values)
    if (some := missing.any(axis=0) & ~missing.all(axis=0)).any():
        found[:, some] = np.nanquantile(values[:, some], shares, axis=0)
    return found


def window_means(values: np.ndarray, window: int) -> np.ndarray:
    """Means of `values [row, step]` over windows of steps, the last of which may be shorter."""
    starts = np.arange(0, values.shape[1], window)
    return np.add.reduceat(values, starts, axis=1) / np.diff(starts, append=values.shape[1])


def probe_figure(variant: Variant, probe: str, length: int, look: Look = DEFAULT_LOOK) -> Figure:
    """What a probe recorded at one length, a line for each series, in windows in a long run."""
    histories = history_of(variant)
    rows, names = histories.length == length, histories.series[probe]
    window = -(-histories.steps // MOST_POINTS)
    middles = (np.arange(-(-histories.steps // window)) + 0.5) * window - 0.5
    values = np.stack([window_means(histories.probes[name][rows], window) for name in names])
    values[~np.isfinite(values)] = np.nan
    above = np.stack([quantiles(one, [0.95]) for one in values])
    above = np.append(above[above > 0], 1.0)
    wide = above.max() > 100 * above.min() and not (values < 0).any()
    label = probe.replace("_", " ") + (f", mean of {window} steps" if window > 1 else "")
    label += "\n(zeros left out)" if wide and (values == 0).any() else ""
    title = f"length {length}: {over_seeds(histories.seed[rows].tolist())}"
    with framed(look, title, 0.66) as (figure, axes):
        if wide:
            logarithmic(axes)
            bottom = np.quantile(values[values > 0], LOWEST) / 10 if "zeros" in label else None
        for place, name in enumerate(names):
            style = RUN_COLORS[place % len(RUN_COLORS)], RUN_LINES[place % len(RUN_LINES)]
            draw_seeds(
                axes,
                middles,
                values[place],
                style,
                name.partition(".")[2] or name.replace("_", " "),
            )
        axes.set(xlim=(0, max(histories.steps - 1, 1)), xlabel="step", ylabel=label)
        if wide:
            axes.set_ylim(bottom=bottom)
    return figure


def logarithmic(axes: Axes) -> None:
    """Make the upright axis logarithmic, its labels plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter("")


def norm_figure(variant: Variant, length: int, steps: int, look: Look = DEFAULT_LOOK) -> Figure:
    """Figures 6.8 and 6.9: norms of the recurrent layer's gradients at each of the first steps."""
    histories = history_of(variant)
    rows = histories.length == length
    title = f"length {length}: {over_seeds(histories.seed[rows].tolist())}"
    with framed(look, title, 0.69) as (figure, axes):
        for tensor, style in NORM_STYLES.items():
            values = histories.probes[f"{NORM_PROBE}.{tensor}"][rows, :steps]
            draw_seeds(axes, np.arange(values.shape[1]), values, style, tensor)
        axes.set(xlabel="step", ylabel="L2 Norm")
    return figure


def score_figure(variant: Variant, scores: Scores, look: Look = DEFAULT_LOOK) -> Figure:
    """Figure 6.7, and the same for errors: each seed a faint point, their mean and its interval."""
    with framed(look, over_lengths([variant])) as (figure, axes):
        draw_scores(axes, variant, scores)
        finish_lengths(axes, [variant], scores)
    return figure


def over_lengths(variants: Sequence[Variant]) -> str:
    """What points and their bars are in figures against the sequence length."""
    seeds = {tuple(np.unique(variant.results["seed"])) for variant in variants}
    counts = {len(one) for one in seeds}
    if counts == {1}:
        (seed, *more) = {one[0] for one in seeds}
        return "single seeds" if more else f"seed {seed}"
    words = f" of {counts.pop()} seeds" if len(counts) == 1 else " over seeds"
    return f"mean{words} and its 95 % interval"


def draw_scores(axes: Axes, variant: Variant, scores: Scores) -> None:
    """Draw dev and test scores; single seeds stand a little to the left (dev) or right (test)."""
    results = variant.results
    lengths, seeds = results["length"].to_numpy(), results["seed"].nunique()
    shift = 0.12 * spacing(lengths)
    places = lengths + np.random.default_rng(0).uniform(-0.6, 0.6, len(results)) * shift
    for column, name, (color, style, side) in zip(scores[:2], scores[2:4], ROLES, strict=True):
        if seeds > 1:
            dots: Any = {"alpha": FAINT / max(1.0, seeds / 40) ** 0.35, "marker": style[0]}
            dots |= {"linewidths": 0, "zorder": 1, "label": "single seeds"}
            axes.scatter(
                places + side * shift, results[column], 5 if seeds > 200 else 8, color, **dots
            )
        draw_means(axes, results, column, fmt=style, color=color, label=name)


def draw_means(axes: Axes, results: pd.DataFrame, column: str, **style: Any) -> None:
    """Draw the mean of a column at each length, with its interval if it has one."""
    limits = SHARE if "accuracy" in column else POSITIVE
    found = {n: mean_estimate(one[column], limits) for n, one in results.groupby("length")}
    means, low, high = np.array([[e.value, e.low, e.high] for e in found.values()]).T
    errors = np.array([means - low, high - means])
    known = None if np.isnan(errors).all() else errors
    axes.errorbar(np.array([*found]), means, known, markeredgecolor="white", **style)


def spacing(lengths: np.ndarray) -> float:
    """The smallest distance between two sequence lengths, 1 if there are not two."""
    places = np.unique(lengths)
    return float(np.diff(places).min()) if places.size > 1 else 1.0


def finish_lengths(axes: Axes, variants: Sequence[Variant], scores: Scores) -> None:
    """Add what an answer that knows nothing has, labels, limits, and ticks that have room."""
    accuracies = scores is ACCURACIES
    chance = {one.facts.chance if accuracies else one.facts.chance_loss for one in variants}
    if len(chance) == 1 and not math.isnan(value := chance.pop()):
        words = f"{'chance' if accuracies else 'knowing nothing'}, {value:.2f}"
        axes.axhline(value, color="0.4", linestyle=":", linewidth=1.2, label=words)
    known = np.concatenate([one.results[scores.test].dropna() for one in variants])
    if not accuracies and known.size and 0 < WIDE * known.min() < known.max():
        logarithmic(axes)
    else:
        axes.set_ylim(0, 1.03 if accuracies else None)
    places = np.unique(np.concatenate([one.results["length"] for one in variants]))
    low, high = places[0] - spacing(places) / 2, places[-1] + spacing(places) / 2
    label = LETTER_WIDTH * (len(str(places[-1])) + 1) * rcParams["font.size"] / 72  # inches
    room = label * axes.figure.dpi * (high - low) / axes.get_window_extent().width
    ticks = [places[0]]
    for place in places[1:]:
        ticks += [place] if place - ticks[-1] >= room else []
    axes.set(xlim=(low, high), xticks=ticks, xlabel="sequence length", ylabel=scores.name)


def overview_figure(variant: Variant, look: Look = DEFAULT_LOOK) -> Figure:
    """All lengths on one page: losses by epoch, all on one scale, and the accuracies."""
    histories = history_of(variant)
    lengths = np.unique(histories.length)
    columns = min(4, lengths.size + 1, max(1, int((look.width or 12) / 1.6)))
    rows = -(-(lengths.size + 1) // columns)
    window = epochs_a_point(histories)
    steps = (np.arange(-(-histories.epoch_loss.shape[1] // window)) + 0.5) * window
    steps = np.minimum(steps * histories.steps_an_epoch, histories.steps - 1)
    train = steps, window_means(histories.epoch_loss, window)
    with look.applied(2.9 * columns, (2.3 * rows + 0.6) / 2.9 / columns) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        pairs = list(zip(panels, lengths.tolist(), strict=False))
        top = max(draw_losses(axes, variant, length, *train) for axes, length in pairs)
        for place, (axes, length) in enumerate(pairs):
            axes.set(ylim=(0, top), title=f"length {length}")
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_ylabel("" if place % columns else "loss")
            axes.tick_params(labelleft=place % columns == 0)  # they have one scale
        last = panels[lengths.size]
        draw_scores(last, variant, ACCURACIES)
        finish_lengths(last, [variant], ACCURACIES)
        last.set_title(over_lengths([variant]).partition(" and")[0])
        for axes in panels[lengths.size + 1 :]:
            axes.set_axis_off()
        legend_below(figure, f"losses: {over_seeds(np.unique(histories.seed).tolist())}")
    return figure


def epochs_a_point(histories: Histories) -> int:
    """How many epochs a point of the overview is the mean of."""
    return -(-histories.epoch_loss.shape[1] // PANEL_POINTS)


def comparison_figure(variants: Mapping[str, Variant], look: Look = DEFAULT_LOOK) -> Figure:
    """The test score of variants against the sequence length: means with 95 % intervals."""
    several = [*variants.values()]
    scores = ERRORS if score_of(several) == ERRORS.test else ACCURACIES
    seeds = {name: one.results["seed"].nunique() for name, one in variants.items()}
    with framed(look, over_lengths(several)) as (figure, axes):
        for place, (name, variant) in enumerate(variants.items()):
            words = f" ({seeds[name]} seeds)" if len(set(seeds.values())) > 1 else ""
            fmt = RUN_MARKERS[place % 7] + RUN_LINES[place % 4]
            style: dict[str, Any] = {"fmt": fmt, "label": name + words}
            style |= {"color": RUN_COLORS[place % 7], "capsize": 2 + 1.5 * min(place, 3)}
            draw_means(axes, variant.results, scores.test, **style)
        finish_lengths(axes, several, scores)
        axes.set_ylabel(f"test {scores.name}")
    return figure


def pair_figure(variants: Mapping[str, Variant], look: Look = DEFAULT_LOOK) -> Figure:
    """Figure 6.12: a colour is a role, as in all figures, and a marker and line a variant."""
    with framed(look, over_lengths([*variants.values()]), 0.7) as (figure, axes):
        for (name, variant), fmt in zip(variants.items(), ("o-", "^-."), strict=True):
            results = variant.results
            for column, (color, *_) in zip(ACCURACIES[:2], ROLES, strict=True):
                role = "test" if column == ACCURACIES.test else "dev"
                draw_means(axes, results, column, fmt=fmt, color=color, label=f"{name}, {role}")
        finish_lengths(axes, [*variants.values()], ACCURACIES)
    return figure


def gate_figure(
    name: str, gates: Gates, look: Look = DEFAULT_LOOK, label: str = "network"
) -> Figure:
    """Figure 6.13: a gate (I, F, O), on 0..1, or the state C, on -5..5, as a sequence goes by."""
    low, high, colors = (-5, 5, "RdBu_r") if name == "C" else (0, 1, "magma")
    kind = "internal state" if name == "C" else "gate"
    with look.axes(16, 6 / 16, type_size=16) as (figure, axes):
        shape: Any = {"vmin": low, "vmax": high, "aspect": "auto", "interpolation": "none"}
        image = axes.imshow(gates.values[name], colors, **shape)
        axes.set_xticks(range(len(gates.symbols)), map(str, gates.symbols))
        axes.set(xlabel="symbol read at each position", ylabel="unit")
        length = len(gates.symbols)
        axes.set_title(f"{kind} {name} of the {label}, length {length}, seed {gates.seed}")
        figure.colorbar(image, ax=axes, pad=0.01)
    return figure


def section_of(settings: Mapping[str, Any]) -> str | None:
    """The section of the textbook's chapter whose figures a run has; None if it is of none."""
    if settings.get("task", DEFAULTS.task) != DEFAULTS.task:
        return None
    if settings.get("optimizer") == "sgd" and settings.get("cell") == "srn":
        return "6.2"
    return {"srn": "6.1", "lstm": "6.3"}.get(str(settings.get("cell")))


def figures_of(variant: Variant, look: Look = DEFAULT_LOOK) -> dict[str, Drawing]:
    """The figures of a variant in the order in which they are read, by their files' names."""
    section, histories = section_of(variant.settings), variant.histories
    name = "6.7" if section == "6.1" else "accuracy"
    figures = {name: Drawing("accuracy", partial(score_figure, variant, ACCURACIES, look))}
    if variant.facts.better == "loss":
        figures["error"] = Drawing("error", partial(score_figure, variant, ERRORS, look))
    if histories is None:
        return figures
    figures["overview"] = Drawing("overview", partial(overview_figure, variant, look))
    lengths = np.unique(histories.length).tolist()
    losses = {"6.1": "6.6", "6.3": "6.11"}.get(section or "", "loss")
    for n in lengths:
        figures[f"{losses}_{n}"] = Drawing("loss", partial(loss_figure, variant, n, look), n)
    norms = {f"{NORM_PROBE}.{tensor}" for tensor in NORM_STYLES} <= {*histories.probes}
    for n in lengths:
        for probe in histories.series:
            draw = partial(probe_figure, variant, probe, n, look)
            figures[f"{probe}_{n}"] = Drawing("probe", draw, n)
        if section == "6.2" and norms:
            number = "6.8" if variant.settings.get("clip_norm") is None else "6.9"
            draw = partial(norm_figure, variant, n, FIRST_STEPS[number], look)
            figures[f"{number}_{n}" if len(lengths) > 1 else number] = Drawing("norms", draw, n)
    return figures


def figures_of_gates(
    variant: Variant, gates: Gates, look: Look = DEFAULT_LOOK
) -> dict[str, Drawing]:
    """Figure 6.13, one of each gate."""
    draw = {name: partial(gate_figure, name, gates, look, variant.label) for name in gates.values}
    return {f"6.13_{name}": Drawing("gate", draw[name]) for name in draw}


def figures_of_several(
    variants: Mapping[str, Variant], look: Look = DEFAULT_LOOK
) -> dict[str, Drawing]:
    """The figures that compare variants, by the names of their files."""
    found = {"comparison": Drawing("comparison", partial(comparison_figure, variants, look))}
    if [section_of(one.settings) for one in variants.values()] == ["6.1", "6.3"]:
        found["6.12"] = Drawing("pair", partial(pair_figure, variants, look))
    return found
