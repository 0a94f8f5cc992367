"""Turns facts into a picture of memory over time by category, one panel per device."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vramprof.findings import DeviceFacts, Facts
from vramprof.renderers.palette import COLORS
from vramprof.renderers.series import make_series
from vramprof.units import GIB, format_bytes

_MOST_POINTS = 2000


def render_png(facts: Facts) -> bytes:
    """A PNG, 1600 pixels wide; an emulated recording says so in its title."""
    count = max(len(facts.devices), 1)
    figure = Figure(figsize=(16, 6 * count), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for position, device in enumerate(facts.devices):
        _draw(figure.add_subplot(count, 1, position + 1), device, emulated=facts.recording.emulated)
    output = io.BytesIO()
    figure.savefig(output, format="png")
    return output.getvalue()


def _draw(axes: Axes, device: DeviceFacts, *, emulated: bool) -> None:
    series = make_series(device, _MOST_POINTS)
    names = list(series.by_category)
    stacked = [series.by_category[name] / GIB for name in names]
    if stacked:
        axes.stackplot(series.event, *stacked, labels=names, colors=[COLORS[name] for name in names], step="post")
    axes.step(series.event, series.reserved_bytes / GIB, where="post", color="black", lw=1, label="reserved")
    peak = device.peak
    axes.axvline(peak.index, color="black", lw=0.8, ls=":")
    said = "EMULATED  " if emulated else ""
    name = device.name.replace("$", r"\$")
    axes.set_title(f"{said}GPU {device.index} {name}  peak {format_bytes(peak.allocated_bytes)} allocated")
    axes.set_xlabel("allocator event")
    axes.set_ylabel("GiB")
    axes.margins(x=0)
    axes.legend(loc="upper left", ncols=3, fontsize="small")
