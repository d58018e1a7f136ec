"""From per-seed results to means, intervals and the memory span.

This module imports neither JAX nor Matplotlib. One seed is one draw of data and weights, so an
interval is over seeds, never over single test sequences. An experiment without a test accuracy
(NaN: it diverged before its first evaluation, or never gave a right answer) is left out of means,
quantiles and differences, and counts as not above a threshold.

The tests simulate how often an interval holds the truth, with accuracies of a recorded sweep.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from srn_jax.analysis.records import SEQUENCES, Histories, Variant

CONFIDENCE = 0.95
THRESHOLD = 0.5  # of a test accuracy, up to which a network is said to remember
ABSENT = "-"
SHARE = (0.0, 1.0)  # between which accuracies and shares lie
POSITIVE = (0.0, math.inf)
NO_LIMITS = (-math.inf, math.inf)
EXPLOSION = 1000.0  # a larger L2 norm has exploded; in section 6.2 norms begin at 10 to 60
NORMAL_QUANTILE = 1.959963984540054  # 97.5 % of a standard normal
MOST_EXACT_PAIRS = 13  # all 8,192 ways to choose signs are tried, above it SIGN_FLIPS of them
SIGN_FLIPS = 9_999
SIGN_SEED = 0
FEWEST_FOR_SPAN = 3  # seeds; with two, an interval would hold the truth in 82 % of cases
PLACES = 50  # between two lengths, at which the interval of the memory span is looked for


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, both ends included; NaN for what is not known.

    `f"{estimate:.3f}"` is `0.745 (0.730 to 0.760)`, without an interval `0.745`, without a value
    `-`. `f"{estimate:+.3f}"` shows the signs of a difference, never that of a zero.
    """

    value: float
    low: float = math.nan
    high: float = math.nan

    def __format__(self, spec: str) -> str:
        value, *ends = (self.text_of(x, spec) for x in (self.value, self.low, self.high))
        return value if ABSENT in (value, *ends) else f"{value} ({ends[0]} to {ends[1]})"

    def text_of(self, value: float, spec: str) -> str:
        """One of the three numbers as text."""
        if math.isnan(value):
            return ABSENT
        text = format(value, spec.replace(".", "z."))
        return text if text.strip("+0.") else text.lstrip("+")


@dataclass(frozen=True)
class Span(Estimate):
    """The memory span: the length up to which the mean test accuracy stays above a threshold.

    The value and both ends are -inf for below the shortest length measured and inf for beyond the
    longest, so that a limit of the sweep never passes for a measurement.
    """

    threshold: float = THRESHOLD
    shortest: int = 0  # of the lengths measured
    longest: int = 0

    def text_of(self, value: float, spec: str) -> str:
        """One of the three lengths as text, with `< 5` or `> 35` for one that was not measured."""
        if math.isinf(value):
            return f"< {self.shortest}" if value < 0 else f"> {self.longest}"
        return super().text_of(value, spec)


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean difference over the seeds that both sides share."""

    pairs: int = 0  # shared seeds with a score on both sides
    p_value: float = math.nan  # of the paired test, for this one difference alone


def mean_of(values: np.ndarray) -> float:
    """The mean, NaN (and no warning) of nothing."""
    return float(values.mean()) if values.size else math.nan


def mean_estimate(values: Any, limits: tuple[float, float] = NO_LIMITS) -> Estimate:
    """The mean of `values [seed]`, NaN left out, with Student's t interval.

    Its ends are cut at the `limits` of what can be. A single seed has no interval, nor have two or
    three that agree: a zero width would claim certainty where nothing is known.
    """
    values = np.asarray(values, float)
    _, (low,), (high,) = mean_estimates(values[:, None], limits)
    return Estimate(mean_of(values[~np.isnan(values)]), float(low), float(high))


def mean_estimates(
    values: np.ndarray, limits: tuple[float, float] = NO_LIMITS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`mean_estimate` of each column of `values [seed, column]`: values, low ends, high ends."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    most = np.maximum(count, 1)
    mean = np.where(count, np.sum(values, axis=0, where=known) / most, np.nan)
    squares = np.sum((values - mean) ** 2, axis=0, where=known)
    ends = [reduce(values, axis=0, initial=np.nan) for reduce in (np.fmin.reduce, np.fmax.reduce)]
    same = ends[0] == ends[1]
    error = np.where(same, 0.0, np.sqrt(squares / np.maximum(count - 1, 1) / most))
    half = stdtrit(np.maximum(count - 1, 1), (1 + CONFIDENCE) / 2) * error
    half = np.where((count < 2) | (same & (count < 4)), np.nan, half)
    return mean, np.maximum(mean - half, limits[0]), np.minimum(mean + half, limits[1])


def share_estimate(successes: int, trials: int) -> Estimate:
    """A share with the score interval of Wilson (1927): inside 0..1 and never of zero width."""
    if trials == 0:
        return Estimate(math.nan)
    share, weight = successes / trials, NORMAL_QUANTILE**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def columns_of(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate as columns of a table: `name`, `name_low`, `name_high`."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def estimate_in(row: Mapping[Any, Any], name: str) -> Estimate:
    """The inverse of `columns_of`, for a row of a table."""
    return Estimate(*(float(row[f"{name}{end}"]) for end in ("", "_low", "_high")))


def summarise(results: pd.DataFrame, threshold: float = THRESHOLD) -> pd.DataFrame:
    """A row for each sequence length, shortest first; accuracies are shares from 0 to 1.

    Columns: `length`; `seeds`, its experiments; `scored`, those with a test accuracy; the means
    `test_accuracy`, `best_dev_accuracy` (a maximum over evaluations and so too high), `test_loss`
    and of several answers `test_sequences`, and `share_above` the threshold, each with `_low` and
    `_high`; `deviation` (sample standard deviation), `median`, and `spread_low`, `spread_high` (5
    and 95 % quantiles) of the test accuracies; the mean, least and largest `overlap`; `diverged`.
    """
    rows = []
    for length, of_length in results.groupby("length"):
        accuracies = of_length["test_accuracy"].to_numpy(float)
        scores = accuracies[~np.isnan(accuracies)]
        several = scores.size > 1
        low, median, high = (
            np.quantile(scores, [0.05, 0.5, 0.95]) if scores.size else [math.nan] * 3
        )
        above = share_estimate(int((accuracies > threshold).sum()), accuracies.size)
        overlap = of_length["overlap"]
        row: dict[str, Any] = {"length": length, "seeds": accuracies.size, "scored": scores.size}
        row |= columns_of("test_accuracy", mean_estimate(scores, SHARE))
        row |= {"deviation": float(scores.std(ddof=1)) if several else math.nan}
        row |= {"median": float(median)}
        row |= {"spread_low": low if several else math.nan}
        row |= {"spread_high": high if several else math.nan}
        row |= columns_of("share_above", above)
        row |= columns_of("best_dev_accuracy", mean_estimate(of_length["best_dev_accuracy"], SHARE))
        row |= columns_of("test_loss", mean_estimate(of_length["test_loss"], POSITIVE))
        if SEQUENCES in results:
            row |= columns_of(SEQUENCES, mean_estimate(of_length[SEQUENCES], SHARE))
        row |= {"overlap": float(overlap.astype(float).mean())}
        row |= {"overlap_low": overlap.min(), "overlap_high": overlap.max()}
        rows.append(row | {"diverged": int(of_length["diverged"].sum())})
    return pd.DataFrame(rows).astype({"overlap_low": "Int64", "overlap_high": "Int64"})


def unscored(results: pd.DataFrame) -> int:
    """How many experiments did not diverge and yet have no best parameters to be scored."""
    return int((results["best_dev_accuracy"].isna() & ~results["diverged"]).sum())


def explosions(histories: Histories | None, results: pd.DataFrame) -> pd.DataFrame:
    """A row for each length, shortest first, of what the probe `gradient-norm` saw.

    `exploded` is the share of seeds in which the norm of a tensor's gradient, before clipping, was
    above `EXPLOSION` or not finite at any step; `dead` the share in which every gradient of the
    last epoch was exactly 0, as saturated units leave it. Empty without the probe.
    """
    names = [] if histories is None else histories.series.get("gradient_norm", [])
    if histories is None or not names:
        return pd.DataFrame()
    exploded = results["diverged"].to_numpy(bool).copy()  # whose norms are NaN from there on
    dead = np.ones(len(exploded), bool)
    for name in names:
        norms = histories.probes[name]
        exploded |= (norms > EXPLOSION).any(axis=1)  # also infinite ones
        dead &= (norms[:, -histories.steps_an_epoch :] == 0).all(axis=1)
    rows = []
    for length in np.unique(histories.length).tolist():
        of_length = histories.length == length
        row: dict[str, Any] = {"length": length, "seeds": int(of_length.sum())}
        for name, which in (("exploded", exploded), ("dead", dead)):
            row |= columns_of(name, share_estimate(int(which[of_length].sum()), row["seeds"]))
        rows.append(row)
    return pd.DataFrame(rows)


def paired_difference(
    results: pd.DataFrame, baseline: pd.DataFrame, score: str = "test_accuracy"
) -> Difference:
    """Mean of `results` minus `baseline` in a score, seed by seed; NaN without common seeds.

    Both hold the rows of one length. Pairing takes out what a seed's draw has in common on both
    sides.
    """
    sides = [table.set_index("seed")[score].sort_index() for table in (results, baseline)]
    differences = (sides[0] - sides[1]).dropna().to_numpy(float)
    found = mean_estimate(differences)
    ends = (found.value, found.low, found.high)
    return Difference(*ends, differences.size, sign_flip(differences))


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided p-value of a mean difference, from the paired sign-flip (randomisation) test.

    If nothing but chance decides which side of a pair is better, every sign is as likely as its
    opposite. Takes `differences [pair]`; exact for few pairs, NaN for fewer than two.
    """
    pairs = differences.size
    if pairs < 2:
        return math.nan
    exact = pairs <= MOST_EXACT_PAIRS
    if exact:
        negative = np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1
    else:
        rng = np.random.default_rng(SIGN_SEED)
        negative = rng.integers(2, size=(SIGN_FLIPS, pairs), dtype=np.int8)
    sums = np.abs(differences.sum() - 2 * (negative @ differences))
    as_extreme = np.sum(sums >= np.abs(differences.sum()) - 1e-9)  # equal up to rounding counts
    return float(as_extreme / len(sums) if exact else (as_extreme + 1) / (SIGN_FLIPS + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by the step-down method of Holm (1979); NaN stays."""
    values = np.array(p_values, float)
    order = np.argsort(values)[: np.sum(~np.isnan(values))]
    steps = values[order] * np.arange(order.size, 0, -1)
    values[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return values.tolist()


def score_of(variants: Sequence[Variant]) -> str:
    """The column by which variants are compared: the loss where every task asks for it."""
    return "test_loss" if all(v.facts.better == "loss" for v in variants) else "test_accuracy"


def compare(variants: Mapping[str, Variant], baseline: str) -> pd.DataFrame:
    """Each length of each variant beside the same length of the baseline, shortest first.

    The columns of `summarise` and `variant`; `difference` from the baseline with `_low` and
    `_high`, its `pairs` and `p_value`, and `corrected_p_value` for the number of lengths. Variants
    on other data, and seeds or a length that one side has not, leave nothing to pair.
    """
    base, score = variants[baseline], score_of([*variants.values()])
    tables = []
    for name, variant in variants.items():
        table, found = summarise(variant.results), []
        for length in table["length"].tolist():
            found.append(Difference(math.nan))
            if name != baseline and variant.same_data(base, length):
                ours, theirs = (x.results[x.results["length"] == length] for x in (variant, base))
                found[-1] = paired_difference(ours, theirs, score)
        columns = [columns_of("difference", one) for one in found]
        told = pd.DataFrame(columns, index=table.index)
        told["pairs"] = [one.pairs for one in found]
        told["p_value"] = [one.p_value for one in found]
        told["corrected_p_value"] = holm([one.p_value for one in found])
        table = table.join(told)
        table.insert(0, "variant", name)
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True)
    return rows.sort_values("length", kind="stable", ignore_index=True)


def memory_span(results: pd.DataFrame, threshold: float = THRESHOLD) -> Span:
    """How long a sequence may be for the mean test accuracy to stay above `threshold`.

    Linear interpolation between the last length above and the first at or below; lengths without
    any score are passed over.
    """
    table = results.pivot(index="seed", columns="length", values="test_accuracy")
    shortest, longest = int(table.columns.min()), int(table.columns.max())
    table = table.dropna(axis=1, how="all")
    if not table.size:
        return Span(math.nan, math.nan, math.nan, threshold, shortest, longest)
    found = span_ends(table.columns.to_numpy(float), table.to_numpy(float), threshold)
    return Span(*found, threshold, shortest, longest)


def span_ends(
    lengths: np.ndarray, scores: np.ndarray, threshold: float
) -> tuple[float, float, float]:
    """The span, and the ends of its interval, of `scores [seed, length]`, some at each length.

    The interval holds the lengths at which Student's t interval of the mean of the seeds' own
    curves, interpolated as the mean is, has the threshold in it: it begins where the lower end of
    that band falls to the threshold, and ends where the upper one does.
    """
    means = np.array([mean_of(column[~np.isnan(column)]) for column in scores.T])
    index = np.arange(lengths.size)
    shares = np.linspace(0, index[-1], index[-1] * PLACES + 1)
    places = np.interp(shares, index, lengths)  # all lengths, and places between them
    curves = np.stack([np.interp(places, lengths, row) for row in scores])  # NaN beside a NaN
    low, high = crossings(places, np.stack(mean_estimates(curves)[1:]), threshold).tolist()
    (value,) = crossings(lengths, means[None], threshold).tolist()
    if len(scores) < FEWEST_FOR_SPAN:
        return value, math.nan, math.nan
    return value, min(low, value), max(high, value)


def crossings(lengths: np.ndarray, curves: np.ndarray, threshold: float) -> np.ndarray:
    """The length `[curve]` at which each of `curves [curve, length]` first falls to `threshold`.

    -inf where a curve is at or below it from the start, inf where it never falls; NaN scores are
    passed over. `lengths [length]` ascend.
    """
    found = []
    for curve in curves:
        known = ~np.isnan(curve)
        places, scores = lengths[known], curve[known]
        below = np.flatnonzero(scores <= threshold)
        if not scores.size:
            found.append(math.nan)
        elif not below.size:
            found.append(math.inf)
        elif below[0] == 0:
            found.append(-math.inf)
        else:
            after, before = below[0], below[0] - 1
            share = (scores[before] - threshold) / (scores[before] - scores[after])
            found.append(places[before] + share * (places[after] - places[before]))
    return np.array(found)
