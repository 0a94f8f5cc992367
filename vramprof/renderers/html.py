"""Turns reports into one self-contained HTML page: no network, no build step, light and dark."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from vramprof.findings import DeviceFacts, Facts, Finding
from vramprof.renderers.json import as_dict
from vramprof.renderers.page_data import moments_at, pack_device
from vramprof.renderers.palette import COLORS
from vramprof.renderers.series import make_series

_MOST_POINTS = 2000
_SCRIPTS = (
    "format", "data", "groups", "axis", "raster", "state", "timeline", "blocks", "moment", "flame", "table",
    "segments", "several", "aligned", "main",
)  # fmt: skip


class Subject(NamedTuple):
    """One recording on the page, under a name that tells it from the others."""

    label: str
    facts: Facts
    findings: Sequence[Finding]


def render_html(subjects: Sequence[Subject], *, kind: str = "one") -> str:
    """The page; kind is "one", "compare" (two subjects, before and after) or "ranks".

    Every string of the user's program is escaped: as JSON in a script, and as text in the document.
    """
    recordings: list[dict[str, Any]] = []
    blocks: list[str] = []
    for subject in subjects:
        data = as_dict(subject.facts, subject.findings)
        data["label"] = subject.label
        for finding, told in zip(subject.findings, data["findings"], strict=True):
            told["moment"] = finding.moment
        for device, row in zip(subject.facts.devices, data["devices"], strict=True):
            row["peak"] = {key: row["peak"][key] for key in row["peak"] if key not in ("by_module", "by_stack")}
            row["peak"]["moment"] = device.peak.index
            row["overview"] = _overview(device)
            row["block"] = len(blocks)
            blocks.append(pack_device(subject.facts.recording, device))
        recordings.append(data)
    emulated = any(subject.facts.recording.emulated for subject in subjects)
    page = {"kind": kind, "emulated": emulated, "colors": COLORS, "recordings": recordings}
    return _fill(page, blocks, title="vramprof (emulated)" if emulated else "vramprof")


def _fill(page: dict[str, Any], blocks: Sequence[str], *, title: str) -> str:
    folder = files("vramprof.renderers").joinpath("page")
    script = "\n".join(folder.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    parts = {
        "title": html.escape(title),
        "style": folder.joinpath("page.css").read_text(encoding="utf-8"),
        "data": _script_json(page),
        "blocks": "\n".join(
            f'<script type="text/plain" id="block-{number}">{block}</script>' for number, block in enumerate(blocks)
        ),
        "script": script,
    }
    text = folder.joinpath("page.html").read_text(encoding="utf-8")
    pieces = text.split("{{")  # filled in one pass: what the program's own strings hold is never filled again
    return pieces[0] + "".join(parts[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces[1:]))


def _script_json(data: Any) -> str:
    """JSON that no HTML parser can leave the script element from."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _overview(device: DeviceFacts) -> dict[str, Any]:
    """The first picture, ready before the blocks are opened; no peak is lost."""
    series = make_series(device, _MOST_POINTS)
    return {
        "moment": series.event.tolist(),
        "steps": _step_moments(device),
        "reserved": series.reserved_bytes.tolist(),
        "by_category": {name: values.tolist() for name, values in series.by_category.items()},
    }


def _step_moments(device: DeviceFacts) -> list[tuple[int, int, int]]:
    """Each step's number, and the moments at which it begins and ends."""
    ends = np.array([(step.begin_ns, step.end_ns) for step in device.steps], dtype=np.int64).reshape(-1, 2)
    moments = moments_at(device, ends.ravel()).reshape(-1, 2).tolist()
    return [(step.index, begin, end) for step, (begin, end) in zip(device.steps, moments, strict=True)]
