"""Turns a timeline and an attribution into the peak: what was alive then, by category, module and stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import Allocations, IntArray
from vramprof.analyses.attribution import CATEGORIES, Attribution
from vramprof.analyses.contexts import PHASES
from vramprof.analyses.frames import users_first
from vramprof.analyses.timeline import Timeline
from vramprof.recording import Frame, Recording


@dataclass(frozen=True)
class StackBytes:
    """Bytes alive that one stack allocated, and in how many blocks; the user's own frame first."""

    bytes: int
    count: int
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Peak:
    """The moment of most allocated bytes, and the phase and module that made it. Each by_* sums to allocated_bytes."""

    index: int
    time_ns: int
    allocated_bytes: int
    reserved_bytes: int
    requested_bytes: int
    phase: str
    module: str
    by_category: dict[str, int]
    by_module: tuple[tuple[str, int], ...]
    by_stack: tuple[StackBytes, ...]


def find_peak(recording: Recording, allocations: Allocations, attribution: Attribution, timeline: Timeline) -> Peak:
    """What one device held at its peak.

    Raises:
        AssertionError: a sum does not close; it always must.
    """
    index = timeline.peak
    alive = np.flatnonzero(allocations.alive(index - 1))
    sizes = allocations.size_bytes[alive]
    maker: IntArray = np.flatnonzero((allocations.alloc_row == index - 1) & (index > 0))
    peak = Peak(
        index=index,
        time_ns=int(timeline.time_ns[index]),
        allocated_bytes=int(timeline.allocated_bytes[index]),
        reserved_bytes=int(timeline.reserved_bytes[index]),
        requested_bytes=int(allocations.requested_bytes[alive].sum()),
        phase=PHASES[int(attribution.phase[maker[0]])] if len(maker) else "",
        module=str(attribution.module[maker[0]]) if len(maker) else "",
        by_category=_by_category(attribution, alive, sizes),
        by_module=_by_module(attribution, alive, sizes),
        by_stack=bytes_by_stack(recording, attribution.stack[alive], sizes),
    )
    for total in (
        sum(peak.by_category.values()),
        sum(size for _, size in peak.by_module),
        sum(stack.bytes for stack in peak.by_stack),
    ):
        assert total == peak.allocated_bytes, f"ledger: {total} of {peak.allocated_bytes} bytes are accounted for"
    return peak


def _by_category(attribution: Attribution, alive: IntArray, sizes: IntArray) -> dict[str, int]:
    category = attribution.category[alive]
    return {name: int(sizes[category == number].sum()) for number, name in enumerate(CATEGORIES)}


def _by_module(attribution: Attribution, alive: IntArray, sizes: IntArray) -> tuple[tuple[str, int], ...]:
    total: dict[str, int] = {}
    for path, size in zip(attribution.module[alive], sizes.tolist(), strict=True):
        total[str(path)] = total.get(str(path), 0) + size
    return tuple(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def bytes_by_stack(recording: Recording, stacks: IntArray, sizes: IntArray) -> tuple[StackBytes, ...]:
    """The sizes summed by the stack that each belongs to, the largest first."""
    found: Sequence[int] = np.unique(stacks).tolist()
    rows = []
    for stack in found:
        chosen = sizes[stacks == stack]
        rows.append(StackBytes(int(chosen.sum()), len(chosen), users_first(recording.stacks.get(stack))))
    return tuple(sorted(rows, key=lambda row: -row.bytes))
