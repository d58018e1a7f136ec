"""From per-seed results to means, intervals and the memory span; imports no JAX or Matplotlib.

An interval is over seeds, never over single test sequences. An experiment without a test accuracy
(NaN) is left out of means, quantiles and differences, and counts as not above a threshold.
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
    """The length up to which the mean test accuracy stays above a threshold.

    It is -inf for below the shortest length measured and inf for beyond the longest.
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


def mean_estimate(values: Any, limits: tuple[float, float] = NO_LIMITS) -> Estimate:
    """The mean of `values [seed]`, NaN left out, with Student's t interval.

    Its ends are cut at the `limits` of what can be. A single seed has no interval, nor have two or
    three that agree: a zero width would claim certainty where nothing is known.
    """
    found = mean_estimates(np.asarray(values, float)[:, None], limits)
    return Estimate(*(float(column[0]) for column in found))


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

    Of a table of several variants each has rows of its own, with `variant` before the other
    columns, which are: `length`; `seeds`, its experiments; `scored`, those with a test accuracy;
    means and `share_above` the threshold, each with `_low` and `_high`; `deviation`, `median`,
    `spread_low` and `spread_high` (5 and 95 % quantiles) of the test accuracies; the mean, least
    and largest `overlap`; `diverged`.
    """
    if "variant" in results:
        each = results.groupby("variant", sort=False)
        tables = {name: summarise(own.drop(columns="variant"), threshold) for name, own in each}
        return pd.concat(tables, names=["variant", None]).reset_index(0).reset_index(drop=True)
    rows = []
    for length, of_length in results.groupby("length"):
        accuracies = of_length["test_accuracy"]
        scores = accuracies.dropna()
        above = share_estimate(int((accuracies > threshold).sum()), accuracies.size)
        overlap = of_length["overlap"]
        row: dict[str, Any] = {"length": length, "seeds": accuracies.size, "scored": scores.size}
        row |= columns_of("test_accuracy", mean_estimate(scores, SHARE))
        row |= {"deviation": scores.std(), "median": scores.median()}
        for name, share in (("spread_low", 0.05), ("spread_high", 0.95)):
            row[name] = scores.quantile(share) if scores.size > 1 else math.nan
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
    """A row for each length of what the probe `gradient-norm` saw; empty without the probe.

    `exploded` is the share of seeds in which the norm of a tensor's gradient, before clipping, was
    above `EXPLOSION` or not finite at any step; `dead` the share in which every gradient of the
    last epoch was exactly 0, as saturated units leave it.
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
    """Mean of `results` minus `baseline` in a score, seed by seed, at one length."""
    sides = [table.set_index("seed")[score].sort_index() for table in (results, baseline)]
    differences = (sides[0] - sides[1]).dropna().to_numpy(float)
    found = mean_estimate(differences)
    return Difference(**vars(found), pairs=differences.size, p_value=sign_flip(differences))


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided p-value of the mean of `differences [pair]`, from the paired sign-flip test.

    If nothing but chance decides which side of a pair is better, every sign is as likely as its
    opposite. Exact for few pairs, NaN for fewer than two.
    """
    pairs = differences.size
    if pairs < 2:
        return math.nan
    exact = pairs <= MOST_EXACT_PAIRS
    if exact:
        negative = np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1
    else:
        rng = np.random.default_rng(0)
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

    The columns of `summarise`; `variant`; `difference` from the baseline with `_low` and `_high`,
    its `pairs` and `p_value`, and `corrected_p_value` for the number of lengths.
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
        tests = [{"pairs": one.pairs, "p_value": one.p_value} for one in found]
        told = [
            columns_of("difference", one) | test for one, test in zip(found, tests, strict=True)
        ]
        table = table.join(pd.DataFrame(told))
        table["corrected_p_value"] = holm(table["p_value"].tolist())
        table.insert(0, "variant", name)
        tables.append(table)
    rows = pd.concat(tables, ignore_index=True)
    return rows.sort_values("length", kind="stable", ignore_index=True)


def memory_span(results: pd.DataFrame, threshold: float = THRESHOLD) -> Span:
    """How long a sequence may be for the mean test accuracy to stay above `threshold`.

    Linear interpolation between the last length above and the first at or below.
    """
    table = results.pivot(index="seed", columns="length", values="test_accuracy")
    shortest, longest = int(table.columns.min()), int(table.columns.max())
    table = table.dropna(axis=1, how="all")
    if not table.size:
        return Span(math.nan, math.nan, math.nan, threshold, shortest, longest)
    places, scores = table.columns.to_numpy(float), table.to_numpy(float)
    value, low, high = span_ends(places, scores, threshold)
    return Span(value, low, high, threshold, shortest, longest)


def span_ends(lengths: np.ndarray, scores: np.ndarray, threshold: float) -> list[float]:
    """The span and the ends of its interval, of `scores [seed, length]`, some at each length.

    The interval holds the lengths at which Student's t interval of the mean of the seeds' own
    curves, interpolated as the mean is, has the threshold in it.
    """
    index = np.arange(lengths.size)
    places = np.interp(np.linspace(0, index[-1], index[-1] * PLACES + 1), index, lengths)
    curves = np.stack([np.interp(places, lengths, row) for row in scores])  # NaN beside a NaN
    value = crossing(lengths, mean_estimates(scores)[0], threshold)
    low, high = (crossing(places, curve, threshold) for curve in mean_estimates(curves)[1:])
    if len(scores) < FEWEST_FOR_SPAN:
        return [value, math.nan, math.nan]
    return [value, min(low, value), max(high, value)]


def crossing(lengths: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    """The length at which `scores [length]` first fall to `threshold`, NaN passed over.

    -inf where they are at or below it from the start, inf where they never fall.
    """
    known = ~np.isnan(scores)
    lengths, scores = lengths[known], scores[known]
    below = np.flatnonzero(scores <= threshold)
    if not scores.size:
        return math.nan
    if not below.size:
        return math.inf
    if below[0] == 0:
        return -math.inf
    (before, after), (high, low) = (x[below[0] - 1 : below[0] + 1] for x in (lengths, scores))
    return float(before + (high - threshold) / (high - low) * (after - before))
