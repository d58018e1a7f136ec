"""From per-seed results to means, intervals and the memory span.

This module imports neither JAX nor Matplotlib. One seed is one draw of data and weights, so seeds,
never single test sequences, are resampled. An experiment that diverged before its first evaluation
has no test accuracy (NaN): it is left out of means, quantiles and differences and counts as not
above a threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from srn_jax.analysis.results import Histories, Results

DEFAULT_THRESHOLD = 0.5
RESAMPLES = 9_999  # 2.5 % of (this + 1) is a whole number, so interval ends need no interpolation
BOOTSTRAP_SEED = 0
RESAMPLED_AT_ONCE = 1_000_000  # draws in memory together, about 8 MB an array
EXPLOSION = 1000.0  # a larger L2 norm has exploded; in section 6.2 norms begin at 10 to 60
NORMAL_QUANTILE = 1.959963984540054  # 97.5 % of a standard normal
MOST_EXACT_PAIRS = 13  # all 8,192 ways to choose signs are tried, above it RESAMPLES of them


@dataclass(frozen=True)
class Interval:
    """A range of values, both ends included; both NaN where there is nothing to say."""

    low: float
    high: float


UNKNOWN = Interval(np.nan, np.nan)


@dataclass(frozen=True)
class LengthSummary:
    """What the seeds of one sequence length say; accuracies are shares from 0 to 1."""

    length: int
    seeds: int  # experiments of this length
    scored: int  # those with a test accuracy: what the next six fields are over
    mean: float
    interval: Interval  # 95 % bootstrap interval of the mean
    deviation: float  # sample standard deviation over seeds, NaN for fewer than two
    interquartile_mean: float
    median: float
    spread: Interval  # 5 % and 95 % quantiles over seeds: how far single seeds scatter
    threshold: float
    share_above: float  # of all seeds, those with a test accuracy above the threshold
    share_above_interval: Interval  # 95 % Wilson interval
    dev_mean: float  # of the best dev accuracy, a maximum over evaluations and so too high
    dev_interval: Interval
    diverged: int
    share_diverged: float


@dataclass(frozen=True)
class Difference:
    """Mean difference between two sets of experiments over the seeds they share."""

    mean: float
    interval: Interval  # 95 % paired bootstrap interval
    pairs: int  # shared seeds with a score on both sides
    p_value: float  # of the paired test, for this one difference alone


@dataclass(frozen=True)
class Explosions:
    """How many seeds of a length had gradients that exploded, and how many were left without."""

    length: int
    seeds: int
    share_exploded: float  # the norm of a tensor's gradient, before clipping, was over EXPLOSION
    exploded_interval: Interval  # 95 % Wilson interval
    share_dead: float  # every gradient of the last epoch was exactly 0: all units are saturated
    dead_interval: Interval  # 95 % Wilson interval


@dataclass(frozen=True)
class MemorySpan:
    """The length up to which the mean test accuracy stays above a threshold.

    `length` and the ends of `interval` are -inf for below the shortest length measured and inf for
    beyond the longest, so that a limit of the sweep never passes for a measurement. They are NaN
    without scores, the interval also with fewer than two seeds.
    """

    length: float
    interval: Interval  # 95 % bootstrap interval
    threshold: float
    shortest: int  # of the lengths measured
    longest: int


def resampled_means(values: np.ndarray) -> np.ndarray:
    """Bootstrap means over seeds: whole seeds are drawn with replacement, columns stay together.

    Takes `values [seed, column]` with NaN for missing scores and at least one seed. Returns
    `[RESAMPLES, column]`, the same on every call; NaN where a resample drew no score of the column.
    """
    seeds, columns = values.shape
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    present = ~np.isnan(values)
    sums_and_counts = np.concatenate([np.where(present, values, 0.0), present], axis=1)
    means = np.full((RESAMPLES, columns), np.nan)
    chunk = max(1, RESAMPLED_AT_ONCE // seeds)
    for start in range(0, RESAMPLES, chunk):
        rows = min(chunk, RESAMPLES - start)
        drawn = rng.integers(seeds, size=(rows, seeds)) + seeds * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * seeds).reshape(rows, seeds)
        totals = times.astype(float) @ sums_and_counts
        sums, counts = totals[:, :columns], totals[:, columns:]
        np.divide(sums, counts, out=means[start : start + rows], where=counts > 0)
    return means


def percentile_interval(samples: np.ndarray) -> Interval:
    """The 2.5 % and 97.5 % order statistics of all bootstrap samples, NaN left out."""
    known = samples[~np.isnan(samples)]
    if not known.size:
        return UNKNOWN
    tail = max(1, int((known.size + 1) * 0.025))
    ordered = np.partition(known, (tail - 1, known.size - tail))
    return Interval(float(ordered[tail - 1]), float(ordered[-tail]))


def mean_interval(values: np.ndarray) -> Interval:
    """The 95 % percentile-bootstrap interval of the mean of `values [seed]`, NaN left out.

    A single seed has none: every resample would be that seed again, and the zero width would claim
    certainty where nothing is known. With fewer than about ten seeds it covers less than 95 %.
    """
    present = values[~np.isnan(values)].astype(float)
    return _mean_interval(present.tobytes()) if present.size > 1 else UNKNOWN


@lru_cache(maxsize=1024)
def _mean_interval(values: bytes) -> Interval:
    """That of float64 numbers, whose tables, report and figures all ask for it."""
    return percentile_interval(resampled_means(np.frombuffer(values)[:, None]))


def mean_of(values: np.ndarray) -> float:
    """The mean, NaN (and no warning) of nothing."""
    return float(values.mean()) if values.size else np.nan


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half: `floor(n / 4)` seeds are cut off each end, as rliable does."""
    cut = values.size // 4
    return mean_of(np.sort(values)[cut : values.size - cut])


def wilson_interval(successes: int, trials: int) -> Interval:
    """The 95 % score interval of a share (Wilson 1927): inside 0..1 and never of zero width."""
    if trials == 0:
        return UNKNOWN
    share, weight = successes / trials, NORMAL_QUANTILE**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    half = np.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return Interval(float(max(0.0, centre - half)), float(min(1.0, centre + half)))


def summarise(results: Results, threshold: float = DEFAULT_THRESHOLD) -> tuple[LengthSummary, ...]:
    """One summary for each sequence length of a sweep, shortest first."""
    return tuple(
        summarise_length(results.of_length(length), threshold)
        for length in np.unique(results.length)
    )


def summarise_length(results: Results, threshold: float) -> LengthSummary:
    """Summarise the experiments of one length, at least one; what needs a score may be NaN."""
    scores = results.test_accuracy[~np.isnan(results.test_accuracy)]
    dev_scores = results.best_dev_accuracy[~np.isnan(results.best_dev_accuracy)]
    above = results.test_accuracy > threshold  # False without a score
    low, median, high = np.quantile(scores, [0.05, 0.5, 0.95]) if scores.size else [np.nan] * 3
    return LengthSummary(
        length=int(results.length[0]),
        seeds=len(results),
        scored=scores.size,
        mean=mean_of(scores),
        interval=mean_interval(scores),
        deviation=float(scores.std(ddof=1)) if scores.size > 1 else np.nan,
        interquartile_mean=interquartile_mean(scores),
        median=float(median),
        spread=Interval(float(low), float(high)) if scores.size > 1 else UNKNOWN,
        threshold=threshold,
        share_above=mean_of(above),
        share_above_interval=wilson_interval(int(above.sum()), above.size),
        dev_mean=mean_of(dev_scores),
        dev_interval=mean_interval(dev_scores),
        diverged=int(results.diverged.sum()),
        share_diverged=mean_of(results.diverged),
    )


def explosions(histories: Histories) -> tuple[Explosions, ...]:
    """For each length, shortest first, what the probe `gradient-norm` saw; empty without it.

    A norm that is not finite has exploded; the steps after a divergence say nothing.
    """
    names = histories.probes.get("gradient_norm", [])
    if not names:
        return ()
    norms = np.stack([histories.steps[name] for name in names])  # [tensor, experiment, step]
    exploded = np.any((norms > EXPLOSION) | np.isinf(norms), axis=(0, 2))
    exploded |= np.isnan(norms).any(axis=(0, 2))
    dead = np.all(norms[..., -histories.steps_an_epoch :] == 0, axis=(0, 2))
    found = []
    for length in np.unique(histories.length).tolist():
        rows = histories.length == length
        seeds, (hit, gone) = int(rows.sum()), (exploded[rows], dead[rows])
        intervals = [wilson_interval(int(which.sum()), seeds) for which in (hit, gone)]
        shares = mean_of(hit), intervals[0], mean_of(gone), intervals[1]
        found.append(Explosions(length, seeds, *shares))
    return tuple(found)


def paired_difference(results: Results, baseline: Results) -> Difference:
    """Mean of `results` minus `baseline` in test accuracy, seed by seed; NaN without common seeds.

    Both hold the rows of one length (`Results.of_length`): the same length of two runs, or two
    lengths of one run. Pairing takes out what a seed's draw has in common on both sides.
    """
    _, here, there = np.intersect1d(results.seed, baseline.seed, return_indices=True)
    differences = results.test_accuracy[here] - baseline.test_accuracy[there]
    differences = differences[~np.isnan(differences)]
    interval, p_value = mean_interval(differences), sign_flip_p_value(differences)
    return Difference(mean_of(differences), interval, differences.size, p_value)


def sign_flip_p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of a mean difference, from the paired sign-flip (randomisation) test.

    If nothing but chance decides which side of a pair is better, every sign is as likely as its
    opposite. Takes `differences [pair]`; exact for few pairs, NaN for fewer than two.
    """
    pairs = differences.size
    if pairs < 2:
        return np.nan
    exact = pairs <= MOST_EXACT_PAIRS
    if exact:
        negative = np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1
    else:
        rng = np.random.default_rng(BOOTSTRAP_SEED)
        negative = rng.integers(2, size=(RESAMPLES, pairs), dtype=np.int8)
    sums = np.abs(differences.sum() - 2 * (negative @ differences))
    as_extreme = np.sum(sums >= np.abs(differences.sum()) - 1e-9)  # equal up to rounding counts
    return float(as_extreme / len(sums) if exact else (as_extreme + 1) / (RESAMPLES + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by the step-down method of Holm (1979); NaN stays."""
    values = np.array(p_values, float)
    order = np.argsort(values)[: np.sum(~np.isnan(values))]
    steps = values[order] * np.arange(order.size, 0, -1)
    values[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return values.tolist()


def memory_span(results: Results, threshold: float = DEFAULT_THRESHOLD) -> MemorySpan:
    """How long a sequence may be for the mean test accuracy to stay above `threshold`.

    Linear interpolation between the last length above and the first at or below; lengths without
    any score are passed over. The interval resamples whole seeds with all their lengths.
    """
    lengths, columns = np.unique(results.length, return_inverse=True)
    seeds, rows = np.unique(results.seed, return_inverse=True)
    table = np.full((seeds.size, lengths.size), np.nan)  # [seed, length]
    table[rows, columns] = results.test_accuracy
    scored = ~np.isnan(table)
    if not scored.any():
        ends = (int(lengths[0]), int(lengths[-1])) if lengths.size else (0, 0)
        return MemorySpan(np.nan, UNKNOWN, threshold, *ends)
    table = table[scored.any(axis=1)][:, scored.any(axis=0)]
    lengths = lengths[scored.any(axis=0)]
    point = crossings(lengths, np.nanmean(table, axis=0, keepdims=True), threshold)[0]
    interval = UNKNOWN
    if len(table) > 1:  # as for a mean, one seed has no interval
        interval = percentile_interval(crossings(lengths, resampled_means(table), threshold))
    return MemorySpan(float(point), interval, threshold, int(lengths[0]), int(lengths[-1]))


def crossings(lengths: np.ndarray, curves: np.ndarray, threshold: float) -> np.ndarray:
    """The length `[curve]` at which each of `curves [curve, length]` first falls to `threshold`.

    -inf where a curve is at or below it from the start, inf where it never falls; NaN scores are
    passed over. `lengths [length]` ascend.
    """
    # last_length is the longest so far that is above the threshold
    crossing, last_length, last_score = np.full((3, len(curves)), np.nan)
    still_above = np.ones(len(curves), dtype=bool)
    for length, score in zip(lengths, curves.T, strict=True):
        falls = still_above & (score <= threshold)
        share = (last_score[falls] - threshold) / (last_score[falls] - score[falls])
        inside = last_length[falls] + share * (length - last_length[falls])
        crossing[falls] = np.where(np.isnan(inside), -np.inf, inside)
        still_above &= ~falls
        passed = still_above & ~np.isnan(score)
        last_length[passed], last_score[passed] = length, score[passed]
    crossing[still_above & ~np.isnan(last_length)] = np.inf
    return crossing
