"""What was found out about memory, as tables of means with intervals, without JAX.

Each row of `summary.csv` is the mean over networks of a column of `networks.csv`, or the share of
a fate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from srn_jax.analysis.stats import CONFIDENCE, share_estimate

STAGES = ("start", "best", "last")
START, BEST, LAST = range(3)
FATES = ("shrinks", "is kept", "blows up")
FATE_DECADES = 1.0  # a perturbation shrinks, or blows up, if it changes more than tenfold
ALL, SOLVERS, OTHERS, DIFFERENCE = "all", "solvers", "others", "solvers less others"
KEYS = ["measure", "stage", "position"]
FEWEST_ALIKE = 4  # fewer values that agree have no interval: a width of zero would claim certainty
NORM, LARGEST = "log10 gradient norm", "log10 largest singular value"


@dataclass(frozen=True)
class Explanation:
    """What was measured of each network; axes as named, NaN where there is no such position.

    Where only hidden states are known, `gradient`, `jacobian` and `product` are NaN.
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

    @property
    def answer(self) -> str:
        """The first target that is the whole answer, or else the first."""
        return str(self.targets[self.is_answer.argmax()])

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
    norms = gradient[..., 1:].astype(float)
    known = norms > 0
    decades = np.log10(np.where(known, norms, 1.0))
    number = known.sum(axis=-1, keepdims=True)
    at = np.where(known, np.arange(norms.shape[-1]), 0.0)
    at = np.where(known, at - at.sum(axis=-1, keepdims=True) / np.maximum(number, 1), 0.0)
    squares = (at**2).sum(axis=-1)
    slope = -(at * decades).sum(axis=-1) / np.where(squares > 0, squares, 1.0)
    return np.where(number[..., 0] > 1, slope, np.nan)


def fates(product: np.ndarray) -> dict[str, np.ndarray]:
    """What becomes of the perturbation that grows most: 1 or 0 for each of `FATES`, NaN if unknown.

    Takes log10 of singular values `[..., value]`, largest first.
    """
    largest = product[..., 0]
    edges = largest < -FATE_DECADES, np.abs(largest) <= FATE_DECADES, largest > FATE_DECADES
    hits = [np.where(np.isnan(largest), np.nan, edge) for edge in edges]
    return dict(zip(FATES, hits, strict=True))


def curves(found: Explanation) -> dict[str, np.ndarray]:
    """What is known at each position: `[stage, experiment, position]` by name."""
    decades = np.log10(np.where(found.gradient > 0, found.gradient, np.nan))
    first = np.full((*found.gradient.shape[:2], 1), np.nan)
    values = {NORM: decades}
    values[LARGEST] = np.concatenate([first, found.jacobian[..., 0]], axis=-1)
    for n, name in enumerate(found.targets):
        values[f"readout of {name}"] = found.readout[:, :, n]
        values[f"shuffled {name}"] = found.shuffled[:, :, n]
    return values


def estimates(*sides: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of columns `[network, column]`, or of one less those of another, with both ends.

    The intervals are `stats.mean_estimate`'s, Student's t, and for a difference Welch's (1947). NaN
    is left out.
    """
    tables = [pd.DataFrame(side) for side in sides]
    counts = np.array([table.count() for table in tables])
    means = np.array([table.mean() for table in tables])
    errors = np.array([table.var() for table in tables]) / np.maximum(counts, 1)
    squares = errors.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = squares**2 / (errors**2 / (counts - 1)).sum(axis=0)
        half = stdtrit(freedom, (1 + CONFIDENCE) / 2) * np.sqrt(squares)
    half = np.where(squares == 0, np.where(counts.min(axis=0) < FEWEST_ALIKE, np.nan, 0.0), half)
    mean = means[0] - means[1:].sum(axis=0)
    return mean, mean - half, mean + half


def mean_table(found: Explanation, columns: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    """Means with intervals over seeds, by length and group; and solvers less others.

    Args:
        found: which networks there are.
        columns: what the values are, a row each.
        values: `[experiment, column]`, NaN left out.
    """
    parts = []
    for length in found.lengths:
        groups = {name: values[rows] for name, rows in found.groups(length).items()}
        sides = groups[SOLVERS], groups[OTHERS]
        told = {name: estimates(part) for name, part in groups.items()}
        told[DIFFERENCE] = estimates(*sides)
        groups[DIFFERENCE] = np.concatenate(sides)
        for group, (mean, low, high) in told.items():
            table = columns.assign(length=length, group=group)
            table["networks"] = (~np.isnan(groups[group])).sum(axis=0)
            table = table.assign(mean=mean, interval_low=low, interval_high=high)
            parts.append(table[~np.isnan(mean)])
    return pd.concat(parts, ignore_index=True)


def staged(found: Explanation, values: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The table of values `[stage, experiment]`, or `[stage, experiment, position]`, by name."""
    every = np.stack([*values.values()])  # [measure, stage, experiment, ...]
    keys = [[*values], STAGES, *(range(1, n + 1) for n in every.shape[3:])]
    columns = pd.MultiIndex.from_product(keys, names=KEYS[: len(keys)]).to_frame(index=False)
    return mean_table(found, columns, np.moveaxis(every, 2, 0).reshape(len(found.length), -1))


def summary_table(found: Explanation) -> pd.DataFrame:
    """Every measure at every stage, of all networks of a length, of solvers and of others."""
    table = staged(found, measures(found) | fates(found.product))
    shares = table.measure.isin(FATES)
    table = table[~shares | (table.group != DIFFERENCE)].reset_index(drop=True)
    row: Any
    for row in table[table.measure.isin(FATES)].itertuples():
        share = share_estimate(round(row.mean * row.networks), row.networks)
        table.loc[row.Index, ["interval_low", "interval_high"]] = share.low, share.high
    return table


def curve_table(found: Explanation, wanted: str = "") -> pd.DataFrame:
    """Every curve, or those whose names begin as wanted, at every stage and position."""
    return staged(found, {k: v for k, v in curves(found).items() if k.startswith(wanted)})


def network_table(found: Explanation) -> pd.DataFrame:
    """Every measure of each network at each stage."""
    table: dict[str, Any] = {"stage": np.repeat(STAGES, len(found.length))}
    names = {"length": found.length, "seed": found.seed, "solver": found.solver}
    table |= {name: np.tile(values, len(STAGES)) for name, values in names.items()}
    table |= {name: values.ravel() for name, values in measures(found).items()}
    hits = fates(found.product).items()
    table["fate"] = np.select([hit.ravel() == 1 for _, hit in hits], [name for name, _ in hits], "")
    return pd.DataFrame(table)


def difference_table(found: Mapping[str, Explanation]) -> pd.DataFrame:
    """Every measure of each variant less that of the first, paired by length and seed."""
    index = ["stage", "length", "seed"]
    tables = {name: network_table(one).set_index(index) for name, one in found.items()}
    (first, base), *others = tables.items()
    rows = []
    for name, other in others:
        measured = [m for m in base.columns.drop(["solver", "fate"]) if m in other]
        change = other[measured].sub(base[measured])
        for (stage, length), part in change.groupby(index[:2], sort=False):
            its = zip(measured, part.count(), *estimates(part.to_numpy()), strict=True)
            rows += [(name, first, m, stage, length, *numbers) for m, *numbers in its if numbers[0]]
    columns = ["variant", "less", "measure", *index[:2], "networks", "mean"]
    return pd.DataFrame(rows, columns=[*columns, "interval_low", "interval_high"])
