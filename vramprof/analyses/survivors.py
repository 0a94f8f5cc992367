"""Turns the history of one block of code into what was allocated in it and is alive after it, by line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import BEFORE, find_allocations
from vramprof.analyses.attribution import CATEGORIES, attribute
from vramprof.analyses.frames import users_frame
from vramprof.recording import Frame, Recording


@dataclass(frozen=True)
class Survivor:
    """What one line allocated and left behind; `storages` are (device, address)."""

    line: Frame | None
    size_bytes: int
    count: int
    storages: tuple[tuple[int, int], ...]


def find_survivors(recording: Recording, *, since_ns: int) -> tuple[Survivor, ...]:
    """Of all devices, the largest first, what was made since a moment; workspaces that libraries keep are left out."""
    found: dict[Frame | None, list[tuple[int, tuple[int, int]]]] = {}
    workspace = CATEGORIES.index("workspaces")
    for device in recording.device_indices:
        allocations = find_allocations(recording, device)
        category = attribute(recording, allocations).category
        first = int(np.searchsorted(allocations.time_ns, since_ns))
        made = (allocations.alloc_row != BEFORE) & (allocations.alloc_row >= first)
        alive = made & (allocations.free_row == allocations.event_count)
        for row in np.flatnonzero(alive & (category != workspace)).tolist():
            line = users_frame(recording.stacks.get(int(allocations.stack[row])))
            key = (device, int(allocations.address[row]))
            found.setdefault(line, []).append((int(allocations.size_bytes[row]), key))
    survivors = (
        Survivor(line, sum(size for size, _ in rows), len(rows), tuple(key for _, key in rows))
        for line, rows in found.items()
    )
    return tuple(sorted(survivors, key=lambda one: -one.size_bytes))
