"""Turns a series into its trend: the Mann-Kendall test for growth, and the Theil-Sen slope with its interval.

Mann 1945 and Kendall 1975 (with the correction for ties), Theil 1950, Sen 1968 (the slope's interval). Both look at
the order of values alone, so that one evaluation, one odd batch or one lazy state moves them little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

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
