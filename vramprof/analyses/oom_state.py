"""Turns a recording's last out-of-memory event into what torch's allocator had free then, and why it was no use."""

from __future__ import annotations

from dataclasses import dataclass

from vramprof.analyses.allocations import SMALL_BYTES, Allocations
from vramprof.analyses.causes import OomFigures
from vramprof.analyses.fragmentation import Fragmentation
from vramprof.analyses.replay_tape import available_bytes, expandable
from vramprof.recording import Recording
from vramprof.recording.schema import Action

_LARGE_SEGMENT_BYTES, _ROUND_BYTES = 20 << 20, 2 << 20


@dataclass(frozen=True, eq=False)
class OomState:
    """The last failed request of one device: what the allocator had then, and the figures that causes are told by."""

    moment: Fragmentation
    figures: OomFigures

    @property
    def requested_bytes(self) -> int:
        """The block; torch asked the driver for a segment of `figures.tried_bytes`."""
        return self.moment.request.size_bytes


def find_oom(recording: Recording, allocations: Allocations, moment: Fragmentation) -> OomState | None:
    """The last out-of-memory event of a device, if there is one; `moment` is its worst one."""
    events = recording.events[recording.events["device"] == allocations.device]
    if not (events["action"] == Action.OOM).any():
        return None
    return OomState(moment, _figures(recording, allocations, moment))


def segment_bytes(block_bytes: int, *, is_expandable: bool) -> int:
    """What the driver is asked for when a block of this size finds no room."""
    page = _ROUND_BYTES
    if is_expandable:
        page = 2 << 20 if block_bytes <= SMALL_BYTES else _LARGE_SEGMENT_BYTES
    elif block_bytes <= SMALL_BYTES:
        return 2 << 20
    elif block_bytes < 10 << 20:
        return _LARGE_SEGMENT_BYTES
    return -(-block_bytes // page) * page


def _figures(recording: Recording, allocations: Allocations, moment: Fragmentation) -> OomFigures:
    reserved, requested = moment.reserved_bytes, moment.request.size_bytes
    handed_out = (allocations.alloc_row <= moment.row) & (allocations.completed_row > moment.row)
    held = int(allocations.size_bytes[handed_out].sum())
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
        idle_bytes=reserved - held - moment.free.private_pools,
        private_bytes=moment.free.private_pools,
        others_bytes=others if outside is not None else None,
        outside_bytes=outside,
    )


def _allowed_bytes(recording: Recording, device: int, total_bytes: int) -> int | None:
    fraction = (recording.metadata.get("memory_fractions") or {}).get(str(device))
    return int(fraction * total_bytes) if fraction is not None and total_bytes else None
