"""Turns timelines and samples into growth that no allocation explains: reserved alone, or the process outside torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import Allocations
from vramprof.analyses.spans import of_kind
from vramprof.analyses.timeline import Timeline
from vramprof.analyses.trend import WARM_UP, FloatArray, Trend, certain_growth, find_trend
from vramprof.analyses.windows import FEWEST, find_windows
from vramprof.recording import Recording


@dataclass(frozen=True)
class Elsewhere:
    """Trends in bytes per step, None where there is no certain growth.

    `fragmentation`: torch's reserved memory grows while what a step needs at most does not. `outside`: the process in
    NVML less reserved grows: extensions, communicators, plans and graphs of libraries. `headroom_bytes` is what is
    left for the steps to come, None if the card's size or its use is unknown.
    """

    fragmentation: Trend | None
    outside: Trend | None
    headroom_bytes: int | None


def find_elsewhere(
    recording: Recording, allocations: Allocations, timeline: Timeline, *, total_bytes: int, outside_bytes: int | None
) -> Elsewhere:
    """Growth of one device outside its allocations, and the room that is left."""
    reserved, peaks = _by_step(recording, allocations, timeline)
    trend = certain_growth(reserved)
    if trend is not None and find_trend(peaks[len(peaks) // WARM_UP :]).slope > trend.slope / 2:
        trend = None
    headroom = None
    if total_bytes and outside_bytes is not None and len(timeline.allocated_bytes):
        highest = int(peaks[-3:].max()) if len(peaks) else int(timeline.allocated_bytes.max())
        headroom = max(total_bytes - outside_bytes - highest, 0)
    return Elsewhere(trend, certain_growth(_outside(recording, allocations.device)), headroom)


def _by_step(recording: Recording, allocations: Allocations, timeline: Timeline) -> tuple[FloatArray, FloatArray]:
    """Reserved at the end of each step, and the most that each had allocated."""
    edges = find_windows(recording, allocations).edges
    if len(edges) <= FEWEST:
        return np.zeros(0), np.zeros(0)
    reserved = timeline.reserved_bytes[edges[1:]].astype(np.float64)
    peaks = np.maximum.reduceat(timeline.allocated_bytes, edges[:-1])
    return reserved, peaks.astype(np.float64)


def _outside(recording: Recording, device: int) -> FloatArray:
    """The process less reserved at the end of each step, from the last sample before it."""
    samples = recording.samples[recording.samples["device"] == device]
    both = samples[(samples["process_bytes"] >= 0) & (samples["reserved_bytes"] >= 0)].sort_values("time_ns")
    values = (both["process_bytes"] - both["reserved_bytes"]).to_numpy(dtype=np.float64)
    ends = of_kind(recording.spans, "step")["end_ns"].to_numpy(dtype=np.int64)
    if len(values) == 0 or len(ends) < FEWEST:
        return np.zeros(0)
    last = np.searchsorted(both["time_ns"].to_numpy(dtype=np.int64), ends, side="right") - 1
    return values[np.maximum(last, 0)]
