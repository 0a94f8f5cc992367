"""Turns a recording's last out-of-memory event into what torch's allocator had free then, and why it was no use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import Allocations, rounded_bytes
from vramprof.analyses.allocator_state import StateSegment, find_state
from vramprof.analyses.causes import OomFigures
from vramprof.analyses.frames import users_first
from vramprof.analyses.replay_tape import available_bytes, expandable
from vramprof.analyses.timeline import Timeline
from vramprof.emulator.tape import HOLE
from vramprof.errors import RecordingError
from vramprof.recording import Frame, Recording
from vramprof.recording.schema import Action

_LARGE_SEGMENT_BYTES, _ROUND_BYTES = 20 << 20, 2 << 20


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


@dataclass(frozen=True, eq=False)
class OomState:
    """The last failed request of one device. `requested_bytes` is the block; torch asked for a segment of `tried`.

    `largest_hole_bytes` is the largest free block that the request was allowed to use. `hidden` is why free bytes and
    pins are not known, and empty if they are.
    """

    row: int
    time_ns: int
    frames: tuple[Frame, ...]
    requested_bytes: int
    figures: OomFigures
    free: FreeBytes
    largest_hole_bytes: int
    rounding_bytes: int
    pins: tuple[Pin, ...]
    hidden: str = ""


def find_oom(recording: Recording, allocations: Allocations, timeline: Timeline) -> OomState | None:
    """The last out-of-memory event of a device, if there is one."""
    events = recording.events[recording.events["device"] == allocations.device]
    rows = np.flatnonzero(events["action"].to_numpy() == Action.OOM)
    if not len(rows):
        return None
    row = int(rows[-1])
    event = events.iloc[row]
    requested = rounded_bytes(int(event["size_bytes"]), {})
    alive = (allocations.alloc_row <= row) & (allocations.completed_row > row)
    held = int(allocations.size_bytes[alive].sum())
    free, largest, hidden = FreeBytes(), 0, ""
    pins: tuple[Pin, ...] = ()
    try:
        segments, _ = find_state(recording, allocations, row=row)
        is_small, stream = requested <= 1 << 20, int(np.uint64(event["stream"]).astype(np.int64))
        free, largest = _free_bytes(segments, stream, is_small, allocations, row)
        pins = tuple(_pins(recording, segments, stream, is_small, allocations))
    except RecordingError as error:
        hidden = str(error)
    return OomState(
        row=row,
        time_ns=int(event["time_ns"]),
        frames=users_first(recording.stacks.get(int(event["stack"]))),
        requested_bytes=requested,
        figures=_figures(recording, allocations, timeline, row, requested, held, free),
        free=free,
        largest_hole_bytes=largest,
        rounding_bytes=held - int(allocations.requested_bytes[alive].sum()),
        pins=pins,
        hidden=hidden,
    )


def segment_bytes(block_bytes: int, *, is_expandable: bool) -> int:
    """What the driver is asked for when a block of this size finds no room."""
    page = _ROUND_BYTES
    if is_expandable:
        page = 2 << 20 if block_bytes <= 1 << 20 else _LARGE_SEGMENT_BYTES
    elif block_bytes <= 1 << 20:
        return 2 << 20
    elif block_bytes < 10 << 20:
        return _LARGE_SEGMENT_BYTES
    return -(-block_bytes // page) * page


def _figures(
    recording: Recording,
    allocations: Allocations,
    timeline: Timeline,
    row: int,
    requested: int,
    held: int,
    free: FreeBytes,
) -> OomFigures:
    reserved = int(timeline.reserved_bytes[row + 1])
    room = available_bytes(recording, allocations)
    card = recording.devices[recording.devices["device"] == allocations.device]
    total = 0 if card.empty else int(card["total_bytes"].iloc[-1])
    samples = recording.samples[recording.samples["device"] == allocations.device]
    both = samples[(samples["process_bytes"] >= 0) & (samples["reserved_bytes"] >= 0)]
    outside = None if both.empty else max(int((both["process_bytes"] - both["reserved_bytes"]).iloc[-1]), 0)
    free_bytes = None if room is None else room - reserved
    others = None
    if total and free_bytes is not None:
        others = max(total - free_bytes - reserved - (outside or 0), 0)
    return OomFigures(
        tried_bytes=segment_bytes(requested, is_expandable=expandable(recording)),
        requested_bytes=requested,
        capacity_bytes=total or None,
        free_bytes=free_bytes,
        allowed_bytes=_allowed_bytes(recording, allocations.device, total),
        reserved_bytes=reserved,
        held_bytes=held,
        idle_bytes=reserved - held - free.private_pools,
        private_bytes=free.private_pools,
        others_bytes=others if outside is not None else None,
        outside_bytes=outside,
    )


def _allowed_bytes(recording: Recording, device: int, total_bytes: int) -> int | None:
    fraction = (recording.metadata.get("memory_fractions") or {}).get(str(device))
    return int(fraction * total_bytes) if fraction is not None and total_bytes else None


def _usable(segment: StateSegment, stream: int, is_small: bool) -> bool:
    return segment.pool == "0,0" and segment.stream == stream and segment.is_small == is_small


def _holes(segment: StateSegment) -> Iterator[int]:
    return (size for slot, size in segment.blocks if slot == HOLE)


def _free_bytes(
    segments: list[StateSegment], stream: int, is_small: bool, allocations: Allocations, row: int
) -> tuple[FreeBytes, int]:
    parts = dict.fromkeys(FreeBytes.__dataclass_fields__, 0)
    largest = 0
    for segment in segments:
        holes = list(_holes(segment))
        if segment.pool != "0,0":
            name = "private_pools"
        elif segment.stream != stream:
            name = "other_streams"
        elif segment.is_small != is_small:
            name = "other_size_class"
        else:
            name = "split" if any(slot >= 0 for slot, _ in segment.blocks) else "whole"
            largest = max([largest, *holes])
        parts[name] += sum(holes)
    pending = (allocations.free_row <= row) & (allocations.completed_row > row) & (allocations.alloc_row <= row)
    parts["pending"] = int(allocations.size_bytes[pending].sum())
    return FreeBytes(**parts), largest


def _pins(
    recording: Recording, segments: list[StateSegment], stream: int, is_small: bool, allocations: Allocations
) -> Iterator[Pin]:
    """Live blocks beside the holes that the request might have used, by the line that allocated them."""
    found: dict[int, list[int]] = {}
    for segment in segments:
        hole_bytes = sum(_holes(segment))
        live = [(slot, size) for slot, size in segment.blocks if slot >= 0]
        if not hole_bytes or not live or not _usable(segment, stream, is_small):
            continue
        total = sum(size for _, size in live)
        for slot, size in live:
            row = found.setdefault(int(allocations.stack[slot]), [0, 0, 0])
            row[0] += size
            row[1] += 1
            row[2] += hole_bytes * size // total
    for stack, (held, count, holes) in sorted(found.items(), key=lambda item: -item[1][2]):
        yield Pin(users_first(recording.stacks.get(stack)), held, count, holes)
