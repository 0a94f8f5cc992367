"""Turns a recording into steps as rows of one device's events; where no steps are known, repetition stands in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import BEFORE, Allocations, IntArray
from vramprof.analyses.spans import of_kind
from vramprof.recording import Recording

FEWEST = 6
"""Fewer steps than this show no trend."""
_PIECES = 24
_EVEN = 0.35
"""Coefficient of variation under which the distances between a stack's allocations count as even."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Step k is made of the events `edges[k]` up to `edges[k + 1]`.

    `basis` is "steps", "optimizer steps", "a repeating stack" or "equal parts of the history".
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
    """The best steps that this recording has."""
    if allocations.event_count == 0:
        return Windows("steps", np.zeros(0, dtype=np.int64))
    for basis, kind in (("steps", "step"), ("optimizer steps", "optimizer")):
        edges = _edges_of_spans(recording, allocations, kind)
        if len(edges) > FEWEST:
            return Windows(basis, edges)
    edges = _repeating(allocations)
    if len(edges) > FEWEST:
        return Windows("a repeating stack", edges)
    edges = np.unique(np.linspace(0, allocations.event_count, _PIECES + 1).astype(np.int64))
    return Windows("equal parts of the history", edges)


def _edges_of_spans(recording: Recording, allocations: Allocations, kind: str) -> IntArray:
    spans = of_kind(recording.spans, kind)
    if spans.empty:
        return np.zeros(0, dtype=np.int64)
    times = np.concatenate([spans["begin_ns"].to_numpy()[:1], spans["end_ns"].to_numpy()]).astype(np.int64)
    edges = np.unique(np.searchsorted(allocations.time_ns, np.sort(times), side="left"))
    return edges.astype(np.int64)


def _repeating(allocations: Allocations) -> IntArray:
    """Where the stack allocates that comes back most evenly over the whole history; the rarest of the even ones."""
    made = allocations.alloc_row != BEFORE
    stacks, rows = allocations.stack[made], allocations.alloc_row[made]
    order = np.argsort(stacks, kind="stable")
    names, starts = np.unique(stacks[order], return_index=True)
    best: IntArray = np.zeros(0, dtype=np.int64)
    for name, group in zip(names, np.split(rows[order], starts[1:])[: len(names)], strict=True):
        if name < 0 or len(group) <= FEWEST or len(group) > 20_000:
            continue
        places = np.sort(group)
        gaps = np.diff(places)
        covers = places[-1] - places[0] > 0.6 * allocations.event_count
        even = gaps.std() < _EVEN * gaps.mean()
        if covers and even and (len(best) == 0 or len(places) < len(best)):
            best = places
    return best
