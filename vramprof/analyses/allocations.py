"""Turns allocator events and dumped blocks into allocations: who lived where, from which event to which.

Block sizes follow torch's caching allocator (c10/cuda/CUDACachingAllocator.cpp): a request is rounded up to 512 bytes
(or by roundup_power2_divisions), and in the large pool a free remainder of up to 1 MiB is not split off. Such a
remainder therefore lies directly behind its block, and no free block of the large pool is ever that small. A request of
max_split_size or more gets a whole segment, with a remainder of up to 20 MiB.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vramprof.recording import Recording
from vramprof.recording.schema import NO_STACK, Action

IntArray = npt.NDArray[np.int64]

MIN_BLOCK_BYTES = 512
SMALL_BYTES = 1024**2
OVERSIZE_ROUNDING_BYTES = 20 * 1024**2
BEFORE = -1
"""Allocation row of what was alive before the first event."""


@dataclass(frozen=True, eq=False)
class Allocations:
    """One device's allocations as columns of equal length; rows are row numbers into the device's own events.

    An allocation holds its bytes from `alloc_row` (BEFORE: since before the window) up to `free_row` (event_count:
    never freed in the window); `completed_row` is when the block itself came back, later for other streams' uses.
    `size_bytes` is the block's size, `requested_bytes` what was asked for. `unmatched_count` frees had no allocation
    in the window, and `error_bytes` is the replayed live set less the dumped one: 0 when the window is whole.
    """

    device: int
    event_count: int
    time_ns: IntArray
    address: IntArray
    size_bytes: IntArray
    requested_bytes: IntArray
    alloc_row: IntArray
    free_row: IntArray
    completed_row: IntArray
    stack: IntArray
    unmatched_count: int
    error_bytes: int

    def alive(self, row: int) -> npt.NDArray[np.bool_]:
        """Which allocations hold their bytes right after event `row`."""
        return (self.alloc_row <= row) & (self.free_row > row)

    def newest(self, row: int) -> int | None:
        """The allocation made last up to event `row`; None where there is none in the window."""
        made = np.where(self.alloc_row <= row, self.alloc_row, BEFORE)
        return int(np.argmax(made)) if len(made) and made.max() != BEFORE else None


def rounded_bytes(requested_bytes: int, divisions: Mapping[int, int]) -> int:
    """The block size for a request before any unsplit remainder, in bytes.

    `divisions` is roundup_power2_divisions as {interval in MiB (1, 2, 4 ...): divisions}.
    """
    if requested_bytes < MIN_BLOCK_BYTES:
        return MIN_BLOCK_BYTES
    if divisions:
        power = min(max(requested_bytes.bit_length() - 1 - 20, 0), 15)
        parts = divisions.get(1 << power, 0)
        if parts > 1 and requested_bytes > MIN_BLOCK_BYTES * parts:
            return _next_division(requested_bytes, parts)
    return -(-requested_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES


def _next_division(size_bytes: int, parts: int) -> int:
    floor = 1 << (size_bytes.bit_length() - 1)
    if floor == size_bytes:
        return size_bytes
    step = floor // parts
    return 2 * floor if step == 0 else -(-size_bytes // step) * step


class _Builder:
    """The columns while the events are walked."""

    def __init__(self) -> None:
        self.address: list[int] = []
        self.requested: list[int] = []
        self.size: list[int] = []
        self.alloc_row: list[int] = []
        self.free_row: list[int] = []
        self.completed_row: list[int] = []
        self.stack: list[int] = []

    def add(self, address: int, requested: int, alloc_row: int, end_row: int, stack: int) -> int:
        self.address.append(address)
        self.requested.append(requested)
        self.size.append(0)
        self.alloc_row.append(alloc_row)
        self.free_row.append(end_row)
        self.completed_row.append(end_row)
        self.stack.append(stack)
        return len(self.address) - 1


def find_allocations(recording: Recording, device: int) -> Allocations:
    """Match every allocation of one device with its free, and size its block."""
    events = recording.events[recording.events["device"] == device]
    actions = events["action"].tolist()
    addresses = [int(a) for a in events["address"].tolist()]
    sizes = events["size_bytes"].tolist()
    stacks = events["stack"].tolist()
    builder = _Builder()
    live, unmatched = _match(builder, actions, addresses, sizes, stacks)
    known = _end_state(recording, device, builder, live, len(actions))
    settings = recording.metadata.get("allocator_settings") or {}
    segments = _Segments(recording, device, actions, addresses, sizes)
    _size_blocks(builder, known, settings, segments)
    return _finish(recording, device, events["time_ns"].to_numpy(dtype=np.int64), builder, unmatched)


def _match(
    builder: _Builder, actions: list[int], addresses: list[int], sizes: list[int], stacks: list[int]
) -> tuple[dict[int, int], int]:
    """Walk the events once; gives what is alive at the end, by address, and how many frees had no allocation."""
    alloc, requested, completed = int(Action.ALLOC), int(Action.FREE_REQUESTED), int(Action.FREE_COMPLETED)
    end = len(actions)
    live: dict[int, int] = {}
    unmatched = 0
    for row, action in enumerate(actions):
        if action > completed:
            continue
        address = addresses[row]
        if action == alloc:
            lost = live.get(address)
            if lost is not None and builder.free_row[lost] == end:
                builder.free_row[lost] = builder.completed_row[lost] = row
            live[address] = builder.add(address, sizes[row], row, end, stacks[row])
            continue
        index = live.get(address)
        if index is None:
            unmatched += 1
            index = live[address] = builder.add(address, sizes[row], BEFORE, end, stacks[row])
        if action == requested or builder.free_row[index] == end:
            builder.free_row[index] = row
        if action == completed:
            builder.completed_row[index] = row
            del live[address]
    return live, unmatched


def _end_state(recording: Recording, device: int, builder: _Builder, live: dict[int, int], end: int) -> dict[int, int]:
    """Add blocks that no event mentions; gives the exact block size by allocation where the dump tells it."""
    blocks = recording.blocks[recording.blocks["device"] == device]
    active = blocks[blocks["state"].str.startswith("active")]
    known: dict[int, int] = {}
    columns = ("address", "requested_bytes", "size_bytes", "stack", "state")
    for address, requested, size, stack, state in zip(*(active[c].tolist() for c in columns), strict=True):
        index = live.get(int(address))
        if index is None:
            index = builder.add(int(address), requested, BEFORE, end, stack)
            if state != "active_allocated":  # freed before the window, waiting for a stream
                builder.free_row[index] = BEFORE
        elif builder.stack[index] == NO_STACK:
            builder.stack[index] = stack
        known[index] = size
    return known


def _divisions(settings: Mapping[str, Any]) -> dict[int, int]:
    table = settings.get("roundup_power2_divisions") or {}
    if not isinstance(table, Mapping):
        return {}
    return {int(key): int(value) for key, value in table.items() if int(value) > 1}


_SEGMENT, _ENDS, _BEGINS = range(3)


class _Segments:
    """Where segments that are not expandable begin and end; starts before the window and is moved along its events."""

    def __init__(
        self, recording: Recording, device: int, actions: list[int], addresses: list[int], sizes: list[int]
    ) -> None:
        blocks = recording.blocks[recording.blocks["device"] == device].drop_duplicates("segment_address")
        self.expandable = bool(blocks["is_expandable"].any()) or int(Action.SEGMENT_MAP) in actions
        self._ends: dict[int, int] = {}
        self._starts: list[int] = []
        self.changes = [row for row, a in enumerate(actions) if a in (Action.SEGMENT_ALLOC, Action.SEGMENT_FREE)]
        self._events = (actions, addresses, sizes)
        rows = zip(blocks["segment_address"].tolist(), blocks["segment_size_bytes"].tolist(), strict=True)
        alive = {int(address): size for address, size in rows}
        for row in reversed(self.changes):
            if actions[row] == Action.SEGMENT_FREE:
                alive[addresses[row]] = sizes[row]
            else:
                alive.pop(addresses[row], None)
        for address, size in alive.items():
            self._add(address, size)

    def apply(self, row: int) -> None:
        """Move past the event of this row, a segment's alloc or free."""
        actions, addresses, sizes = self._events
        if actions[row] == Action.SEGMENT_ALLOC:
            self._add(addresses[row], sizes[row])
        else:
            self._remove(addresses[row])

    def _add(self, address: int, size: int) -> None:
        if address not in self._ends:
            bisect.insort(self._starts, address)
        self._ends[address] = address + size

    def _remove(self, address: int) -> None:
        if self._ends.pop(address, None) is not None:
            del self._starts[bisect.bisect_left(self._starts, address)]

    def end_of(self, address: int) -> int | None:
        """The end of the segment that holds this address."""
        position = bisect.bisect_right(self._starts, address) - 1
        if position < 0:
            return None
        end = self._ends[self._starts[position]]
        return end if address < end else None


def _size_blocks(builder: _Builder, known: dict[int, int], settings: Mapping[str, Any], segments: _Segments) -> None:
    divisions = _divisions(settings)
    whole_from = int(settings.get("max_split_size") or -1)
    for index, requested in enumerate(builder.requested):
        builder.size[index] = known.get(index) or rounded_bytes(requested, divisions)
    if segments.expandable:
        return  # every remainder of 512 bytes or more is split off
    large = [i for i, size in enumerate(builder.size) if size > SMALL_BYTES]
    changes = [(row, _SEGMENT, row) for row in segments.changes]
    changes += [(builder.alloc_row[i], _BEGINS, i) for i in large]
    changes += [(builder.completed_row[i], _ENDS, i) for i in large if builder.completed_row[i] != BEFORE]
    starts = sorted(builder.address[i] for i in large if builder.alloc_row[i] == BEFORE)
    for row, change, index in sorted(changes):
        if change == _SEGMENT:
            segments.apply(index)
        elif change == _ENDS:
            _discard(starts, builder.address[index])
        else:
            if row != BEFORE:
                bisect.insort(starts, builder.address[index])
            if index not in known:
                oversize = 0 < whole_from <= builder.size[index]
                _add_remainder(builder, index, starts, segments, OVERSIZE_ROUNDING_BYTES if oversize else SMALL_BYTES)


def _discard(starts: list[int], address: int) -> None:
    position = bisect.bisect_left(starts, address)
    if position < len(starts) and starts[position] == address:
        del starts[position]


def _add_remainder(builder: _Builder, index: int, starts: list[int], segments: _Segments, most: int) -> None:
    """Give the block the free bytes behind it, up to `most`, that were not split off."""
    address = builder.address[index]
    limit = segments.end_of(address)
    if limit is None:
        return
    position = bisect.bisect_right(starts, address)
    if position < len(starts):
        limit = min(limit, starts[position])
    remainder = limit - address - builder.size[index]
    if 0 < remainder <= most:
        builder.size[index] += remainder


def _finish(recording: Recording, device: int, time_ns: IntArray, builder: _Builder, unmatched: int) -> Allocations:
    blocks = recording.blocks[recording.blocks["device"] == device]
    dumped = int(blocks.loc[blocks["state"] == "active_allocated", "size_bytes"].sum())
    size, free_row = np.array(builder.size, dtype=np.int64), np.array(builder.free_row, dtype=np.int64)
    replayed = int(size[free_row == len(time_ns)].sum())
    return Allocations(
        device=device,
        event_count=len(time_ns),
        time_ns=time_ns,
        address=np.array(builder.address, dtype=np.uint64).astype(np.int64),
        size_bytes=size,
        requested_bytes=np.array(builder.requested, dtype=np.int64),
        alloc_row=np.array(builder.alloc_row, dtype=np.int64),
        free_row=free_row,
        completed_row=np.array(builder.completed_row, dtype=np.int64),
        stack=np.array(builder.stack, dtype=np.int64),
        unmatched_count=unmatched,
        error_bytes=replayed - dumped,
    )
