from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramprof.analyses.allocations import rounded_bytes


@pytest.mark.parametrize(
    ("requested", "rounded"), [(0, 512), (1, 512), (512, 512), (513, 1024), (1_048_577, 1_049_088)]
)
def test_requests_round_up_to_512(requested: int, rounded: int) -> None:
    assert rounded_bytes(requested, {}) == rounded


def test_power_of_two_divisions() -> None:
    assert rounded_bytes(1200 * 1024**2, {1024: 4}) == 1280 * 1024**2
    assert rounded_bytes(1024**3, {1024: 4}) == 1024**3


@given(st.integers(min_value=1, max_value=2**40), st.sampled_from([0, 2, 4, 8, 16]))
def test_rounding_never_shrinks(requested: int, parts: int) -> None:
    rounded = rounded_bytes(requested, {1 << power: parts for power in range(16)})
    assert requested <= rounded <= max(2 * requested, 512)
