"""Turns facts into pictures for papers and slides: memory over time, the peak by category, the map of its segments."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vramprof.analyses.attribution import CATEGORIES
from vramprof.analyses.segments import find_segments
from vramprof.findings import DeviceFacts, Facts
from vramprof.renderers.palette import COLORS
from vramprof.renderers.series import make_series
from vramprof.units import GIB, format_bytes

_MOST_POINTS = 2000
_MAP_LINES = 16


def render_picture(facts: Facts, *, form: str, panels: Sequence[str] = ()) -> bytes:
    """A picture 1600 points wide, "png" or "svg"; panels are some of PANELS, all by default.

    An emulated recording says so on every panel.
    """
    chosen = [PANELS[name] for name in panels or PANELS]
    rows = max(len(facts.devices), 1) * len(chosen)
    heights = [height for _ in facts.devices or (None,) for _, height in chosen]
    figure = Figure(figsize=(16, sum(heights)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, 1, height_ratios=heights)
    for position, device in enumerate(facts.devices):
        for place, (draw, _) in enumerate(chosen):
            draw(figure.add_subplot(grid[position * len(chosen) + place, 0]), facts, device)
    output = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vramprof"}):
        figure.savefig(output, format=form, metadata={"Date": None} if form == "svg" else None)
    return output.getvalue()


def _title(axes: Axes, facts: Facts, device: DeviceFacts, text: str) -> None:
    said = "EMULATED  " if facts.recording.emulated else ""
    axes.set_title(f"{said}GPU {device.index} {device.name}  {text}".replace("$", r"\$"), loc="left")


def _timeline(axes: Axes, facts: Facts, device: DeviceFacts) -> None:
    series = make_series(device, _MOST_POINTS)
    names = list(series.by_category)
    stacked = [series.by_category[name] / GIB for name in names]
    if stacked:
        axes.stackplot(series.event, *stacked, labels=names, colors=[COLORS[name] for name in names], step="post", lw=0)
    axes.step(series.event, series.reserved_bytes / GIB, where="post", color="black", lw=1, label="reserved")
    axes.axvline(device.peak.index, color="black", lw=0.8, ls=":")
    if device.total_bytes and device.total_bytes < 1.5 * series.reserved_bytes.max():
        axes.axhline(device.total_bytes / GIB, color="#d5310b", lw=1, ls="--", label="card")
    _title(axes, facts, device, f"peak {format_bytes(device.peak.allocated_bytes)} allocated")
    axes.set_xlabel("allocator event")
    axes.set_ylabel("GiB")
    axes.margins(x=0)
    axes.legend(loc="upper left", ncols=3, fontsize="small")


def _peak(axes: Axes, facts: Facts, device: DeviceFacts) -> None:
    left = 0.0
    for name, size in sorted(device.peak.by_category.items(), key=lambda item: -item[1]):
        if size:
            label = f"{name} {format_bytes(size)}"
            axes.barh([0], [size / GIB], left=[left], color=COLORS[name], label=label, height=0.6)
            left += size / GIB
    idle = device.peak.reserved_bytes - device.peak.allocated_bytes
    label = f"reserved, not allocated {format_bytes(idle)}"
    axes.barh([0], [idle / GIB], left=[left], color="none", edgecolor="black", hatch="//", label=label, height=0.6)
    _title(axes, facts, device, f"at the peak: {format_bytes(device.peak.allocated_bytes)} allocated")
    axes.set_yticks([])
    axes.set_xlabel("GiB")
    axes.margins(x=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=4, fontsize="small", frameon=False)


def _segments(axes: Axes, facts: Facts, device: DeviceFacts) -> None:
    """Every segment of the peak one after the other, as text is wrapped; white is free."""
    row = device.peak.index - 1
    starts, sizes = find_segments(facts.recording, device.index).held(row)
    allocations = device.allocations
    line_bytes = max(int(sizes.sum()) / _MAP_LINES, 1.0)
    where = np.cumsum(sizes) - sizes
    for position, size in zip(where.tolist(), sizes.tolist(), strict=True):
        _wrapped(axes, [(position, size)], line_bytes, facecolor="white", edgecolor="black", linewidth=0.6)
    alive = np.flatnonzero(allocations.alive(row))
    home = np.searchsorted(starts, allocations.address[alive], side="right") - 1
    alive, home = alive[home >= 0], home[home >= 0]
    begin = where[home] + allocations.address[alive] - starts[home] if len(starts) else alive
    category = device.attribution.category[alive]
    for number, name in enumerate(CATEGORIES):
        chosen = category == number
        blocks = list(zip(begin[chosen].tolist(), allocations.size_bytes[alive[chosen]].tolist(), strict=True))
        _wrapped(axes, blocks, line_bytes, facecolor=COLORS[name], edgecolor="white", linewidth=0.2)
    idle = device.peak.reserved_bytes - device.peak.allocated_bytes
    _title(axes, facts, device, f"{len(starts)} segments at the peak, {format_bytes(idle)} of them free")
    axes.set_xlim(0, 1)
    axes.set_ylim(_MAP_LINES, 0)
    axes.set_axis_off()


def _wrapped(axes: Axes, ranges: Sequence[tuple[float, float]], line_bytes: float, **style: Any) -> None:
    patches = []
    for begin, size in ranges:
        end = begin + size
        while begin < end:
            line = int(begin // line_bytes)
            stop = min(end, (line + 1) * line_bytes)
            if stop <= begin:  # rounding at the end of a line
                break
            patches.append(Rectangle((begin / line_bytes - line, line + 0.1), (stop - begin) / line_bytes, 0.8))
            begin = stop
    axes.add_collection(PatchCollection(patches, **style))


PANELS: dict[str, tuple[Callable[[Axes, Facts, DeviceFacts], None], float]] = {
    "timeline": (_timeline, 6.0),
    "peak": (_peak, 2.2),
    "segments": (_segments, 4.0),
}
"""Each panel's function and its height in inches."""
