"""Turns allocations and segment events into bytes over time: allocated, requested and reserved after every event."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import BEFORE, Allocations, IntArray
from vramprof.recording import Recording
from vramprof.recording.schema import Action


@dataclass(frozen=True, eq=False)
class Timeline:
    """Bytes after each event; entry 0 is the state before the first event, so there are event_count + 1 entries."""

    time_ns: IntArray
    allocated_bytes: IntArray
    reserved_bytes: IntArray

    @property
    def peak(self) -> int:
        """Index of the first highest allocated_bytes."""
        return int(np.argmax(self.allocated_bytes))


def make_timeline(recording: Recording, allocations: Allocations) -> Timeline:
    """One device's timeline; reserved is walked backward from the dumped segments, right under truncation too."""
    count = allocations.event_count
    times = allocations.time_ns
    return Timeline(
        time_ns=np.concatenate([times[:1] if count else np.zeros(1, np.int64), times]),
        allocated_bytes=held_bytes(allocations, allocations.size_bytes),
        reserved_bytes=_reserved(recording, allocations.device, count),
    )


def held_bytes(allocations: Allocations, weights: IntArray) -> IntArray:
    """Sum of `weights` over what is alive, before the first event and after each."""
    count = allocations.event_count
    delta = np.zeros(count + 2, dtype=np.int64)
    held = allocations.free_row > allocations.alloc_row
    np.add.at(delta, allocations.alloc_row[held] - BEFORE, weights[held])
    np.subtract.at(delta, allocations.free_row[held] - BEFORE, weights[held])
    return np.cumsum(delta[: count + 1])


def _reserved(recording: Recording, device: int, count: int) -> IntArray:
    blocks = recording.blocks[recording.blocks["device"] == device].drop_duplicates("segment_address")
    end = int(blocks["segment_size_bytes"].sum())
    events = recording.events[recording.events["device"] == device]
    action, size = events["action"].to_numpy(), events["size_bytes"].to_numpy(dtype=np.int64)
    up = np.isin(action, (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP))
    down = np.isin(action, (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP))
    delta = np.where(up, size, np.where(down, -size, 0))
    walked = np.concatenate([np.zeros(1, np.int64), np.cumsum(delta)])
    reserved: IntArray = walked + (end - walked[count])
    return reserved
