from __future__ import annotations

import math

import numpy as np
import pytest

from vramprof.analyses.trend import certain_growth, find_trend


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


def test_growth_is_told_when_it_is_certain_and_not_before() -> None:
    leak = 10_000_000 + 512 * 1024.0 * np.arange(30)
    told = [certain_growth(leak[:steps]) is not None for steps in range(1, 31)]
    assert not any(told[:8])
    assert all(told[11:])
    assert certain_growth(np.minimum(leak, leak[6])) is None  # warm-up that ends
    assert certain_growth(np.tile(leak[:10], 3)) is None  # it comes back
    chance = np.random.default_rng(2)
    noise = [certain_growth(1e9 + chance.normal(0, 1e7, 60)) is not None for _ in range(200)]
    assert np.mean(noise) < 0.02
