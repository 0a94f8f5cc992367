"""Turns a series into its trend: the Mann-Kendall test for growth, and the Theil-Sen slope with its interval.

Mann 1945 and Kendall 1975 (with the correction for ties), Theil 1950, Sen 1968 (the slope's interval). Both look at
the order of values alone, so that one evaluation, one odd batch or one lazy state moves them little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ALPHA = 0.005
"""Growth is certain under this p value, and not before."""
_STILL_RATIO = 0.25
"""Growth in the last third, as a share of the growth over all, under which it has stopped."""
_FALL_RATIO = 0.5
WARM_UP = 5
"""One part in so many of the steps is left out at the begin."""
_FEWEST_STEPS = 8
_FEWEST_RISES = 4
_LEAST_BYTES = 1024**2

MOST_POINTS = 256
"""Longer series are cut into so many pieces, each the least of its values."""
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Trend:
    """Growth per step, its 95 % interval, and the one-sided p value of Mann-Kendall for "it grows"."""

    slope: float
    low: float
    high: float
    p_value: float


def find_trend(values: npt.ArrayLike) -> Trend:
    """The trend of a series with one value per step. Fewer than four values say nothing: p is 1."""
    series, stride = _thinned(np.asarray(values, dtype=np.float64))
    count = len(series)
    if count < 4:
        return Trend(0.0, 0.0, 0.0, 1.0)
    first, second = np.triu_indices(count, k=1)
    rises = series[second] - series[first]
    slopes = np.sort(rises / (second - first)) / stride
    score, spread = float(np.sign(rises).sum()), math.sqrt(_variance(series))
    if spread == 0:
        return Trend(float(np.median(slopes)), float(slopes[0]), float(slopes[-1]), 1.0)
    margin = _NORMAL_95 * spread
    low = max(int((len(slopes) - margin) / 2), 0)
    high = min(math.ceil((len(slopes) + margin) / 2), len(slopes) - 1)
    deviate = (score - math.copysign(1, score)) / spread if score else 0.0
    p_value = 0.5 * math.erfc(deviate / math.sqrt(2))
    return Trend(float(np.median(slopes)), float(slopes[low]), float(slopes[high]), p_value)


def _thinned(series: FloatArray) -> tuple[FloatArray, int]:
    stride = -(-len(series) // MOST_POINTS)
    if stride <= 1:
        return series, 1
    whole = len(series) // stride * stride
    return series[len(series) - whole :].reshape(-1, stride).min(axis=1), stride


def _variance(series: FloatArray) -> float:
    """Of Kendall's score when there is no trend; ties make it less."""
    count = len(series)
    _, ties = np.unique(series, return_counts=True)
    return float(_term(np.array([count])) - _term(ties)) / 18


def _term(counts: npt.NDArray[np.int64]) -> float:
    return float((counts * (counts - 1.0) * (2.0 * counts + 5)).sum())


def falls(level: FloatArray) -> bool:
    """Whether half or more of what there was goes at once."""
    highest = np.maximum.accumulate(level)
    return bool((highest - level > _FALL_RATIO * np.maximum(highest, 1)).any())


def has_stopped(level: FloatArray, births: IntArray) -> bool:
    """Whether the growth is over, or so much rarer in its second half that chance (5 %) does not explain it."""
    third = max(len(level) // 3, 1)
    began = int(np.argmax(level > 0))
    late = (level[-1] - level[-1 - third]) / third
    overall = level[-1] / max(len(level) - began, 1)
    if late <= _STILL_RATIO * overall:
        return True
    last = len(level) - 2
    if last - births[-1] > 2 * int(np.diff(births).max()):
        return True
    late_births = int((births > (births[0] + last) / 2).sum())
    return late_births < len(births) / 2 and _at_most(late_births, len(births)) < 0.05


def certain_growth(level: Sequence[float] | FloatArray, *, least_bytes: int = _LEAST_BYTES) -> Trend | None:
    """The trend of bytes at the end of each step if they certainly grow, still do, and never fell; else None.

    Cheap enough to be asked at the end of every step: a live session asks it of torch's allocated bytes.
    """
    first = len(level) // WARM_UP
    if len(level) - first < _FEWEST_STEPS or level[-1] - level[first] < least_bytes:
        return None
    watched = np.asarray(level[first:], dtype=np.float64)
    if falls(watched):
        return None
    rises = np.flatnonzero(np.diff(watched) > 0)
    trend = find_trend(watched)
    if len(rises) < _FEWEST_RISES or trend.p_value >= ALPHA or has_stopped(watched - watched[0], rises):
        return None
    return trend


def _at_most(successes: int, trials: int) -> float:
    """The binomial chance of so few of so many, each with 1/2."""
    if trials > 400:  # the normal approximation, which is exact enough from here on
        return 0.5 * math.erfc((trials / 2 - successes - 0.5) / math.sqrt(trials / 2))
    return float(sum(math.comb(trials, k) for k in range(successes + 1)) / 2**trials)
