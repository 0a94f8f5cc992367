"""Turns facts into a trace for ui.perfetto.dev: counters by category, allocations as slices, steps and phases.

The format is Chrome's JSON trace (Trace Event Format), gzipped; Perfetto opens it as it is. Each device is a process.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from vramprof.analyses.allocations import IntArray
from vramprof.analyses.attribution import CATEGORIES
from vramprof.analyses.frames import users_frame
from vramprof.analyses.spans import of_kind
from vramprof.findings import DeviceFacts, Facts
from vramprof.renderers.series import make_series

_MOST_POINTS = 40_000
_LANES = {
    "step": 1, "forward": 2, "recompute": 2, "backward": 2, "optimizer": 2, "module": 3, "module_backward": 4,
    "annotation": 5,
}  # fmt: skip
_NAMED = ("module", "module_backward", "annotation")
_LANE_NAMES = {1: "steps", 2: "phases", 3: "modules", 4: "modules' backward", 5: "annotations"}


def render_perfetto(facts: Facts) -> bytes:
    """The gzipped trace. Times are microseconds since the first event, or event numbers where there are no times."""
    lines = [line for device in facts.devices for line in _device(facts, device)]
    emulated = facts.recording.emulated
    head = json.dumps({"emulated": emulated, "origin": facts.recording.origin, "writer": "vramprof"})
    text = f'{{"otherData":{head},"displayTimeUnit":"ns","traceEvents":[\n' + ",\n".join(lines) + "\n]}\n"
    return gzip.compress(text.encode(), compresslevel=4, mtime=0)


def _device(facts: Facts, device: DeviceFacts) -> Iterator[str]:
    clock = _Clock(device)
    said = "EMULATED " if facts.recording.emulated else ""
    yield _meta(device.index, 0, "process_name", f"{said}GPU {device.index} {device.name}".strip())
    for lane, name in _LANE_NAMES.items():
        yield _meta(device.index, lane, "thread_name", name)
    yield from _counters(device, clock)
    yield from _spans(facts, device, clock)
    yield from _allocations(facts, device, clock)


class _Clock:
    """Microseconds since the device's first event."""

    def __init__(self, device: DeviceFacts) -> None:
        times = device.timeline.time_ns
        self.begin_ns = int(times[0])
        self.has_times = bool(times[-1] > times[0])
        ticks = times - self.begin_ns if self.has_times else np.arange(len(times)) * 1000
        self.at_moment: list[str] = [f"{tick / 1000:.3f}" for tick in np.maximum.accumulate(ticks).tolist()]


def _meta(process: int, thread: int, name: str, value: str) -> str:
    return json.dumps({"ph": "M", "pid": process, "tid": thread, "name": name, "args": {"name": value}})


def _counters(device: DeviceFacts, clock: _Clock) -> Iterator[str]:
    series = make_series(device, _MOST_POINTS)
    columns = {**series.by_category, "allocated": series.allocated_bytes, "reserved": series.reserved_bytes}
    for name, values in columns.items():
        changed = _changes(values)
        head = f'{{"ph":"C","pid":{device.index},"name":{json.dumps(name + " (bytes)")},"ts":'
        for moment, value in zip(series.event[changed].tolist(), values[changed].tolist(), strict=True):
            yield f'{head}{clock.at_moment[moment]},"args":{{"bytes":{value}}}}}'


def _changes(values: IntArray) -> IntArray:
    return np.flatnonzero(np.diff(values, prepend=values[:1] - 1))


def _spans(facts: Facts, device: DeviceFacts, clock: _Clock) -> Iterator[str]:
    if not clock.has_times:
        return
    spans = of_kind(facts.recording.spans, *_LANES)
    columns = ("kind", "name", "step", "begin_ns", "end_ns")
    for kind, name, step, begin, end in zip(*(spans[column].tolist() for column in columns), strict=True):
        said = f"step {step}" if kind == "step" else name if kind in _NAMED else kind
        start = (begin - clock.begin_ns) / 1000
        event: dict[str, Any] = {"ph": "X", "pid": device.index, "tid": _LANES[kind], "name": said, "cat": kind}
        yield json.dumps({**event, "ts": max(start, 0.0), "dur": max((end - begin) / 1000, 0.0)})


def _allocations(facts: Facts, device: DeviceFacts, clock: _Clock) -> Iterator[str]:
    """Asynchronous slices, one per allocation, on a track per category; what is never freed ends with the trace."""
    allocations, attribution, last = device.allocations, device.attribution, device.allocations.event_count
    stacks = {int(stack): _line(facts, int(stack)) for stack in np.unique(attribution.stack)}
    modules = {module: json.dumps(str(module)) for module in set(attribution.module.tolist())}
    columns = (allocations.alloc_row, allocations.free_row, allocations.size_bytes, allocations.address,
               attribution.stack, attribution.category, attribution.module)  # fmt: skip
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for number, (begin, end, size, address, stack, category, module) in enumerate(rows):
        if end <= begin:
            continue
        name = CATEGORIES[category]
        tail = f'"cat":"allocation","pid":{device.index},"id":"{device.index}.{number}","name":"{name}"'
        told = f'"bytes":{size},"module":{modules[module]},"line":{stacks[stack]},"address":"{address:#x}"'
        yield f'{{"ph":"b","ts":{clock.at_moment[begin + 1]},{tail},"args":{{{told}}}}}'
        yield f'{{"ph":"e","ts":{clock.at_moment[min(end + 1, last)]},{tail}}}'


def _line(facts: Facts, stack: int) -> str:
    frame = users_frame(facts.recording.stacks.get(stack))
    return json.dumps(f"{frame.filename}:{frame.line} {frame.name}" if frame else "")
