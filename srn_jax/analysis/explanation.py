"""What was found out about memory, as tables, figures and a page; JAX stays asleep.

Every number of the page is a row of `summary.csv`, and each of those the mean over networks of a
column of `networks.csv` with its interval. The page says that something is above or below a
reference only where the whole 95 % interval is; everything else is listed as not decided.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from srn_jax.analysis.figures import RUN_COLORS, draw_seeds, legend_below
from srn_jax.analysis.look import DEFAULT_LOOK, Look, save_figure
from srn_jax.analysis.results import write_atomically
from srn_jax.analysis.summary import (
    UNKNOWN,
    Interval,
    mean_of,
    percentile_interval,
    resampled_means,
    wilson_interval,
)
from srn_jax.analysis.tables import csv_table, interval_text, number

STAGES = ("start", "best", "last")
START, BEST, LAST = range(3)
FATES = ("shrinks", "keeps", "blows up")
FATE_DECADES = 1.0  # a perturbation shrinks, or blows up, if it changes more than tenfold
ALL, SOLVERS, OTHERS, DIFFERENCE = "all", "solvers", "others", "solvers - others"
PAGE = "explanation.md"


@dataclass(frozen=True)
class Explanation:
    """What was measured of each network; axes as named, NaN where there is no such position.

    Of a cell that is not of the family, `gradient`, `jacobian` and `product` are all NaN.
    """

    length: np.ndarray  # [experiment]
    seed: np.ndarray  # [experiment]
    targets: np.ndarray  # [target]: the names of what was looked for
    is_answer: np.ndarray  # [target]: whether it is what the network must answer
    chance: np.ndarray  # [experiment, target]: accuracy of the commonest training label
    accuracy: np.ndarray  # [stage, experiment]: of the network's own answers, on test sequences
    readout: np.ndarray  # [stage, experiment, target, position]: of linear readouts of the state
    shuffled: np.ndarray  # [stage, experiment, target, position]: trained on shuffled labels
    gradient: np.ndarray  # [stage, experiment, position]: norm of dL/ds_t
    jacobian: np.ndarray  # [stage, experiment, position - 1, value]: log10, largest first
    product: np.ndarray  # [stage, experiment, value]: log10, from the second position to the last
    tested: np.ndarray  # [tested length]
    unseen: np.ndarray  # [experiment, tested length]: accuracy of the best parameters there
    diverged: int  # experiments that were left out
    threshold: float  # a solver's test accuracy is above it

    @property
    def solver(self) -> np.ndarray:
        """Which networks reached the threshold, `[experiment]`."""
        return self.accuracy[BEST] > self.threshold

    def groups(self, length: int) -> dict[str, np.ndarray]:
        """The networks of a length, all and by what they reached: booleans `[experiment]`."""
        rows = self.length == length
        return {ALL: rows, SOLVERS: rows & self.solver, OTHERS: rows & ~self.solver}

    @property
    def lengths(self) -> list[int]:
        """The lengths that networks were trained on, shortest first."""
        return np.unique(self.length).tolist()


@dataclass(frozen=True)
class Row:
    """The mean of a measure over some networks of one length."""

    measure: str
    stage: str
    length: int
    group: str
    networks: int
    mean: float
    interval: Interval  # 95 %: bootstrap over seeds, of a share Wilson's


def measures(found: Explanation) -> dict[str, np.ndarray]:
    """What is known of each network at each stage as one number: `[stage, experiment]` by name."""
    last = np.stack([found.readout[:, e, :, n - 1] for e, n in enumerate(found.length)], axis=1)
    values = {
        "accuracy": found.accuracy,
        "gradient slope": slopes(found.gradient),
        "perturbation": found.product[..., 0],
    }
    for n, name in enumerate(found.targets):
        values[f"readout of {name}"] = last[..., n]
        values[f"readout of {name} above chance"] = last[..., n] - found.chance[:, n]
        values[f"readout of {name} since start"] = last[..., n] - last[START, :, n]
    if found.is_answer.any():
        values["readout above answer"] = last[..., found.is_answer.argmax()] - found.accuracy
    own = found.tested == found.length[:, None]
    if found.tested.size > 1:
        elsewhere = np.where(own, np.nan, found.unseen)
        change = np.nanmean(elsewhere, axis=1) - found.unseen[own]
        values["accuracy at other lengths"] = np.full(found.accuracy.shape, np.nan)
        values["accuracy at other lengths"][BEST] = change
    return values


def slopes(gradient: np.ndarray) -> np.ndarray:
    """The change of log10 of a norm `[..., position]` a step back in time, by least squares.

    From the last position back to the second; NaN where fewer than two norms are above zero.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.log10(gradient[..., 1:].astype(float))
        known = np.isfinite(decades)
        time = np.where(known, np.arange(decades.shape[-1]), 0.0)
        count = known.sum(axis=-1, keepdims=True)
        centred = np.where(known, time - time.sum(axis=-1, keepdims=True) / count, 0.0)
        product = (centred * np.where(known, decades, 0)).sum(axis=-1)
        return -product / (centred**2).sum(axis=-1)


def fates(product: np.ndarray) -> np.ndarray:
    """What becomes of the perturbation that grows most: an index into `FATES`, -1 if unknown.

    Takes log10 of singular values `[..., value]`, largest first.
    """
    largest = product[..., 0]
    fate = 1 + (largest > FATE_DECADES).astype(int) - (largest < -FATE_DECADES)
    return np.where(np.isnan(largest), -1, fate)


def mean_rows(values: np.ndarray) -> list[tuple[int, float, Interval]]:
    """Number, mean and bootstrap interval of each column of `values [seed, column]`, NaN left out."""
    counts = (~np.isnan(values)).sum(axis=0)
    samples = resampled_means(values).T if len(values) else np.empty((values.shape[1], 0))
    return [
        (int(n), mean_of(column[~np.isnan(column)]), percentile_interval(s) if n > 1 else UNKNOWN)
        for n, column, s in zip(counts, values.T, samples, strict=True)
    ]


def difference_rows(
    values: np.ndarray, first: np.ndarray
) -> list[tuple[int, float, Interval]]:
    """The same of the mean of the rows `first` minus that of the others, resampled together."""
    sides = [np.where(rows[:, None], values, np.nan) for rows in (first, ~first)]
    samples = [resampled_means(side).T for side in sides]
    found = []
    for column, (a, b) in enumerate(zip(*samples, strict=True)):
        one, other = (side[:, column][~np.isnan(side[:, column])] for side in sides)
        enough = min(one.size, other.size) > 1
        interval = percentile_interval(a - b) if enough else UNKNOWN
        found.append((one.size + other.size, mean_of(one) - mean_of(other), interval))
    return found


def summary_rows(found: Explanation) -> list[Row]:
    """Every measure at every stage, of all networks of a length, of solvers and of others."""
    columns = [(name, s) for name in measures(found) for s in range(len(STAGES))]
    table = np.stack([measures(found)[name][s] for name, s in columns], axis=1).astype(float)
    fate = fates(found.product)
    rows = []
    for length in found.lengths:
        groups = found.groups(length)
        told = {name: mean_rows(table[members]) for name, members in groups.items()}
        told[DIFFERENCE] = difference_rows(table[groups[ALL]], found.solver[groups[ALL]])
        for group, values in told.items():
            for (name, stage), (count, mean, interval) in zip(columns, values, strict=True):
                if count and not np.isnan(mean):
                    rows.append(Row(name, STAGES[stage], length, group, count, mean, interval))
        for group, members in groups.items():
            for stage, (number_, name) in [(s, f) for s in range(3) for f in enumerate(FATES)]:
                known = int((fate[stage, members] >= 0).sum())
                if known:
                    times = int((fate[stage, members] == number_).sum())
                    share = (known, times / known, wilson_interval(times, known))
                    rows.append(Row(name, STAGES[stage], length, group, *share))
    return rows


def curves(found: Explanation) -> dict[str, np.ndarray]:
    """What is known at each position: `[stage, experiment, position]` by name."""
    with np.errstate(divide="ignore"):
        decades = np.log10(found.gradient)
    values = {"log10 gradient norm": np.where(np.isinf(decades), np.nan, decades)}
    first = np.full((*found.gradient.shape[:2], 1), np.nan)
    values["log10 largest singular value"] = np.concatenate(
        [first, found.jacobian[..., 0]], axis=-1
    )
    for n, name in enumerate(found.targets):
        values[f"readout of {name}"] = found.readout[:, :, n]
        values[f"shuffled {name}"] = found.shuffled[:, :, n]
    return values


def curves_csv(found: Explanation) -> str:
    """A row a curve, stage, length, group and position: mean, its interval, and quantiles."""
    values = curves(found)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    head = ("measure", "stage", "length", "group", "position", "networks", "mean", "interval_low")
    writer.writerow([*head, "interval_high", "median", "quantile_05", "quantile_95"])
    for length in found.lengths:
        for group, members in found.groups(length).items():
            if not members.any():
                continue
            places = [(n, s, t) for n in values for s in range(len(STAGES)) for t in range(length)]
            table = np.stack([values[n][s, members, t] for n, s, t in places], axis=1).astype(float)
            for (name, stage, t), column, row in zip(
                places, table.T, mean_rows(table), strict=True
            ):
                known = column[~np.isnan(column)]
                if known.size:
                    count, mean, interval = row
                    ends = [interval.low, interval.high, *np.quantile(known, [0.5, 0.05, 0.95])]
                    ends = ["" if np.isnan(end) else float(end) for end in ends]
                    writer.writerow(
                        [name, STAGES[stage], length, group, t + 1, count, mean, *ends]
                    )
    return text.getvalue()


def networks_csv(found: Explanation) -> str:
    """A row a stage and network, with every measure of it."""
    values, fate = measures(found), fates(found.product)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stage", "length", "seed", "solver", *values, "fate"])
    for s, stage in enumerate(STAGES):
        for e in range(len(found.length)):
            row = [float(column[s, e]) for column in values.values()]
            told = ["" if np.isnan(value) else value for value in row]
            named = FATES[fate[s, e]] if fate[s, e] >= 0 else ""
            head = [stage, found.length[e], found.seed[e], bool(found.solver[e])]
            writer.writerow([*head, *told, named])
    return text.getvalue()


def unseen_rows(found: Explanation) -> list[Row]:
    """Accuracy of the best networks of each length at every length; `stage` is the one tested."""
    rows = []
    for length in found.lengths:
        told = mean_rows(found.unseen[found.length == length])
        for tested, row in zip(found.tested.tolist(), told, strict=True):
            rows.append(Row("accuracy", str(tested), length, ALL, *row))
    return rows


def verdict(rows: Sequence[Row], reference: float, below: str, above: str) -> list[str]:
    """Sentences in which each row is where its interval puts it against a reference."""
    groups: dict[str, list[str]] = {below: [], above: [], "The data does not decide": []}
    for row in rows:
        low, high = row.interval.low, row.interval.high
        side = below if high < reference else above if low > reference else "The data does not decide"
        told = f"{number(row.mean)} ({interval_text(row.interval)}) at length {row.length}"
        if np.isnan(low):
            told = f"length {row.length} (too few networks)"
        groups[side].append(told)
    return [f"{words}: {', '.join(told)}." for words, told in groups.items() if told]


def page(found: Explanation, question: str, notes: Sequence[str] = ()) -> str:
    """The page: a paragraph a finding, written from the rows of the summary."""
    rows = summary_rows(found)

    def paragraph(
        title: str, measure: str, stage: int, below: str, above: str, group=ALL, reference=0.0
    ) -> list[str]:
        chosen = [
            r for r in rows if (r.measure, r.stage, r.group) == (measure, STAGES[stage], group)
        ]
        sentences = verdict(chosen, reference, below, above)
        return [f"**{title}** " + " ".join(sentences), ""] if sentences else []

    lines = ["# Why it forgets", ""]
    lines += [
        f"{len(found.length)} networks were asked for {question}, {found.diverged} more diverged "
        "and are left out. Numbers are means over seeds with 95 % intervals; a claim is made only "
        "where the whole interval supports it. A slope is in decades a step back in time, a "
        "perturbation in decades from the second position to the last, a readout is the accuracy "
        "of a linear readout of the last state on test sequences.",
        "",
        *[text for note in notes for text in (note, "")],
        "## Gradients through time",
        "",
    ]
    for stage, words in enumerate(("Before training", "At the best step", "At the end")):
        below, above = "The gradient shrinks on its way back", "The gradient grows on its way back"
        lines += paragraph(f"{words}.", "gradient slope", stage, below, above)
    lines += ["## What becomes of a perturbation", ""]
    for stage, words in enumerate(("Before training", "At the best step", "At the end")):
        below, above = "What grows most shrinks all the same", "Some perturbation grows"
        lines += paragraph(f"{words}.", "perturbation", stage, below, above)
    for fate in FATES:
        title = f"Share of networks in which a perturbation {fate}, at the best step."
        lines += paragraph(title, fate, BEST, "Fewer than half", "More than half", reference=0.5)
    lines += ["## What is still in the last state", ""]
    for name in found.targets:
        title = f"Readout of {name} above chance, at the best step."
        measure = f"readout of {name} above chance"
        lines += paragraph(title, measure, BEST, "Below chance", "It is still there")
        title = f"Readout of {name}, at the best step against before training."
        measure = f"readout of {name} since start"
        lines += paragraph(title, measure, BEST, "Training lost some", "Training kept more")
    lines += paragraph(
        "State or answer: the readout against the network's own answers, at the best step.",
        "readout above answer",
        BEST,
        "The network gets more out of its state than the readout",
        "The state holds more than the network answers",
    )
    lines += [f"## Solvers (test accuracy above {found.threshold:g}) and others", ""]
    compared = ["gradient slope", "perturbation", *(f"readout of {name}" for name in found.targets)]
    for stage, words in ((START, "before training"), (BEST, "at the best step")):
        for measure in compared:
            title = f"{measure.capitalize()}, solvers less others, {words}."
            lines += paragraph(title, measure, stage, "Lower", "Higher", DIFFERENCE)
    lines += ["## Other lengths", ""]
    lines += paragraph(
        "Accuracy at the other lengths of the run, less that at the network's own.",
        "accuracy at other lengths",
        BEST,
        "Worse",
        "Better",
    )
    return "\n".join(lines)


def panels(
    found: Explanation, draw: Callable[[Axes, int], None], label: str, across: str, look: Look
) -> Figure:
    """A panel a length, each drawn by `draw(axes, length)`."""
    lengths = found.lengths
    columns = min(4, len(lengths))
    with look.applied(2.9 * max(2, columns)) as width:
        rows = -(-len(lengths) // columns)
        figure = look.figure(width, width / max(2, columns) * (0.85 * rows + 0.35))
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes, length in zip(grid, lengths, strict=False):
            draw(axes, length)
            axes.set_title(look.say("length {length}", length=length))
            axes.set_xlabel(look.say(across))
        for axes in grid[len(lengths) :]:
            axes.set_axis_off()
        for axes in grid[:: columns]:
            axes.set_ylabel(look.say(label))
        legend_below(figure)
    return figure


def stage_figure(found: Explanation, values: np.ndarray, label: str, across: str, look: Look):
    """Median and 5-95 % band over seeds of `values [stage, experiment, place]`, a line a stage."""

    def draw(axes: Axes, length: int) -> None:
        for stage, name in enumerate(STAGES):
            rows = values[stage, found.length == length]
            style = {"color": RUN_COLORS[stage], "linestyle": ("-", "--", "-.")[stage]}
            draw_seeds(axes, np.arange(1, rows.shape[1] + 1), rows, label=look.say(name), **style)

    return panels(found, draw, label, across, look)


def forgetting_figure(found: Explanation, look: Look, by_solver: bool = False) -> Figure:
    """Readout accuracy against the position: of all networks, or of solvers and others."""

    def draw(axes: Axes, length: int) -> None:
        groups = found.groups(length)
        shown = {(SOLVERS, BEST): "-", (OTHERS, BEST): "--"}
        shown = shown if by_solver else {(ALL, BEST): "-", (ALL, START): ":"}
        for n, target in enumerate(found.targets):
            for (group, stage), line in shown.items():
                rows = found.readout[stage, groups[group], n]
                if len(rows):
                    name = group if by_solver else STAGES[stage]
                    style = {"color": RUN_COLORS[n % 7], "linestyle": line}
                    label = f"{target}, {look.say(name)}"
                    draw_seeds(axes, np.arange(1, rows.shape[1] + 1), rows, label=label, **style)
        chance = found.chance[groups[ALL]].mean()
        axes.axhline(chance, color="0.4", linestyle=":", label=look.say("chance, {chance:.2f}", chance=chance))
        axes.set_ylim(0, 1.03)

    return panels(found, draw, "accuracy of a linear readout", "position", look)


def unseen_figure(found: Explanation, look: Look) -> Figure:
    """Mean accuracy by the length trained on and the length tested on, the diagonal framed."""
    lengths = found.lengths
    table = np.stack([np.nanmean(found.unseen[found.length == n], axis=0) for n in lengths])
    with look.applied(5.0) as width:
        figure = look.figure(width, 0.85 * width)
        axes = figure.add_subplot()
        image = axes.imshow(table, "viridis", vmin=0, vmax=1, origin="lower")
        for row, column in np.ndindex(table.shape):
            color = "white" if table[row, column] < 0.6 else "black"
            axes.text(column, row, f"{table[row, column]:.2f}", color=color, ha="center", va="center")
            if found.tested[column] == lengths[row]:
                box: Any = {"fill": False, "edgecolor": "#d55e00", "linewidth": 2.5}
                axes.add_patch(_rectangle(column, row, box))
        axes.set_xticks(range(found.tested.size), map(str, found.tested))
        axes.set_yticks(range(len(lengths)), map(str, lengths))
        axes.set(xlabel=look.say("tested on length"), ylabel=look.say("trained on length"))
        figure.colorbar(image, ax=axes, label=look.say("test accuracy"))
    return figure


def _rectangle(column: int, row: int, style: dict[str, Any]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, **style)


def figures_of(found: Explanation, look: Look = DEFAULT_LOOK) -> dict[str, Callable[[], Figure]]:
    """What draws each figure, by the name of its file."""
    drawn: dict[str, Callable[[], Figure]] = {}
    values = curves(found)
    if not np.isnan(found.gradient).all():
        for name, stem in (
            ("log10 gradient norm", "gradient_through_time"),
            ("log10 largest singular value", "jacobian"),
        ):
            drawn[stem] = partial(stage_figure, found, values[name], name, "position", look)
        label = "log10 singular value, second position to last"
        drawn["perturbation"] = partial(
            stage_figure, found, found.product, label, "number of the value", look
        )
    drawn["forgetting"] = partial(forgetting_figure, found, look)
    if any(g[SOLVERS].any() and g[OTHERS].any() for g in map(found.groups, found.lengths)):
        drawn["solvers_and_others"] = partial(forgetting_figure, found, look, True)
    if found.tested.size > 1:
        drawn["unseen_lengths"] = partial(unseen_figure, found, look)
    return drawn


def write_explanation(
    found: Explanation,
    folder: Path,
    question: str,
    notes: Sequence[str] = (),
    look: Look = DEFAULT_LOOK,
) -> list[Path]:
    """Write arrays, tables, figures and the page into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, stage=STAGES, **dataclasses.asdict(found))
    content = {
        "explanation.npz": arrays.getvalue(),
        "networks.csv": networks_csv(found).encode(),
        "summary.csv": csv_table(summary_rows(found)).encode(),
        "curves.csv": curves_csv(found).encode(),
        "unseen_lengths.csv": csv_table(unseen_rows(found)).replace("stage", "tested", 1).encode(),
        PAGE: page(found, question, notes).encode(),
    }
    for name, written in content.items():
        write_atomically(folder / name, written)
    paths = [folder / name for name in content]
    for stem, draw in figures_of(found, look).items():
        paths += save_figure(draw(), folder / stem, look)
    return paths
