"""Turns one moment's fragmentation into text: free bytes by cause, who holds segments open, a map of the segments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from vramprof.analyses.allocator_state import StateSegment
from vramprof.analyses.fragmentation import Fragmentation, held_sizes, hole_sizes
from vramprof.analyses.frames import users_frame
from vramprof.emulator.tape import HOLE, UNMAPPED
from vramprof.renderers.console import place_of, table_of
from vramprof.units import format_bytes

_MOST_PINS = 3
_MOST_SEGMENTS = 5
_MAP_WIDTH = 40
_MOST_SEGMENTS_TOLD = 500
_FREE_WORDS = {
    "split": "between live blocks", "whole": "in whole free segments",
    "other_streams": "cached for other streams", "private_pools": "in private pools",
    "other_size_class": "in the pool of the other size class", "pending": "freed, waiting for another stream",
}  # fmt: skip


def free_words(moment: Fragmentation) -> Text:
    """The free bytes by cause, in one sentence."""
    parts = sorted(vars(moment.free).items(), key=lambda item: -item[1])
    free = ", ".join(f"{format_bytes(size)} {_FREE_WORDS[name]}" for name, size in parts if size)
    return Text(f"free in torch: {free}; largest hole {format_bytes(moment.largest_hole_bytes)}")


def pin_table(moment: Fragmentation) -> Iterator[RenderableType]:
    """The lines whose live blocks lie beside the holes."""
    pins = [pin for pin in moment.pins if pin.hole_bytes][:_MOST_PINS]
    if not pins:
        return
    table = table_of("held open by blocks of", "blocks", "bytes", "holes")
    for pin in pins:
        row = (str(pin.block_count), format_bytes(pin.held_bytes), format_bytes(pin.hole_bytes))
        table.add_row(Text(place_of(users_frame(pin.frames))), *row)
    yield table


def segment_map(moment: Fragmentation) -> Iterator[RenderableType]:
    """The segments with the most free bytes beside live ones, each to its own scale."""
    split = [one for one in moment.segments if held_sizes(one) and hole_sizes(one)]
    if not split:
        return
    split.sort(key=lambda one: -sum(hole_sizes(one)))
    table = table_of("segments with holes: █ live, ░ free", "size", "free", "largest")
    for segment in split[:_MOST_SEGMENTS]:
        holes = hole_sizes(segment)
        size = sum(holes) + sum(held_sizes(segment))
        table.add_row(_strip(segment), format_bytes(size), format_bytes(sum(holes)), format_bytes(max(holes)))
    yield table
    if len(split) > _MOST_SEGMENTS:
        yield Text(f"and {len(split) - _MOST_SEGMENTS} segments more", style="dim")


def _strip(segment: StateSegment) -> Text:
    """A segment as a row of cells; a cell that both share shows what it has more of."""
    total = sum(size for _, size in segment.blocks)
    cells = [[0, 0, 0] for _ in range(_MAP_WIDTH)]
    at = 0
    for slot, size in segment.blocks:
        kind = {HOLE: 1, UNMAPPED: 2}.get(slot, 0)
        for cell in range(at * _MAP_WIDTH // total, min((at + size - 1) * _MAP_WIDTH // total + 1, _MAP_WIDTH)):
            begin, end = cell * total // _MAP_WIDTH, (cell + 1) * total // _MAP_WIDTH
            cells[cell][kind] += max(min(at + size, end) - max(at, begin), 0)
        at += size
    return Text("".join("█░ "[shares.index(max(shares))] for shares in cells), style="cyan")


def fragmentation_dict(moment: Fragmentation) -> dict[str, Any]:
    """The same as plain data: sizes in bytes, blocks as [bytes, "live" | "free" | "unmapped"]."""
    words = {HOLE: "free", UNMAPPED: "unmapped"}
    return {
        "time_ns": moment.time_ns,
        "reserved_bytes": moment.reserved_bytes,
        "allocated_bytes": moment.allocated_bytes,
        "rounding_bytes": moment.rounding_bytes,
        "request_bytes": moment.request.size_bytes,
        "free": None if moment.hidden else {**vars(moment.free), "largest_hole_bytes": moment.largest_hole_bytes},
        "hidden": moment.hidden,
        "pins": pin_dicts(moment),
        "segments": [
            {
                "address": segment.address, "stream": segment.stream, "pool": segment.pool,
                "type": "small" if segment.is_small else "large", "is_expandable": segment.is_expandable,
                "blocks": [[size, words.get(slot, "live")] for slot, size in segment.blocks],
            }
            for segment in moment.segments[:_MOST_SEGMENTS_TOLD]
        ],
    }  # fmt: skip


def pin_dicts(moment: Fragmentation) -> list[dict[str, Any]]:
    """The pins as plain data."""
    return [
        {
            "frames": [frame._asdict() for frame in pin.frames], "held_bytes": pin.held_bytes,
            "block_count": pin.block_count, "hole_bytes": pin.hole_bytes,
        }
        for pin in moment.pins
    ]  # fmt: skip
