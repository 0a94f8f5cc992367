"""Turns segment events and dumped segments into ranges of reserved memory, each from one event to another."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import BEFORE, IntArray
from vramprof.recording import Recording
from vramprof.recording.schema import Action

_MADE = (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP)
_GIVEN_BACK = (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP)


@dataclass(frozen=True, eq=False)
class Segments:
    """Ranges of addresses that torch held, as columns: from `begin_row` (BEFORE: since before the window) up to
    `end_row` (event_count: still held at the end). A range that was given back in part is several rows."""

    address: IntArray
    size_bytes: IntArray
    begin_row: IntArray
    end_row: IntArray

    def alive(self, row: int) -> IntArray:
        """Positions of the ranges held right after event `row`, by address."""
        found = np.flatnonzero((self.begin_row <= row) & (self.end_row > row))
        return found[np.argsort(self.address[found], kind="stable")]


def find_segments(recording: Recording, device: int) -> Segments:
    """Walk the events backward from the dumped segments, so that a window that begins late is right too."""
    events = recording.events[recording.events["device"] == device].reset_index(drop=True)
    blocks = recording.blocks[recording.blocks["device"] == device].drop_duplicates("segment_address")
    count = len(events)
    walk = _Walk()
    for address, size in zip(blocks["segment_address"].tolist(), blocks["segment_size_bytes"].tolist(), strict=True):
        walk.give(int(address), int(address) + int(size), count)
    changes = events[events["action"].isin((*_MADE, *_GIVEN_BACK))].iloc[::-1]
    columns = (changes.index, changes["action"], changes["address"], changes["size_bytes"])
    for row, action, address, size in zip(*(column.tolist() for column in columns), strict=True):
        if action in _MADE:
            walk.take(int(address), int(address) + size, row, count)
        else:
            walk.give(int(address), int(address) + size, row)
    return walk.finish()


class _Walk:
    """Ranges open while going backward in time: start -> (end, the row at which they end)."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, int]] = {}
        self._starts: list[int] = []
        self._rows: list[tuple[int, int, int, int]] = []

    def give(self, begin: int, end: int, end_row: int) -> None:
        """The range was held before this moment."""
        if begin not in self._open:
            bisect.insort(self._starts, begin)
        self._open[begin] = (end, end_row)

    def take(self, begin: int, end: int, row: int, count: int) -> None:
        """The range was made at `row`: before it, there was none."""
        covered = 0
        for start in self._overlapping(begin, end):
            stop, end_row = self._open.pop(start)
            self._starts.remove(start)
            left, right = max(start, begin), min(stop, end)
            covered += right - left
            self._rows.append((left, right - left, row, end_row))
            if start < left:
                self.give(start, left, end_row)
            if right < stop:
                self.give(right, stop, end_row)
        if not covered:  # no dump: it was never given back, as far as the events tell
            self._rows.append((begin, end - begin, row, count))

    def _overlapping(self, begin: int, end: int) -> list[int]:
        first = max(bisect.bisect_right(self._starts, begin) - 1, 0)
        last = bisect.bisect_left(self._starts, end)
        return [start for start in self._starts[first:last] if self._open[start][0] > begin]

    def finish(self) -> Segments:
        """What is still open was there before the window."""
        self._rows += [(start, stop - start, BEFORE, row) for start, (stop, row) in self._open.items()]
        table = np.array(sorted(self._rows), dtype=np.int64).reshape(-1, 4)
        return Segments(table[:, 0], table[:, 1], table[:, 2], table[:, 3])
