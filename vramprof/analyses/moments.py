"""Turns the names that the program's tensors had at moments into rows: when that was, and which allocation it was."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import BEFORE, Allocations, IntArray
from vramprof.analyses.spans import of_kind
from vramprof.recording import Recording
from vramprof.recording.schema import NO_CONTEXT, Action

_MOST_NEIGHBOURS = 64
_CLOCK_NS = 20_000
"""How far torch's event clock and Python's may disagree, where a moment has a time alone."""


@dataclass(frozen=True)
class Interval:
    """Events [begin_row, end_row) of a device."""

    begin_row: int
    end_row: int


@dataclass(frozen=True)
class Name:
    """An allocation that had a name: its index, at which event, the category and the name."""

    allocation: int
    row: int
    category: str
    name: str


class Moments:
    """Where in one device's events the moments of the table "tensors" lie."""

    def __init__(self, recording: Recording, allocations: Allocations) -> None:
        events = recording.events[recording.events["device"] == allocations.device]
        marks = np.flatnonzero(
            (events["action"].to_numpy() == Action.ANNOTATE) & (events["context"].to_numpy() != NO_CONTEXT)
        )
        moments = events["context"].to_numpy()[marks]
        self._rows = dict(zip(moments.tolist(), marks.tolist(), strict=True))
        self._times = allocations.time_ns
        self.tensors = recording.tensors[recording.tensors["device"] == allocations.device]

    def row(self, moment: int, time_ns: int) -> int:
        """The event at, or before, a moment."""
        found = self._rows.get(moment)
        return int(np.searchsorted(self._times, time_ns + _CLOCK_NS)) - 1 if found is None else found

    def rows_at(self, times_ns: IntArray) -> list[int]:
        """The first event at, or after, each time."""
        found: list[int] = np.searchsorted(self._times, times_ns).tolist()
        return found

    def is_exact(self, moment: int) -> bool:
        """Whether torch's own history has the moment."""
        return moment in self._rows


def backward_intervals(recording: Recording, moments: Moments, event_count: int) -> tuple[Interval, ...]:
    """Every outermost backward pass, in order; one that an exception cut off goes on to the end."""
    if not (moments.tensors["category"] == "moment").any():
        spans = of_kind(recording.spans, "backward")
        rows = (moments.rows_at(spans[column].to_numpy(dtype=np.int64)) for column in ("begin_ns", "end_ns"))
        return tuple(Interval(begin, end) for begin, end in zip(*rows, strict=True))
    table = moments.tensors[moments.tensors["category"] == "moment"].drop_duplicates("moment")
    begins: list[int] = []
    found: list[Interval] = []
    for moment, time_ns, name in zip(*(table[c].tolist() for c in ("moment", "time_ns", "name")), strict=True):
        row = moments.row(moment, time_ns)
        if name == "backward begins":
            begins.append(row)
        elif begins:
            begin = begins.pop()
            if not begins:
                found.append(Interval(begin, row))
    if begins:
        found.append(Interval(begins[0], event_count))
    return tuple(found)


def find_names(moments: Moments, allocations: Allocations) -> Iterator[Name]:
    """Every allocation that was alive under a name, in the order of naming."""
    blocks = _Blocks(allocations)
    columns = ("moment", "time_ns", "address", "category", "name")
    for moment, time_ns, address, category, name in zip(*(moments.tensors[c].tolist() for c in columns), strict=True):
        if category != "moment":
            slack = 0 if moments.is_exact(moment) else _CLOCK_NS
            row = moments.row(moment, time_ns)
            index = blocks.holder(int(address), row, time_ns, slack)
            if index is not None:
                yield Name(index, row, category, name)


class _Blocks:
    """Allocations by address, each address's in the order of time."""

    def __init__(self, allocations: Allocations) -> None:
        self._by_base: dict[int, list[int]] = {}
        for index, address in enumerate(allocations.address.tolist()):
            self._by_base.setdefault(address, []).append(index)
        self._bases = sorted(self._by_base)
        self._begin, self._end = allocations.alloc_row.tolist(), allocations.free_row.tolist()
        self._size = allocations.size_bytes.tolist()
        self._times = [*allocations.time_ns.tolist(), np.iinfo(np.int64).max]

    def holder(self, address: int, row: int, time_ns: int, slack_ns: int) -> int | None:
        """The allocation that held this address at a row, or, with slack, about a time."""
        place = bisect_right(self._bases, address) - 1
        for base in reversed(self._bases[max(place - _MOST_NEIGHBOURS, 0) : place + 1]):
            for index in self._by_base[base]:
                if base + self._size[index] > address and self._held(index, row, time_ns, slack_ns):
                    return index
        return None

    def _held(self, index: int, row: int, time_ns: int, slack_ns: int) -> bool:
        begin, end = self._begin[index], self._end[index]
        if not slack_ns:
            return bool(begin <= row < end)
        began = 0 if begin == BEFORE else self._times[begin]
        ended = 0 if end == BEFORE else self._times[end]
        return bool(began - slack_ns <= time_ns <= ended)
