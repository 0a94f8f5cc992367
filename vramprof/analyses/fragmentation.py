"""Turns the allocator's state at one moment into its free bytes by cause, and into who holds segments open.

The moment is the last failed request; where none failed, the one that made torch reserve more than ever before: what
lay free then is what that request could not use. torchrec's words for the causes: hard (live blocks between holes:
`split`), soft (segments too small by themselves: `whole`), stream-bound (`other_streams`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import SMALL_BYTES, Allocations, IntArray, rounded_bytes
from vramprof.analyses.allocator_state import StateSegment, find_state
from vramprof.analyses.frames import users_first
from vramprof.analyses.timeline import Timeline
from vramprof.emulator.tape import HOLE, UNMAPPED
from vramprof.errors import RecordingError
from vramprof.recording import Frame, Recording
from vramprof.recording.schema import NO_STACK, Action

_TAKEN = (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP)


@dataclass(frozen=True)
class FreeBytes:
    """Reserved and not handed out, by why the request could not have it; the parts sum to `total`.

    `whole` segments are free from end to end; `split` ones hold live blocks too. `pending` blocks were freed by the
    program and waited for another stream.
    """

    whole: int = 0
    split: int = 0
    other_streams: int = 0
    private_pools: int = 0
    other_size_class: int = 0
    pending: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Pin:
    """Live blocks of one line that keep segments from being given back or joined: their bytes, and the holes there."""

    frames: tuple[Frame, ...]
    held_bytes: int
    block_count: int
    hole_bytes: int


@dataclass(frozen=True)
class Request:
    """What was asked of the allocator: a block of these bytes on this stream, by this stack."""

    size_bytes: int
    stream: int = 0
    stack: int = NO_STACK

    @property
    def is_small(self) -> bool:
        """Whether the pool of small blocks serves it."""
        return self.size_bytes <= SMALL_BYTES

    def may_use(self, segment: StateSegment) -> bool:
        """Whether a free block of this segment can serve it, if large enough."""
        return segment.pool == "0,0" and segment.stream == self.stream and segment.is_small == self.is_small


@dataclass(frozen=True, eq=False)
class Fragmentation:
    """What torch had reserved and could not use, right after event `row`, when `request` came.

    `largest_hole_bytes` is the largest free block that the request was allowed to use. `hidden` is why free bytes, pins
    and segments are not known, and empty if they are.
    """

    row: int
    time_ns: int
    request: Request
    frames: tuple[Frame, ...]
    reserved_bytes: int
    allocated_bytes: int
    rounding_bytes: int
    free: FreeBytes = FreeBytes()
    largest_hole_bytes: int = 0
    pins: tuple[Pin, ...] = ()
    segments: tuple[StateSegment, ...] = ()
    hidden: str = ""


def find_fragmentation(recording: Recording, allocations: Allocations, timeline: Timeline) -> Fragmentation:
    """The worst moment of one device: its last failed request, else the one that raised reserved to its highest."""
    events = recording.events[recording.events["device"] == allocations.device]
    actions = events["action"].to_numpy()
    failed = np.flatnonzero(actions == Action.OOM)
    row, at = (int(failed[-1]),) * 2 if len(failed) else _growth(actions, timeline)
    request = Request(SMALL_BYTES + 1)
    if at >= 0:
        event = events.iloc[at]
        request = Request(
            rounded_bytes(int(event["size_bytes"]), {}),
            int(np.uint64(event["stream"]).astype(np.int64)),
            int(event["stack"]),
        )
    alive = allocations.alive(row)
    free, largest, pins, segments, hidden = FreeBytes(), 0, tuple[Pin, ...](), tuple[StateSegment, ...](), ""
    try:
        if recording.metadata.get("segments") == "unknown":
            raise RecordingError("a profiler's trace has no segments")
        segments = tuple(find_state(recording, allocations, row=row)[0])
        free, largest = _free_bytes(segments, request, allocations, row)
        pins = tuple(_pins(recording, segments, request, allocations))
    except RecordingError as error:
        hidden = str(error)
    return Fragmentation(
        row=row,
        time_ns=int(timeline.time_ns[row + 1]),
        request=request,
        frames=users_first(recording.stacks.get(request.stack)),
        reserved_bytes=int(timeline.reserved_bytes[row + 1]),
        allocated_bytes=int(timeline.allocated_bytes[row + 1]),
        rounding_bytes=int((allocations.size_bytes - allocations.requested_bytes)[alive].sum()),
        free=free,
        largest_hole_bytes=largest,
        pins=pins,
        segments=segments,
        hidden=hidden,
    )


def _growth(actions: IntArray, timeline: Timeline) -> tuple[int, int]:
    """The event before torch reserved the most, and the one with the request that made it; -1 where none is recorded.

    A window that begins with the most reserved has no such request: then the fullest moment of those counts.
    """
    reserved = timeline.reserved_bytes
    highest = int(np.argmax(reserved))
    if not highest or actions[highest - 1] not in _TAKEN:
        fullest = np.where(reserved == reserved[highest], timeline.allocated_bytes, -1)
        return int(np.argmax(fullest)) - 1, -1
    asked = np.flatnonzero(actions[highest:] == Action.ALLOC)
    return highest - 2, highest + int(asked[0]) if len(asked) else -1


def hole_sizes(segment: StateSegment) -> list[int]:
    """The free blocks of a segment, in bytes."""
    return [size for slot, size in segment.blocks if slot == HOLE]


def held_sizes(segment: StateSegment) -> list[int]:
    """The live blocks of a segment, in bytes."""
    return [size for slot, size in segment.blocks if slot not in (HOLE, UNMAPPED)]


def _free_bytes(
    segments: tuple[StateSegment, ...], request: Request, allocations: Allocations, row: int
) -> tuple[FreeBytes, int]:
    parts = dict.fromkeys(FreeBytes.__dataclass_fields__, 0)
    largest = 0
    for segment in segments:
        holes = hole_sizes(segment)
        if segment.pool != "0,0":
            name = "private_pools"
        elif segment.stream != request.stream:
            name = "other_streams"
        elif segment.is_small != request.is_small:
            name = "other_size_class"
        else:
            name = "split" if held_sizes(segment) else "whole"
            largest = max([largest, *holes])
        parts[name] += sum(holes)
    pending = (allocations.free_row <= row) & (allocations.completed_row > row) & (allocations.alloc_row <= row)
    parts["pending"] = int(allocations.size_bytes[pending].sum())
    return FreeBytes(**parts), largest


def _pins(
    recording: Recording, segments: tuple[StateSegment, ...], request: Request, allocations: Allocations
) -> Iterator[Pin]:
    """Live blocks beside the holes that the request might have used, by the line that allocated them."""
    found: dict[int, list[int]] = {}
    for segment in segments:
        hole_bytes, total = sum(hole_sizes(segment)), sum(held_sizes(segment))
        if not hole_bytes or not total or not request.may_use(segment):
            continue
        for slot, size in segment.blocks:
            if slot >= 0:
                row = found.setdefault(int(allocations.stack[slot]), [0, 0, 0])
                row[0] += size
                row[1] += 1
                row[2] += hole_bytes * size // total
    for stack, (held, count, holes) in sorted(found.items(), key=lambda item: -item[1][2]):
        yield Pin(users_first(recording.stacks.get(stack)), held, count, holes)
