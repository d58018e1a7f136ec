"""What was found out about memory, as tables and a page, without JAX.

Every number of the page is a row of `summary.csv`, and each of those is the mean over networks of a
column of `networks.csv`, or the share of a fate. The page says that something is above or below a
reference only where the whole 95 % interval, as printed, is; all else it lists as not decided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srn_jax.analysis.summary import (
    UNKNOWN,
    mean_interval,
    mean_of,
    percentile_interval,
    resampled_means,
    wilson_interval,
)
from srn_jax.analysis.tables import interval_text, number

STAGES = ("start", "best", "last")
START, BEST, LAST = range(3)
WHEN = ("Before training", "At the best step", "At the end")
FATES = ("shrinks", "is kept", "blows up")
FATE_DECADES = 1.0  # a perturbation shrinks, or blows up, if it changes more than tenfold
ALL, SOLVERS, OTHERS, DIFFERENCE = "all", "solvers", "others", "solvers less others"
UNDECIDED = "The data does not decide"
FEWEST = 8  # fewest networks for an interval: with 8 the bootstrap's covers 90 %, with 5 only 84 %
NORM, LARGEST = "log10 gradient norm", "log10 largest singular value"
Row = dict[str, Any]  # measure, stage, length, group, networks, mean, interval


@dataclass(frozen=True)
class Explanation:
    """What was measured of each network; axes as named, NaN where there is no such position.

    Of a cell that is not of the family, `gradient`, `jacobian` and `product` are NaN.
    """

    length: np.ndarray  # [experiment]
    seed: np.ndarray  # [experiment]
    targets: np.ndarray  # [target]: the names of what was looked for
    is_answer: np.ndarray  # [target]: whether it is what the network must answer
    chance: np.ndarray  # [experiment, target]: accuracy of the commonest training label
    accuracy: np.ndarray  # [stage, experiment]: of the network's own answers to test sequences
    readout: np.ndarray  # [stage, experiment, target, position]: of linear readouts of the state
    shuffled: np.ndarray  # [stage, experiment, target, position]: fitted to shuffled labels
    gradient: np.ndarray  # [stage, experiment, position]: norm of dL/ds_t
    jacobian: np.ndarray  # [stage, experiment, position - 1, value]: log10, largest first
    product: np.ndarray  # [stage, experiment, value]: log10, of the last state by the second
    tested: np.ndarray  # [tested length]
    unseen: np.ndarray  # [experiment, tested length]: accuracy of the best parameters there
    left_out: int  # experiments that diverged or have no best parameters
    threshold: float  # a solver's test accuracy is above it

    @property
    def lengths(self) -> list[int]:
        """The lengths that networks were trained on, shortest first."""
        return np.unique(self.length).tolist()

    @property
    def solver(self) -> np.ndarray:
        """Which networks reached the threshold, `[experiment]`."""
        return self.accuracy[BEST] > self.threshold

    def groups(self, length: int) -> dict[str, np.ndarray]:
        """The networks of a length, all and by what they reached: booleans `[experiment]`."""
        rows = self.length == length
        return {ALL: rows, SOLVERS: rows & self.solver, OTHERS: rows & ~self.solver}


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
    if found.tested.size > 1:
        own = found.tested == found.length[:, None]
        elsewhere = np.nanmean(np.where(own, np.nan, found.unseen), axis=1)
        nothing = np.full_like(elsewhere, np.nan)
        values["other lengths"] = np.stack([nothing, elsewhere - found.unseen[own], nothing])
    return values


def slopes(gradient: np.ndarray) -> np.ndarray:
    """The change of log10 of a norm `[..., position]` a step back in time, by least squares.

    From the last position back to the second; NaN where fewer than two norms are above zero.
    """

    def slope(norms: np.ndarray) -> float:
        at = np.flatnonzero(norms > 0)
        return -np.polyfit(at, np.log10(norms[at]), 1)[0] if at.size > 1 else np.nan

    return np.apply_along_axis(slope, -1, gradient[..., 1:].astype(float))


def fates(product: np.ndarray) -> np.ndarray:
    """What becomes of the perturbation that grows most: an index into `FATES`, -1 if unknown.

    Takes log10 of singular values `[..., value]`, largest first.
    """
    largest = product[..., 0]
    fate = 1 + (largest > FATE_DECADES).astype(int) - (largest < -FATE_DECADES)
    return np.where(np.isnan(largest), -1, fate)


def curves(found: Explanation) -> dict[str, np.ndarray]:
    """What is known at each position: `[stage, experiment, position]` by name."""
    with np.errstate(divide="ignore"):
        decades = np.log10(found.gradient)
    first = np.full((*found.gradient.shape[:2], 1), np.nan)
    values = {
        NORM: np.where(np.isinf(decades), np.nan, decades),
        LARGEST: np.concatenate([first, found.jacobian[..., 0]], axis=-1),
    }
    for n, name in enumerate(found.targets):
        values[f"readout of {name}"] = found.readout[:, :, n]
        values[f"shuffled {name}"] = found.shuffled[:, :, n]
    return values


def mean_rows(
    found: Explanation, columns: Mapping[tuple[Any, ...], np.ndarray], names: Sequence[str]
) -> list[Row]:
    """Means and bootstrap intervals over seeds, by length and group; and solvers less others.

    Args:
        found: which networks there are.
        columns: values `[experiment]`, NaN left out, by what they are.
        names: of the parts of these keys.
    """
    every = np.stack([*columns.values()], axis=1).astype(float)
    rows = []
    for length in found.lengths:
        mine = found.length == length
        shown = ~np.isnan(every[mine]).all(axis=0)
        keys = [key for key, some in zip(columns, shown, strict=True) if some]
        samples = {}
        for group, members in found.groups(length).items():
            # The others are NaN, not left out: a group is resampled as a part of all seeds.
            part = np.where(members[:, None], every, np.nan)[mine][:, shown]
            samples[group] = part, resampled_means(part).T
        (one, first), (other, second) = samples[SOLVERS], samples[OTHERS]
        samples[DIFFERENCE] = np.concatenate([one, -other]), first - second
        for group, (part, resampled) in samples.items():
            for key, column, sample in zip(keys, part.T, resampled, strict=True):
                known = column[~np.isnan(column)]
                sides = [known]
                if group == DIFFERENCE:
                    sides = [half[~np.isnan(half)] for half in np.split(column, 2)]
                if min(side.size for side in sides) == 0:
                    continue
                enough = min(side.size for side in sides) >= FEWEST
                row = dict(zip(names, key, strict=True)) | {"length": length, "group": group}
                row |= {"networks": known.size, "mean": sum(map(mean_of, sides))}
                row["interval"] = percentile_interval(sample) if enough else UNKNOWN
                rows.append(row)
    return rows


def summary_rows(found: Explanation) -> list[Row]:
    """Every measure at every stage, of all networks of a length, of solvers and of others."""
    columns = {(m, s): v[n] for m, v in measures(found).items() for n, s in enumerate(STAGES)}
    rows = mean_rows(found, columns, ("measure", "stage"))
    fate = fates(found.product)
    for length in found.lengths:
        for group, members in found.groups(length).items():
            for stage, kind in np.ndindex(len(STAGES), len(FATES)):
                known = int(np.sum(fate[stage, members] >= 0))
                if known:
                    times = int(np.sum(fate[stage, members] == kind))
                    row = {"measure": FATES[kind], "stage": STAGES[stage], "length": length}
                    row |= {"group": group, "networks": known, "mean": times / known}
                    interval = wilson_interval(times, known) if known >= FEWEST else UNKNOWN
                    rows.append(row | {"interval": interval})
    return rows


def curve_rows(found: Explanation, wanted: str = "") -> list[Row]:
    """Every curve, or those whose names begin as wanted, at every stage and position."""
    columns = {
        (name, stage, t + 1): values[n, :, t]
        for name, values in curves(found).items()
        if name.startswith(wanted)
        for n, stage in enumerate(STAGES)
        for t in range(values.shape[-1])
    }
    return mean_rows(found, columns, ("measure", "stage", "position"))


def network_rows(found: Explanation) -> list[Row]:
    """Every measure of each network at each stage."""
    values, fate = measures(found), fates(found.product)
    return [
        {"stage": stage, "length": found.length[e], "seed": found.seed[e]}
        | {"solver": bool(found.solver[e])}
        | {name: float(column[s, e]) for name, column in values.items()}
        | {"fate": FATES[fate[s, e]] if fate[s, e] >= 0 else ""}
        for s, stage in enumerate(STAGES)
        for e in range(len(found.length))
    ]


def difference_rows(found: Mapping[str, Explanation]) -> list[Row]:
    """Every measure of each run less that of the first, paired by length and seed."""
    (first, base), *others = found.items()
    columns, rows = measures(base), []
    for name, other in others:
        for measure, values in measures(other).items():
            for length in np.intersect1d(base.lengths, other.lengths) if measure in columns else ():
                here, there = (np.flatnonzero(run.length == length) for run in (other, base))
                _, a, b = np.intersect1d(other.seed[here], base.seed[there], return_indices=True)
                change = values[:, here[a]] - columns[measure][:, there[b]]
                for stage, column in zip(STAGES, change, strict=True):
                    known = column[~np.isnan(column)]
                    if known.size:
                        row: Row = {"run": name, "less": first, "measure": measure}
                        row |= {"stage": stage, "length": int(length), "networks": known.size}
                        interval = mean_interval(known) if known.size >= FEWEST else UNKNOWN
                        rows.append({**row, "mean": mean_of(known), "interval": interval})
    return rows


def sentences(rows: Sequence[Row], reference: float, below: str, above: str) -> str:
    """Sentences that say of each row on which side of a reference its interval is."""
    told: dict[str, list[str]] = {below: [], above: [], UNDECIDED: []}
    for row in rows:
        low, high = round(row["interval"].low, 3), round(row["interval"].high, 3)
        side = below if high < reference else above if low > reference else UNDECIDED
        words = f"{number(row['mean'])} ({interval_text(row['interval'])})"
        told[side].append(f"{words} at length {row['length']}")
    return " ".join(f"{side}: {', '.join(some)}." for side, some in told.items() if some)


def page(found: Explanation, rows: Sequence[Row], question: str, notes: Sequence[str] = ()) -> str:
    """The page: one paragraph for each finding, written from the rows of the summary."""
    many = sum(not np.isnan(row["interval"].low) for row in rows)
    misses = f"; of the {many} intervals in `summary.csv` one in twenty misses"
    misses = f"{misses}, so single ones prove little" if many else ""
    lines = [
        "# Why it forgets",
        f"{len(found.length)} networks were asked for {question}; left out, because they diverged "
        f"or no evaluation had a right answer: {found.left_out}. Numbers are means over seeds with "
        "their 95 % intervals, or shares of networks with Wilson's. A claim is made only where the "
        f"whole interval supports it{misses}. Fewer than {FEWEST} networks have no interval. "
        "Lines and bands in figures are medians and 5-95 % of seeds; in `why.png`, of several "
        "runs, means and their 95 % intervals. Solvers are told by the test sequences that "
        "readouts are tested on, so a readout of the answer must be better in them.",
        *notes,
    ]

    def section(title: str, *findings: tuple[Any, ...]) -> None:
        paragraphs = []
        for words, measure, stage, below, above, *more in findings:
            group, reference = more[0] if more else ALL, 0.5 if measure in FATES else 0.0
            key = (measure, STAGES[stage], group)
            chosen = [row for row in rows if (row["measure"], row["stage"], row["group"]) == key]
            if chosen:
                paragraphs.append(f"**{words}.** {sentences(chosen, reference, below, above)}")
        lines.extend([f"## {title}", *paragraphs] if paragraphs else [])

    backwards = "The gradient shrinks on its way back", "The gradient grows on its way back"
    section(
        "Gradients through time, decades a step back",
        *((when, "gradient slope", s, *backwards) for s, when in enumerate(WHEN)),
    )
    growth = "Even what grows most shrinks", "Some perturbation grows"
    half = "Fewer than half", "More than half"
    section(
        "A perturbation of the second state, decades until the last",
        *((when, "perturbation", s, *growth) for s, when in enumerate(WHEN)),
        *((f"{f}, share at the best step".capitalize(), f, BEST, *half) for f in FATES),
    )
    held = []
    for name in found.targets:
        at = f"Readout of {name}, at the best step"
        measure = f"readout of {name}"
        held += [(f"{at}, above chance", f"{measure} above chance", BEST, "Below", "Still there")]
        kept = "Training lost some", "Training kept more"
        held += [(f"{at}, above that before training", f"{measure} since start", BEST, *kept)]
    better = "The network answers better than the readout", "The state holds more than is answered"
    answer = "The readout of the answer, above the accuracy of the network at the best step"
    section(
        "What linear readouts find in the last state",
        *held,
        (answer, "readout above answer", BEST, *better),
    )
    compared = ["gradient slope", "perturbation", *(f"readout of {name}" for name in found.targets)]
    section(
        f"Solvers, with a test accuracy above {found.threshold:g}, less others",
        *(
            (f"{m}, {WHEN[s].lower()}".capitalize(), m, s, "Lower", "Higher", DIFFERENCE)
            for s in (START, BEST)
            for m in compared
        ),
    )
    change = "Accuracy at the other lengths, above that at the length trained on"
    section("Unseen lengths", (change, "other lengths", BEST, "Worse", "Better"))
    return "\n\n".join(lines) + "\n"
