"""Turns segment events and dumped segments into ranges of reserved memory, each from one event to another."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vramprof.analyses.allocations import BEFORE, IntArray
from vramprof.recording import Recording
from vramprof.recording.schema import Action

_MADE = (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP)
_GIVEN_BACK = (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP)


@dataclass(frozen=True, eq=False)
class Segments:
    """Ranges of addresses that torch held, as columns: from `begin_row` (BEFORE: since before the window) up to
    `end_row` (event_count: still held at the end). A range that was given back in part is several rows; `mapped`
    ranges are pieces of expandable segments, where blocks lie across neighbours."""

    address: IntArray
    size_bytes: IntArray
    begin_row: IntArray
    end_row: IntArray
    mapped: npt.NDArray[np.bool_]

    def held(self, row: int) -> tuple[IntArray, IntArray]:
        """Addresses and sizes of what was held right after event `row`, neighbouring mapped ranges as one."""
        found = np.flatnonzero((self.begin_row <= row) & (self.end_row > row))
        found = found[np.argsort(self.address[found], kind="stable")]
        address, end, mapped = self.address[found], (self.address + self.size_bytes)[found], self.mapped[found]
        begins = np.ones(len(found), dtype=np.bool_)
        begins[1:] = ~((address[1:] == end[:-1]) & mapped[1:] & mapped[:-1])
        ends = np.append(begins[1:], True)[: len(found)]
        return address[begins], end[ends] - address[begins]


def find_segments(recording: Recording, device: int) -> Segments:
    """Walk the events backward from the dumped segments, so that a window that begins late is right too."""
    events = recording.events[recording.events["device"] == device].reset_index(drop=True)
    blocks = recording.blocks[recording.blocks["device"] == device].drop_duplicates("segment_address")
    count = len(events)
    walk = _Walk()
    columns = ("segment_address", "segment_size_bytes", "is_expandable")
    for address, size, expandable in zip(*(blocks[column].tolist() for column in columns), strict=True):
        walk.give(int(address), int(address) + int(size), (count, expandable))
    changes = events[events["action"].isin((*_MADE, *_GIVEN_BACK))].iloc[::-1]
    rows = (changes.index, changes["action"], changes["address"], changes["size_bytes"])
    for row, action, address, size in zip(*(column.tolist() for column in rows), strict=True):
        mapped = action in (Action.SEGMENT_MAP, Action.SEGMENT_UNMAP)
        if action in _MADE:
            walk.take(int(address), int(address) + size, row, (count, mapped))
        else:
            walk.give(int(address), int(address) + size, (row, mapped))
    return walk.finish()


_Fate = tuple[int, bool]
"""The row at which a range ends, and whether it is mapped."""


class _Walk:
    """Ranges open while going backward in time: start -> (end, fate)."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, _Fate]] = {}
        self._starts: list[int] = []
        self._rows: list[tuple[int, int, int, int, bool]] = []

    def give(self, begin: int, end: int, fate: _Fate) -> None:
        """The range was held before this moment."""
        if begin not in self._open:
            bisect.insort(self._starts, begin)
        self._open[begin] = (end, fate)

    def take(self, begin: int, end: int, row: int, otherwise: _Fate) -> None:
        """The range was made at `row`: before it, there was none. What no dump tells has the other fate."""
        covered = 0
        for start in self._overlapping(begin, end):
            stop, fate = self._open.pop(start)
            self._starts.remove(start)
            left, right = max(start, begin), min(stop, end)
            covered += right - left
            self._rows.append((left, right - left, row, *fate))
            if start < left:
                self.give(start, left, fate)
            if right < stop:
                self.give(right, stop, fate)
        if not covered:  # no dump: it was never given back, as far as the events tell
            self._rows.append((begin, end - begin, row, *otherwise))

    def _overlapping(self, begin: int, end: int) -> list[int]:
        first = max(bisect.bisect_right(self._starts, begin) - 1, 0)
        last = bisect.bisect_left(self._starts, end)
        return [start for start in self._starts[first:last] if self._open[start][0] > begin]

    def finish(self) -> Segments:
        """What is still open was there before the window."""
        self._rows += [(start, stop - start, BEFORE, *fate) for start, (stop, fate) in self._open.items()]
        table = np.array(sorted(self._rows), dtype=np.int64).reshape(-1, 5)
        address, size, begin, end, mapped = table.T
        return Segments(address, size, begin, end, mapped.astype(np.bool_))
