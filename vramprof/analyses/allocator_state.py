"""Turns the dumped segments, walked backward along the events, into the state at an earlier moment."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vramprof.analyses.allocations import BEFORE, Allocations
from vramprof.emulator.tape import HOLE, UNMAPPED
from vramprof.errors import RecordingError
from vramprof.recording import Recording
from vramprof.recording.schema import Action

SMALL_SEGMENT_BYTES = 2 << 20


@dataclass(frozen=True)
class StateSegment:
    """A segment as FirstSegment has it, with the recording's own names of its stream and pool."""

    address: int
    stream: int
    pool: str
    is_small: bool
    is_expandable: bool
    blocks: tuple[tuple[int, int], ...]


@dataclass
class _Run:
    """Mapped addresses: a whole segment, or a part of an expandable one."""

    begin: int
    end: int
    stream: int
    pool: str
    is_small: bool
    is_expandable: bool


def find_state(
    recording: Recording, allocations: Allocations, *, row: int = BEFORE
) -> tuple[list[StateSegment], Callable[[int], str]]:
    """Segments right after event `row`, before the first by default, and what gives the pool's name of an address.

    Blocks are (row in the allocations, bytes), with HOLE and UNMAPPED for rows where there is none.

    Raises:
        RecordingError: blocks lie outside of every segment, or over each other.
    """
    dumped = _dumped_runs(recording, allocations.device)
    runs = _walk_back(recording, allocations.device, dumped, row)
    alive = np.flatnonzero((allocations.alloc_row <= row) & (allocations.completed_row > row))
    rows = sorted((int(allocations.address[i]), int(allocations.size_bytes[i]), int(i)) for i in alive)
    segments: list[StateSegment] = []
    used = 0
    for group in _groups(runs):
        blocks, count = _blocks(group, rows)
        used += count
        head = group[0]
        segments.append(
            StateSegment(head.begin, head.stream, head.pool, head.is_small, head.is_expandable, tuple(blocks))
        )
    if used != len(rows):
        raise RecordingError(f"{len(rows) - used} blocks that were alive lie in no known segment")
    if _oldest_first(recording):
        segments.reverse()
    return segments, _pool_finder(dumped)


def _oldest_first(recording: Recording) -> bool:
    """Whether this torch breaks ties between free blocks of one size by age; up to 2.12 it was by address.

    The replay's torch takes the oldest. A driver gives out addresses downward, so the highest segment is the oldest;
    for an older torch the lowest is made the oldest, because that is the one it would have taken.
    """
    return "max_round_threshold" in (recording.metadata.get("allocator_settings") or {})


def _dumped_runs(recording: Recording, device: int) -> list[_Run]:
    blocks = recording.blocks[recording.blocks["device"] == device].drop_duplicates("segment_address")
    columns = ("segment_address", "segment_size_bytes", "stream", "pool_id", "segment_type", "is_expandable")
    return [
        _Run(int(address), int(address) + size, _signed(stream), pool, kind == "small", bool(expandable))
        for address, size, stream, pool, kind, expandable in zip(*(blocks[c].tolist() for c in columns), strict=True)
    ]


def _signed(stream: int) -> int:
    return stream - (1 << 64) if stream >> 63 else stream


def _walk_back(recording: Recording, device: int, dumped: list[_Run], row: int) -> list[_Run]:
    events = recording.events[recording.events["device"] == device].iloc[row + 1 :]
    segment = events[events["action"].between(Action.SEGMENT_ALLOC, Action.SEGMENT_UNMAP)].iloc[::-1]
    fixed = {run.begin: run for run in dumped if not run.is_expandable}
    mapped = [run for run in dumped if run.is_expandable]
    columns = (segment["action"], segment["address"], segment["size_bytes"], segment["stream"])
    for action, address, size, stream in zip(*(column.tolist() for column in columns), strict=True):
        address, stream = int(address), _signed(int(stream))
        if action == Action.SEGMENT_ALLOC:
            fixed.pop(address, None)
        elif action == Action.SEGMENT_FREE:
            fixed[address] = _Run(address, address + size, stream, "0,0", size == SMALL_SEGMENT_BYTES, False)
        elif action == Action.SEGMENT_MAP:
            mapped = _without(mapped, address, address + size)
        else:
            mapped.append(_like(mapped or dumped, address, address + size, stream))
    return sorted([*fixed.values(), *_merged(mapped)], key=lambda run: run.begin)


def _merged(runs: list[_Run]) -> list[_Run]:
    """Runs that touch are one."""
    merged: list[_Run] = []
    for run in sorted(runs, key=lambda run: run.begin):
        if merged and merged[-1].end == run.begin and merged[-1].stream == run.stream:
            merged[-1] = replace(merged[-1], end=run.end)
        else:
            merged.append(run)
    return merged


def _without(runs: list[_Run], begin: int, end: int) -> list[_Run]:
    kept: list[_Run] = []
    for run in runs:
        parts = [(run.begin, min(run.end, begin)), (max(run.begin, end), run.end)]
        if run.end <= begin or run.begin >= end:
            parts = [(run.begin, run.end)]
        kept += [_Run(a, b, run.stream, run.pool, run.is_small, run.is_expandable) for a, b in parts if a < b]
    return kept


def _like(runs: list[_Run], begin: int, end: int, stream: int) -> _Run:
    """A run that was unmapped belonged to the expandable segment of its stream that lies nearest."""
    near = min(
        (run for run in runs if run.stream == stream and run.is_expandable),
        key=lambda run: abs(run.begin - begin), default=None,
    )  # fmt: skip
    if near is None:
        return _Run(begin, end, stream, "0,0", (end - begin) % (20 << 20) != 0, True)
    return _Run(begin, end, stream, near.pool, near.is_small, True)


def _groups(runs: list[_Run]) -> list[list[_Run]]:
    """Fixed segments alone, the runs of each expandable segment together, in the order of their addresses."""
    groups: list[list[_Run]] = []
    expandable: dict[tuple[int, str, bool], list[_Run]] = {}
    for run in runs:
        key = (run.stream, run.pool, run.is_small)
        if run.is_expandable and key in expandable:
            expandable[key].append(run)
            continue
        groups.append([run])
        if run.is_expandable:
            expandable[key] = groups[-1]
    return groups


def _blocks(group: list[_Run], rows: list[tuple[int, int, int]]) -> tuple[list[tuple[int, int]], int]:
    """The blocks of one group from its begin to its end, and how many live ones there are."""
    blocks: list[tuple[int, int]] = []
    count, at = 0, group[0].begin
    for run in group:
        if run.begin > at:
            blocks.append((UNMAPPED, run.begin - at))
        at = run.begin
        for address, size, index in rows[bisect.bisect_left(rows, (run.begin,)) : bisect.bisect_left(rows, (run.end,))]:
            if address < at or address + size > run.end:
                raise RecordingError("blocks that were alive lie over each other or over a segment's end")
            if address > at:
                blocks.append((HOLE, address - at))
            blocks.append((index, size))
            count, at = count + 1, address + size
        if at < run.end:
            blocks.append((HOLE, run.end - at))
        at = run.end
    return blocks, count


def _pool_finder(dumped: list[_Run]) -> Callable[[int], str]:
    private = sorted((run.begin, run.end, run.pool) for run in dumped if run.pool != "0,0")
    begins = [begin for begin, _, _ in private]

    def pool_of(address: int) -> str:
        number = bisect.bisect_right(begins, address) - 1
        return private[number][2] if number >= 0 and address < private[number][1] else "0,0"

    return pool_of
