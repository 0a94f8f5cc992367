"""Turns a device's timeline into few enough points to draw, by category, never losing a peak."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vramprof.analyses.allocations import IntArray
from vramprof.analyses.attribution import CATEGORIES
from vramprof.analyses.timeline import held_bytes
from vramprof.findings import DeviceFacts


@dataclass(frozen=True, eq=False)
class Series:
    """`by_category[name][i]` bytes at `time_ns[i]`; at each point the categories sum to allocated."""

    event: IntArray
    time_ns: IntArray
    allocated_bytes: IntArray
    reserved_bytes: IntArray
    by_category: dict[str, IntArray]


def make_series(device: DeviceFacts, most_points: int) -> Series:
    """At most about `most_points` moments: each share of the events gives its highest and its last."""
    allocated = device.timeline.allocated_bytes
    chosen = _moments(allocated, most_points)
    attribution, allocations = device.attribution, device.allocations
    by_category = {}
    for number, name in enumerate(CATEGORIES):
        sizes = np.where(attribution.category == number, allocations.size_bytes, 0)
        if sizes.any():
            by_category[name] = held_bytes(allocations, sizes)[chosen]
    timeline = device.timeline
    return Series(chosen, timeline.time_ns[chosen], allocated[chosen], timeline.reserved_bytes[chosen], by_category)


def _moments(allocated: IntArray, most_points: int) -> IntArray:
    count = len(allocated)
    if count <= most_points:
        return np.arange(count, dtype=np.int64)
    edges = np.linspace(0, count, most_points // 2 + 1).astype(np.int64)
    highest = [int(begin) + int(np.argmax(allocated[begin:end])) for begin, end in pairwise(edges)]
    return np.unique(np.array([0, *highest, *(edges[1:] - 1)], dtype=np.int64))
