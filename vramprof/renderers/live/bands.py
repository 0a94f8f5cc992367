"""Turns what a device holds into bands of bytes, and bands into rows of coloured cells: along a bar, or over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

from vramprof.analyses.progress import REST, Point, Track
from vramprof.recording.feed import UNKNOWN
from vramprof.renderers.palette import COLORS

Piece = tuple[str, str]
"""Text and its style."""


class Band(NamedTuple):
    """How a kind of memory is drawn: a colour, and a letter's worth of ink where there are no colours."""

    color: str
    ink: str


BANDS = {
    "weights": Band(COLORS["weights"], "█"),
    "buffers": Band(COLORS["buffers"], "▇"),
    "optimizer": Band(COLORS["optimizer"], "▓"),
    "gradients": Band(COLORS["gradients"], "▚"),
    REST: Band(COLORS["activations"], "▒"),
    "allocated": Band(COLORS["unattributed"], "▒"),
    "process": Band(COLORS["inputs"], "▒"),
    "idle": Band("#363d47", "░"),
    "outside": Band(COLORS["temporaries"], "▞"),
    "others": Band(COLORS["program"], "x"),
}
"""`idle` is reserved by torch and not in use; `outside` is this process's memory that torch does not know of."""
EMPTY = " "


def bands_of(point: Point) -> dict[str, int]:
    """Everything on the device at this moment, as far as it is known, from the bottom up."""
    is_read = UNKNOWN not in (point.device_used_bytes, point.process_bytes)
    others = max(point.device_used_bytes - point.process_bytes, 0) if is_read else 0
    if point.allocated_bytes == UNKNOWN:
        return {"process": max(point.process_bytes, 0), "others": others}
    outside = max(point.process_bytes - point.reserved_bytes, 0)
    unused = {"idle": point.reserved_bytes - point.allocated_bytes, "outside": outside, "others": others}
    if point.weights_bytes == UNKNOWN:
        return {"allocated": point.allocated_bytes, **unused}
    weights = min(point.weights_bytes, point.allocated_bytes)
    optimizer = min(point.optimizer_bytes, point.allocated_bytes - weights)
    rest = point.allocated_bytes - weights - optimizer
    return {"weights": weights, "optimizer": optimizer, REST: rest, **unused}


def bar(bands: dict[str, int], total: int, width: int, *, color: bool) -> list[Piece]:
    """One row: each band as long as its share of the total, and never without a cell."""
    pieces: list[Piece] = []
    at = 0
    for name, end in zip(bands, accumulate(bands.values()), strict=True):
        until = min(max(round(end * width / max(total, 1)), at + 1), width)
        if bands[name] and until > at:
            pieces.append((("█" if color else BANDS[name].ink) * (until - at), BANDS[name].color if color else ""))
            at = until
    pieces.append(("·" * (width - at), BANDS["idle"].color if color else ""))
    return pieces


_OVER_TIME = ("process", "allocated", "weights", "optimizer", REST, "idle")


def skyline(track: Track, begin_ns: int, column_ns: int, count: int) -> Iterator[dict[str, int]]:
    """For each column its highest moment, by band; one without any has that of the column before."""
    points, at = track.since(begin_ns), 0
    last: Point | None = None
    for column in range(1, max(count, 1) + 1):
        until, here = begin_ns + column_ns * column, at
        while at < len(points) and points[at].time_ns < until:
            at += 1
        if at > here:
            last = max(points[here:at], key=lambda point: point.held_bytes)
        found = {} if last is None else bands_of(last)
        yield {name: found.get(name, 0) for name in _OVER_TIME}


def rows_of(columns: Sequence[dict[str, int]], top: int, height: int, *, color: bool) -> Iterator[list[Piece]]:
    """The columns as rows of text from the top; with colours a cell shows two halves."""
    halves = 2 if color else 1
    rows = list(zip(*(_cells(column, top, height * halves) for column in columns), strict=True))
    for row in range(0, len(rows), halves):
        runs = ((pair, len(list(run))) for pair, run in groupby(zip(rows[row], rows[row + halves - 1], strict=True)))
        yield [_cell(*pair, count, color=color) for pair, count in runs]


def _cells(column: dict[str, int], top: int, height: int) -> list[str]:
    """The bands of a column, each cell of its name, from the top."""
    cells: list[str] = []
    for name, end in zip(column, accumulate(column.values()), strict=True):
        cells += [name] * (round(end * height / max(top, 1)) - len(cells))
    return [EMPTY] * (height - len(cells)) + cells[height - 1 :: -1] if cells else [EMPTY] * height


def _cell(upper: str, lower: str, count: int, *, color: bool) -> Piece:
    if not color:
        return (EMPTY if upper == EMPTY else BANDS[upper].ink) * count, ""
    if upper == lower:
        return (EMPTY * count, "") if upper == EMPTY else ("█" * count, BANDS[upper].color)
    if upper == EMPTY:
        return "▄" * count, BANDS[lower].color
    return "▀" * count, f"{BANDS[upper].color} on {BANDS[lower].color}" if lower != EMPTY else BANDS[upper].color
