"""From per-seed results to means, intervals and the memory span.

This module imports neither JAX nor Matplotlib. One seed is one draw of data and weights, so an
interval is over seeds, never over single test sequences. An experiment without a test accuracy
(NaN: it diverged before its first evaluation, or never gave a right answer) is left out of means,
quantiles and differences, and counts as not above a threshold.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
ABSENT = "-"
SHARE = (0.0, 1.0)  # between which accuracies and shares lie


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
        ends = [self.text_of(end, spec) for end in (self.low, self.high)]
        value = self.text_of(self.value, spec)
        return value if ABSENT in ends else f"{value} ({ends[0]} to {ends[1]})"

    def text_of(self, value: float, spec: str) -> str:
        """One of the three numbers as text."""
        text = f"{value:{spec.replace('.', 'z.')}}"
        unsigned = not text.strip("+0.")
        return ABSENT if math.isnan(value) else text.lstrip("+") if unsigned else text


def mean_estimate(values: np.ndarray, limits: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
    """The mean of `values [seed]`, NaN left out, with Student's t interval.

    Its ends are cut at the `limits` of what can be. A single seed has no interval, nor have two or
    three that agree: a zero width would claim certainty where nothing is known.
    """
    mean, low, high = mean_estimates(np.asarray(values, float)[:, None], limits)
    return Estimate(float(mean[0]), float(low[0]), float(high[0]))


def mean_estimates(
    values: np.ndarray, limits: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`mean_estimate` of each column of `values [seed, column]`: means, low and high ends."""
    values = np.asarray(values, float)
    present = ~np.isnan(values)
    count = present.sum(axis=0)
    few = np.maximum(count, 1)
    # As `np.mean` of each column where nothing is missing, to the last digit.
    mean = np.where(count > 0, np.where(present, values, 0.0).sum(axis=0) / few, np.nan)
    squares = np.where(present, (values - mean) ** 2, 0.0).sum(axis=0)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / few)
    same = np.nanmin(np.where(count > 0, values, 0), axis=0) == np.nanmax(
        np.where(count > 0, values, 0), axis=0
    )
    unknown = (count < 2) | (same & (count < 4))
    half = np.where(same, 0.0, stdtrit(np.maximum(count - 1, 1), 0.5 + CONFIDENCE / 2) * error)
    half = np.where(unknown, np.nan, half)
    low, high = np.maximum(mean - half, limits[0]), np.minimum(mean + half, limits[1])
    return mean, low, high
