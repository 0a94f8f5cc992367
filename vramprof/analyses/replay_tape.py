"""Turns one device's recorded events into the tape of requests that torch's allocator can be played again.

What the allocator did by itself (segments, retries, garbage collection) is left out: the replay's allocator does that
anew. What the program asked for stays, `empty_cache()` among it, which a recording shows only as segments that were
freed: they are taken for the program's unless an allocation that found no room stands right behind them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vramprof.analyses.allocations import BEFORE, Allocations, IntArray
from vramprof.analyses.allocator_state import find_state
from vramprof.analyses.timeline import make_timeline
from vramprof.emulator.tape import UNMAPPED, FirstSegment, Op, Outcome, Tape
from vramprof.errors import RecordingError
from vramprof.recording import Recording
from vramprof.recording.schema import Action

_MIB = 1 << 20
_GIVEN_BACK = (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP)
_TAKEN = (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP)


def make_tape(recording: Recording, allocations: Allocations) -> Tape:
    """The tape of one device, up to its last out-of-memory event where there is one.

    Raises:
        RecordingError: the recording does not tell enough to be replayed, or contradicts itself.
    """
    if recording.metadata.get("segments") == "unknown":
        raise RecordingError("a profiler's trace has neither segments nor streams: it cannot be replayed")
    if allocations.event_count == 0:
        raise RecordingError("the recording has no events: there is nothing to replay")
    events = _Events(recording, allocations.device)
    end = events.last_oom + 1 if events.last_oom is not None else allocations.event_count
    first, pool_of = find_state(recording, allocations)
    available = available_bytes(recording, allocations)
    flushes = _flushes(recording, allocations, events, end, available)
    rows = np.concatenate([_requests(allocations, events, end), flushes])
    if not len(rows):
        raise RecordingError("the recording has no requests: there is nothing to replay")
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    streams, stream_numbers = _numbers(rows[:, 4], [segment.stream for segment in first])
    pools = [pool_of(int(address)) for address in allocations.address]
    pool_numbers = {"0,0": 0}
    for name in [*pools, *(segment.pool for segment in first)]:
        pool_numbers.setdefault(name, len(pool_numbers))
    slot = rows[:, 2]
    pool = np.array([pool_numbers[name] for name in pools] + [0], dtype=np.int64)[slot]
    return Tape(
        op=rows[:, 1], slot=np.where(slot < 0, 0, slot), size_bytes=rows[:, 3], stream=streams, pool=pool,
        row=rows[:, 0], slot_count=len(allocations.address) + 1, stream_count=len(stream_numbers),
        pool_count=len(pool_numbers),
        first=tuple(
            FirstSegment(stream_numbers[s.stream], pool_numbers[s.pool], s.is_small, s.is_expandable, s.blocks)
            for s in first
        ),
        own=own_conf(recording), total_bytes=_total_bytes(recording, allocations.device), available_bytes=available,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Events:
    action: IntArray
    address: IntArray
    size_bytes: IntArray
    stream: IntArray

    def __init__(self, recording: Recording, device: int) -> None:
        events = recording.events[recording.events["device"] == device]
        for column in ("action", "address", "size_bytes", "stream"):
            object.__setattr__(self, column, events[column].to_numpy().astype(np.int64))

    @property
    def last_oom(self) -> int | None:
        rows = np.flatnonzero(self.action == Action.OOM)
        return int(rows[-1]) if len(rows) else None


def _requests(allocations: Allocations, events: _Events, end: int) -> IntArray:
    """Rows of (event, op, slot, bytes, stream); a free at the same event as an allocation comes first."""
    slots = np.arange(len(allocations.address))
    begun = (allocations.alloc_row != BEFORE) & (allocations.alloc_row < end)
    ended = (allocations.completed_row != BEFORE) & (allocations.completed_row < end)
    made = _columns(allocations.alloc_row[begun], Op.ALLOC, slots[begun], allocations.requested_bytes[begun])
    made[:, 4] = events.stream[made[:, 0]]
    freed = _columns(allocations.completed_row[ended], Op.FREE, slots[ended], allocations.requested_bytes[ended])
    rows = [made, freed]
    if events.last_oom is not None:
        failed = _columns(np.array([events.last_oom]), Op.FAIL, np.array([-1]), events.size_bytes[[events.last_oom]])
        failed[:, 4] = events.stream[events.last_oom]
        rows.append(failed)
    return np.concatenate(rows)


def _columns(row: IntArray, op: Op, slot: IntArray, size: IntArray) -> IntArray:
    constant = np.full(len(row), int(op), dtype=np.int64)
    return np.stack([row, constant, slot, size, np.zeros(len(row), dtype=np.int64)], axis=1)


def _flushes(
    recording: Recording, allocations: Allocations, events: _Events, end: int, available: int | None
) -> IntArray:
    """The program's own empty_cache() calls, and the one that each earlier out-of-memory error made."""
    found = [row for row in np.flatnonzero(events.action[:end] == Action.OOM).tolist() if row != events.last_oom]
    found += [begin for begin, _, own in _emptied(recording, allocations, events, end, available) if own]
    return _columns(
        np.array(found, dtype=np.int64), Op.EMPTY_CACHE, np.full(len(found), -1), np.zeros(len(found), np.int64)
    )


def _emptied(
    recording: Recording, allocations: Allocations, events: _Events, end: int, available: int | None
) -> Iterator[tuple[int, int, bool]]:
    """Runs of segments given back, out-of-memory errors aside: first event, the one after the last, the program's?"""
    reserved = make_timeline(recording, allocations).reserved_bytes
    given_back = np.isin(events.action[:end], _GIVEN_BACK)
    begins = np.flatnonzero(given_back & ~np.concatenate([[False], given_back[:-1]]))
    collects = float((recording.metadata.get("allocator_settings") or {}).get("garbage_collection_threshold") or 0) > 0
    for begin in begins.tolist():
        after = begin
        while after < end and given_back[after]:
            after += 1
        if after < end and events.action[after] == Action.OOM:
            continue
        takes = after < end and events.action[after] in _TAKEN
        full = available is not None and reserved[begin] + events.size_bytes[min(after, end - 1)] > available
        yield begin, after, not (takes and (full or collects))


@dataclass(frozen=True)
class Flushes:
    """How often cached segments went back to the driver, and how many of their bytes torch took again afterwards."""

    by_program: int
    by_torch: int
    again_bytes: int

    @property
    def count(self) -> int:
        """Both."""
        return self.by_program + self.by_torch


def find_flushes(recording: Recording, allocations: Allocations) -> Flushes:
    """Each time that the cache of one device was emptied, out-of-memory errors aside."""
    events = _Events(recording, allocations.device)
    available = available_bytes(recording, allocations)
    runs = list(_emptied(recording, allocations, events, allocations.event_count, available))
    taken = np.concatenate([[0], np.cumsum(np.where(np.isin(events.action, _TAKEN), events.size_bytes, 0))])
    ends = [*(begin for begin, _, _ in runs), allocations.event_count][1:]
    again = sum(
        min(int(events.size_bytes[begin:after].sum()), int(taken[end] - taken[after]))
        for (begin, after, _), end in zip(runs, ends, strict=True)
    )
    own = sum(by_program for _, _, by_program in runs)
    return Flushes(own, len(runs) - own, again)


def _numbers(streams: IntArray, more: list[int]) -> tuple[IntArray, dict[int, int]]:
    """Streams as numbers from 0, the default one first."""
    numbers: dict[int, int] = {0: 0}
    for stream in [*np.unique(streams).tolist(), *more]:
        numbers.setdefault(stream, len(numbers))
    lookup = np.array(sorted(numbers), dtype=np.int64)
    order = np.array([numbers[stream] for stream in lookup.tolist()], dtype=np.int64)
    return order[np.searchsorted(lookup, streams)], numbers


def recorded_segment_events(recording: Recording, device: int) -> tuple[tuple[str, int], ...]:
    """The (action, bytes) that a replay under the recording's own settings must give."""
    events = _Events(recording, device)
    end = events.last_oom + 1 if events.last_oom is not None else len(events.action)
    rows = np.flatnonzero(np.isin(events.action[:end], (*_GIVEN_BACK, *_TAKEN)))
    return tuple((Action(int(events.action[row])).name.lower(), int(events.size_bytes[row])) for row in rows)


StateBag = Counter[tuple[tuple[int, int, bool], ...]]
"""Segments in no order, each its blocks as (offset, bytes, alive)."""


def expected_state(tape: Tape) -> StateBag:
    """The first state that the tape describes; runs of an expandable segment are apart, as in a snapshot."""
    found: StateBag = Counter()
    for segment in tape.first:
        at, blocks = 0, []
        for slot, size in [*segment.blocks, (UNMAPPED, 0)]:
            if slot != UNMAPPED:
                blocks.append((at, size, slot >= 0))
                at += size
                continue
            found.update([tuple(blocks)])
            at, blocks = 0, []
    return found


def rebuilt_state(outcome: Outcome) -> StateBag:
    """The first state as torch's allocator had it when it was rebuilt."""
    segments: dict[int, list[tuple[int, int, bool]]] = {}
    for number, offset, size, state in outcome.first_state:
        segments.setdefault(number, []).append((offset, size, state.startswith("active")))
    return Counter(tuple(blocks) for blocks in segments.values())


def expandable(recording: Recording) -> bool:
    """Whether torch used expandable segments."""
    settings = recording.metadata.get("allocator_settings") or {}
    return bool(settings.get("expandable_segments")) or bool(recording.blocks["is_expandable"].any())


def own_conf(recording: Recording) -> str:
    """The allocator configuration of a recording as PYTORCH_CUDA_ALLOC_CONF would say it."""
    settings: Mapping[str, Any] = recording.metadata.get("allocator_settings") or {}
    words = [f"expandable_segments:{expandable(recording)}"]
    split = int(settings.get("max_split_size") or -1)
    if 0 < split < 1 << 60:
        words.append(f"max_split_size_mb:{split // _MIB}")
    threshold = float(settings.get("garbage_collection_threshold") or 0)
    if threshold > 0:
        words.append(f"garbage_collection_threshold:{threshold:g}")
    table = settings.get("roundup_power2_divisions")
    if isinstance(table, Mapping) and any(int(value) > 1 for value in table.values()):
        pairs = sorted((int(key), int(value)) for key, value in table.items())
        last = pairs[-1][1]
        words.append(f"roundup_power2_divisions:[{','.join(f'{key}:{value}' for key, value in pairs)},>:{last}]")
    return ",".join(words)


def available_bytes(recording: Recording, allocations: Allocations) -> int | None:
    """What the device had for this process's torch: what torch had reserved plus what was free, at one moment."""
    events = _Events(recording, allocations.device)
    if events.last_oom is not None:
        reserved = make_timeline(recording, allocations).reserved_bytes[events.last_oom + 1]
        return int(reserved + events.address[events.last_oom])  # an oom event has the free bytes for an address
    samples = recording.samples[recording.samples["device"] == allocations.device]
    both = samples[(samples["device_used_bytes"] >= 0) & (samples["reserved_bytes"] >= 0)]
    total = _total_bytes(recording, allocations.device)
    if both.empty or not total:
        return None
    return total - int(both["device_used_bytes"].iloc[-1]) + int(both["reserved_bytes"].iloc[-1])


def _total_bytes(recording: Recording, device: int) -> int:
    card = recording.devices[recording.devices["device"] == device]
    return 0 if card.empty else int(card["total_bytes"].iloc[-1])
