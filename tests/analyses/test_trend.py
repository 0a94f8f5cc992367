from __future__ import annotations

import math

import numpy as np
import pytest

from vramprof.analyses.trend import find_trend


def test_mann_kendall_by_its_definition() -> None:
    series = [3, 1, 2, 5, 4, 6, 8, 7]
    score = sum(np.sign(b - a) for i, a in enumerate(series) for b in series[i + 1 :])
    deviate = (score - 1) / math.sqrt(8 * 7 * 21 / 18)
    assert find_trend(series).p_value == pytest.approx(0.5 * math.erfc(deviate / math.sqrt(2)))


def test_slope_survives_outliers_and_the_interval_holds_it() -> None:
    chance = np.random.default_rng(0)
    series = 512.0 * np.arange(40) + chance.normal(0, 300, 40)
    series[[5, 20]] = 1e9
    trend = find_trend(series)
    assert trend.low < 512 < trend.high
    assert trend.slope == pytest.approx(512, rel=0.1)
    assert trend.p_value < 1e-6


def test_noise_is_no_growth() -> None:
    chance = np.random.default_rng(1)
    found = [find_trend(chance.normal(size=30)).p_value < 0.005 for _ in range(400)]
    assert np.mean(found) < 0.02


def test_flat_and_short_series_say_nothing() -> None:
    assert find_trend(np.zeros(50)).p_value == 1
    assert find_trend([1, 2, 3]).p_value == 1


def test_ten_thousand_steps_keep_their_slope() -> None:
    trend = find_trend(512.0 * np.arange(10_000))
    assert trend.slope == pytest.approx(512)
