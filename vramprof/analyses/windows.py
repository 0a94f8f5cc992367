"""Turns a recording into steps as rows of one device's events; where no steps are known, repetition stands in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import BEFORE, Allocations, IntArray
from vramprof.analyses.spans import of_kind
from vramprof.recording import Recording

FEWEST = 6
"""Fewer steps than this show no trend."""
_TOOTH_RATIO = 0.3
"""How much of all that memory rose and fell by it must fall at once to end a step that nobody marked."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Step k is made of the events `edges[k]` up to `edges[k + 1]`.

    `basis` is "steps", "optimizer steps" or "rises and falls of memory".
    """

    basis: str
    edges: IntArray

    @property
    def count(self) -> int:
        """How many steps there are."""
        return max(len(self.edges) - 1, 0)

    def of_rows(self, rows: IntArray) -> IntArray:
        """The step of each event row; -1 before the first, `count` after the last."""
        return np.searchsorted(self.edges, rows, side="right").astype(np.int64) - 1


def find_windows(recording: Recording, allocations: Allocations) -> Windows:
    """The best steps that this recording has.

    Where none are marked, as in a plain snapshot, memory's own large rises and falls are the steps: those of a training
    loop are. What merely repeats within one step, layers of a forward or parameters of an optimizer, is none.
    """
    if allocations.event_count == 0:
        return Windows("steps", np.zeros(0, dtype=np.int64))
    for basis, kind in (("steps", "step"), ("optimizer steps", "optimizer")):
        edges = _edges_of_spans(recording, allocations, kind)
        if len(edges) > 2:
            return Windows(basis, edges)
    return Windows("rises and falls of memory", _teeth(allocations))


def _edges_of_spans(recording: Recording, allocations: Allocations, kind: str) -> IntArray:
    spans = of_kind(recording.spans, kind)
    if spans.empty:
        return np.zeros(0, dtype=np.int64)
    times = np.concatenate([spans["begin_ns"].to_numpy()[:1], spans["end_ns"].to_numpy()]).astype(np.int64)
    edges = np.unique(np.searchsorted(allocations.time_ns, np.sort(times), side="left"))
    return edges.astype(np.int64)


def _teeth(allocations: Allocations) -> IntArray:
    """The rows at which memory is lowest between two large falls."""
    made, freed = allocations.alloc_row != BEFORE, allocations.free_row < allocations.event_count
    ended = freed & (allocations.free_row != BEFORE)
    delta = np.zeros(allocations.event_count + 1, dtype=np.int64)
    np.add.at(delta, allocations.alloc_row[made] + 1, allocations.size_bytes[made])
    np.subtract.at(delta, allocations.free_row[ended] + 1, allocations.size_bytes[ended])
    level = np.cumsum(delta).tolist()
    tooth = _TOOTH_RATIO * (max(level) - min(level))
    edges, highest, lowest, falling = [0], level[0], level[0], False
    lowest_row = 0
    for row, bytes_ in enumerate(level):
        if falling and bytes_ < lowest:
            lowest, lowest_row = bytes_, row
        elif falling and bytes_ - lowest > tooth:
            edges.append(lowest_row)
            highest, falling = bytes_, False
        elif not falling and bytes_ > highest:
            highest = bytes_
        elif not falling and highest - bytes_ > tooth:
            lowest, lowest_row, falling = bytes_, row, True
    if falling:
        edges.append(lowest_row)
    return np.unique(np.array(edges, dtype=np.int64)) if tooth else np.zeros(0, dtype=np.int64)
