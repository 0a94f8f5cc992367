"""Turns facts and findings into a summary for the terminal, 80 columns wide unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vramprof.analyses.attribution import LOSS
from vramprof.analyses.frames import users_frame
from vramprof.analyses.timeline import Timeline
from vramprof.findings import DeviceFacts, Evidence, Facts, Finding
from vramprof.findings.comparison import CODES, Prediction
from vramprof.findings.fragmentation import is_much
from vramprof.renderers.comparison import moment_rows, peak_rows
from vramprof.renderers.console import place_of, table_of, text_of
from vramprof.renderers.fragments import free_words, pin_table, segment_map
from vramprof.renderers.skyline import EMPTY, skyline
from vramprof.units import format_bytes

_COLORS = {
    "weights": "blue", "gradients": "yellow", "optimizer": "magenta", "activations": "green", "inputs": "cyan",
    "outputs": "bright_green", "kv_cache": "bright_cyan", "temporaries": "red", "workspaces": "bright_black",
    "buffers": "bright_blue", "program": "bright_yellow", "unattributed": "white",
}  # fmt: skip
_SEVERITY = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_SPARKS = "▁▂▃▄▅▆▇█"
_ROWS = 6
_SKYLINE_ROWS = 7
_EVIDENCE_ROWS = 3
_MORE_RATIO = 1.01


def render_terminal(
    facts: Facts,
    findings: Sequence[Finding],
    *,
    prediction: Prediction | None = None,
    width: int = 80,
    color: bool = False,
) -> str:
    """The summary as text; with `color`, ANSI escapes."""
    parts = _parts(facts, findings, prediction, width=width, color=color)
    return text_of(parts, width=width, color=color)


def render_findings(findings: Sequence[Finding], *, width: int = 80, color: bool = False) -> str:
    """The findings alone, as the summary has them."""
    return text_of(map(_finding, findings), width=width, color=color) if findings else ""


def _parts(
    facts: Facts, findings: Sequence[Finding], prediction: Prediction | None, *, width: int, color: bool
) -> Iterator[RenderableType]:
    if facts.recording.emulated:
        yield Text("EMULATED: no GPU was used; torch's allocator ran on an emulated device", style="bold yellow")
    elif facts.recording.metadata.get("method"):
        yield Text(f"PREDICTED: no GPU was used; {facts.recording.metadata['method']}", style="bold yellow")
    for reason in facts.recording.gaps["reason"].tolist():
        yield Text(f"gap: {reason}", style="yellow")
    if not facts.devices:
        yield _samples(facts.recording.samples)
    for device in facts.devices:
        yield _device(device, skyline_width=width - 2 if color else 0)
    if prediction is not None:
        yield from _predicted(prediction, findings)
    for finding in findings:
        yield _finding(finding)


def _samples(samples: pd.DataFrame) -> RenderableType:
    """All that is left of a run that was killed: what its samples saw, which may have missed the highest moments."""
    if samples.empty:
        return Text("no GPU memory was recorded")
    table = table_of("the most that samples saw", "allocated", "reserved", "samples")
    for device, rows in samples.groupby("device"):
        most = (format_bytes(int(rows[name].max())) for name in ("allocated_bytes", "reserved_bytes"))
        table.add_row(Text(f"GPU {device}"), *most, f"{len(rows):,}")
    return table


def _predicted(prediction: Prediction, findings: Sequence[Finding]) -> Iterator[RenderableType]:
    """Peaks beside those that were predicted, and the phases that differ most."""
    title = "against the dry run (EMULATED)" if prediction.expected.recording.emulated else "against the prediction"
    for device in prediction.devices:
        table = table_of(f"\n{title}, GPU {device.index}", "predicted", "came", "difference")
        for row in [*peak_rows(device.comparison), *moment_rows(device.comparison, owners=0)]:
            table.add_row(*map(Text, row))
        yield table
    if not any(finding.code in CODES for finding in findings):
        yield Text("nothing surprises: every difference is within what such predictions are off by")


def _moment(phase: str, module: str) -> str:
    """Where the peak was reached, in words."""
    where = "" if module.startswith("(") else f" of {module}"
    if phase == "outside":
        return "reached outside modules, backward and optimizer"
    return f"reached in {phase}{where}" + (", in the loss" if module == LOSS else "")


def _device(device: DeviceFacts, *, skyline_width: int) -> RenderableType:
    peak = device.peak
    total = f" of {format_bytes(device.total_bytes)}" if device.total_bytes else ""
    error = device.allocations.error_bytes
    bar = f"  ± {format_bytes(abs(error))}" if error else ""
    head = Text(f"GPU {device.index} {device.name}".rstrip(), style="bold")
    line = Text.assemble(
        ("peak ", "dim"), (format_bytes(peak.allocated_bytes), "bold"), f" allocated{bar}, ",
        (format_bytes(peak.reserved_bytes), "bold"), f" reserved{total}",
    )  # fmt: skip
    parts: list[RenderableType] = [Text(""), head, line]
    if peak.phase:
        parts.append(Text(_moment(peak.phase, peak.module)))
    if device.outside_torch_bytes is not None:
        parts.append(Text(f"outside torch: {format_bytes(device.outside_torch_bytes)} (CUDA context, libraries)"))
        parts += [Text(f"  {format_bytes(row.bytes)} {row.owner}") for row in device.outside if len(device.outside) > 1]
    if (device.counted_peak_bytes or 0) > _MORE_RATIO * peak.allocated_bytes:
        counted = format_bytes(device.counted_peak_bytes or 0)
        parts.append(Text(f"torch's own counter saw {counted} allocated at most: before or outside what was traced"))
    if len(device.timeline.allocated_bytes) > 1:
        parts.append(_skyline(device, skyline_width) if skyline_width else Text(_spark(device.timeline, 78)))
    parts += [_categories(device), _modules(device), _lines(device)]
    if device.pools:
        parts.append(_pools(device))
    if device.steps:
        parts.append(_steps(device))
    parts += _fragmentation(device)
    return Group(*parts)


def _skyline(device: DeviceFacts, width: int) -> Text:
    """Memory over time, stacked by category in the colours of the table below: two half blocks a cell."""
    names, cells = skyline(device, width=width, height=_SKYLINE_ROWS)
    text = Text()
    for upper, lower in zip(cells[::2].tolist(), cells[1::2].tolist(), strict=True):
        for above, below in zip(upper, lower, strict=True):
            if above == EMPTY:
                text.append(" " if below == EMPTY else "▄", "" if below == EMPTY else _COLORS[names[below]])
            else:
                text.append("▀", f"{_COLORS[names[above]]} on {_COLORS[names[below]]}")
        text.append("\n")
    text.rstrip()
    return text


def _spark(timeline: Timeline, width: int) -> str:
    """The timeline in one line, each column the highest of its share of events."""
    chunks = np.array_split(timeline.allocated_bytes, min(width, len(timeline.allocated_bytes)))
    top = max(int(timeline.allocated_bytes.max()), 1)
    return "".join(_SPARKS[min(int(chunk.max()) * len(_SPARKS) // top, len(_SPARKS) - 1)] for chunk in chunks)


def _share(size: int, total: int) -> str:
    return f"{100 * size / total:.1f} %" if total else ""


def _categories(device: DeviceFacts) -> Table:
    table = table_of("at the peak, by category", "bytes", "share")
    total = device.peak.allocated_bytes
    for name, size in sorted(device.peak.by_category.items(), key=lambda item: -item[1]):
        if size:
            row = Text.assemble(f"{name:<14}", ("█" * round(32 * size / total), _COLORS[name]))
            table.add_row(row, format_bytes(size), _share(size, total))
    return table


def _modules(device: DeviceFacts) -> RenderableType:
    rows = [row for row in device.peak.by_module if row[1]]
    if len(rows) < 2:
        return Text("")
    table = table_of("by module", "bytes", "share")
    for path, size in rows[:_ROWS]:
        table.add_row(Text(path), format_bytes(size), _share(size, device.peak.allocated_bytes))
    return table


def _pools(device: DeviceFacts) -> RenderableType:
    table = table_of("private pool", "reserved", "at the peak")
    for pool in device.pools[:_ROWS]:
        name = f"{pool.id} (of a CUDA graph)" if pool.owner == "cuda graph" else f"{pool.id} (made by the program)"
        table.add_row(Text(name), format_bytes(pool.reserved_bytes), format_bytes(pool.peak_allocated_bytes))
    return table


def _lines(device: DeviceFacts) -> RenderableType:
    total: dict[str, int] = {}
    for stack in device.peak.by_stack:
        where = place_of(users_frame(stack.frames))
        total[where] = total.get(where, 0) + stack.bytes
    if not total:
        return Text("")
    table = table_of("by line", "bytes", "share")
    for where, size in sorted(total.items(), key=lambda item: -item[1])[:_ROWS]:
        table.add_row(Text(where), format_bytes(size), _share(size, device.peak.allocated_bytes))
    return table


def _steps(device: DeviceFacts) -> RenderableType:
    table = table_of("step", "peak", "left at its end")
    for step in device.steps[:3] + (device.steps[-1:] if len(device.steps) > 3 else ()):
        table.add_row(
            Text(str(step.index)), format_bytes(step.peak_allocated_bytes), format_bytes(step.end_allocated_bytes)
        )
    return table


def _fragmentation(device: DeviceFacts) -> Iterator[RenderableType]:
    moment = device.fragmentation
    if moment.hidden or not is_much(moment.free.total, moment):
        return
    part = _share(moment.free.total, moment.reserved_bytes)
    yield Text(f"{part} of the {format_bytes(moment.reserved_bytes)} reserved lay free when torch reserved the most")
    yield free_words(moment)
    yield from pin_table(moment)
    yield from segment_map(moment)


def _finding(finding: Finding) -> RenderableType:
    lines: list[RenderableType] = []
    pointing = [evidence for evidence in finding.evidence if evidence.frames]
    for evidence in pointing[:_EVIDENCE_ROWS]:
        where = place_of(users_frame(evidence.frames))
        lines.append(Text(f"{where}: {_amount(evidence)}", style="dim"))
    if len(pointing) > _EVIDENCE_ROWS:
        lines.append(Text(f"and {len(pointing) - _EVIDENCE_ROWS} lines more", style="dim"))
    lines.append(Text(finding.fix.action))
    if finding.fix.code:
        lines.append(Text(finding.fix.code, style="bold"))
    head = Text(f"{finding.code} {finding.title}", _SEVERITY[finding.severity])
    return Group(Text(""), head, Padding(Group(*lines), (0, 0, 0, 2)))


def _amount(evidence: Evidence) -> str:
    if evidence.unit == "bytes":
        return format_bytes(int(evidence.value))
    return f"{evidence.value:,.0f} {evidence.unit}"
