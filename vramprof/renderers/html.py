"""Turns facts and findings into one self-contained HTML page: no network, no build step, light and dark."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from vramprof.findings import DeviceFacts, Facts, Finding
from vramprof.renderers.json import as_dict
from vramprof.renderers.palette import COLORS
from vramprof.renderers.series import make_series

_MOST_POINTS = 3000
_MOST_ROWS = 60
_MOST_FRAMES = 12


def render_html(facts: Facts, findings: Sequence[Finding]) -> str:
    """The page. Every string of the user's program is escaped: as JSON in a script, as text in the document."""
    data = as_dict(facts, findings)
    for device, row in zip(facts.devices, data["devices"], strict=True):
        _shorten(row["peak"])
        row["series"] = _series(device)
    data["colors"] = COLORS
    page = files("vramprof.renderers").joinpath("page.html").read_text(encoding="utf-8")
    title = "vramprof (emulated)" if facts.recording.emulated else "vramprof"
    return page.replace("{{title}}", html.escape(title)).replace("{{data}}", _script_json(data))


def _script_json(data: Any) -> str:
    """JSON that no HTML parser can leave the script element from."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shorten(peak: dict[str, Any]) -> None:
    peak["by_module"] = peak["by_module"][:_MOST_ROWS]
    peak["by_stack"] = peak["by_stack"][:_MOST_ROWS]
    for row in peak["by_stack"]:
        row["frames"] = row["frames"][:_MOST_FRAMES]


def _series(device: DeviceFacts) -> dict[str, Any]:
    series = make_series(device, _MOST_POINTS)
    return {
        "event": series.event.tolist(),
        "time_ns": series.time_ns.tolist(),
        "reserved": series.reserved_bytes.tolist(),
        "by_category": {name: values.tolist() for name, values in series.by_category.items()},
    }
