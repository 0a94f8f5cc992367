"""Turns a trace of torch.profiler with memory events into a Recording: blocks and totals, no segments."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vramprof.errors import RecordingError
from vramprof.recording import Recorder, Recording
from vramprof.recording.schema import NO_STACK, Action

_DEVICE_TYPES = {1: "CUDA", 6: "HIP"}
_GZIP = b"\x1f\x8b"


def looks_like_json(path: Path) -> bool:
    """Whether a file begins as JSON, packed with gzip or not."""
    with path.open("rb") as file:
        head = file.read(64)
    return head[:2] == _GZIP or head.lstrip()[:1] in (b"{", b"[")


def load_kineto(path: Path) -> Recording:
    """A trace of torch.profiler(profile_memory=True) as a Recording of origin "snapshot".

    An event's bytes are a block's, rounded as the allocator rounded them. What was alive before the trace and never
    freed in it is one block without an address.

    Raises:
        RecordingError: it is no such trace, or it holds no memory events of a GPU.
    """
    trace = _read(path)
    entries = [event for event in trace["traceEvents"] if event.get("name") == "[memory]"]
    devices: dict[int, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["args"].get("Device Type") in _DEVICE_TYPES:
            devices.setdefault(int(entry["args"]["Device Id"]), []).append(entry)
    if not devices:
        raise RecordingError(f"{path}: the trace has no GPU memory events: record it with profile_memory=True")
    if any("Addr" not in rows[0]["args"] or "Total Allocated" not in rows[0]["args"] for rows in devices.values()):
        raise RecordingError(
            f"{path}: its memory events have no addresses (torch before 1.12): only newer traces serve"
        )
    recorder = Recorder(origin="snapshot", emulated=False)
    base_ns = int(trace.get("baseTimeNanoseconds", 0))
    for device, rows in devices.items():
        _record_device(recorder, device, sorted(rows, key=lambda row: float(row["ts"])), base_ns)
    _record_spans(recorder, trace["traceEvents"], base_ns)
    _record_properties(recorder, trace.get("deviceProperties") or [], devices)
    recorder.metadata.update(source=str(path), segments="unknown")
    recorder.gap("trace", "a profiler's trace has neither segments nor streams nor stacks: totals and blocks only")
    return recorder.freeze()


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        trace = json.loads(gzip.decompress(raw) if raw[:2] == _GZIP else raw)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise RecordingError(f"{path}: not a readable trace ({str(error).splitlines()[0]})") from None
    if not isinstance(trace, dict) or not isinstance(trace.get("traceEvents"), list):
        raise RecordingError(f"{path}: JSON, but not a trace of torch.profiler (it has no traceEvents)")
    return trace


def _record_device(recorder: Recorder, device: int, rows: Sequence[Mapping[str, Any]], base_ns: int) -> None:
    """Events of one device, with what the totals tell of segments; then the state that they end in."""
    events: list[tuple[Action, int, int, int]] = []
    live: dict[int, int] = {}
    first = rows[0]["args"]
    reserved = int(first["Total Reserved"])
    older = int(first["Total Allocated"]) - int(first["Bytes"])
    for row in rows:
        told = row["args"]
        time_ns = base_ns + int(float(row["ts"]) * 1000)
        address, size, total = int(told["Addr"]), int(told["Bytes"]), int(told["Total Reserved"])
        if total != reserved:
            action = Action.SEGMENT_ALLOC if total > reserved else Action.SEGMENT_FREE
            events.append((action, 0, abs(total - reserved), time_ns))
            reserved = total
        if size > 0:
            events.append((Action.ALLOC, address, size, time_ns))
            live[address] = size
            continue
        if live.pop(address, None) is None:
            older += size
        events += [(action, address, -size, time_ns) for action in (Action.FREE_REQUESTED, Action.FREE_COMPLETED)]
    _record_events(recorder, device, events)
    if older > 0:
        live[0] = older
    for address, size in live.items():
        recorder.add(
            "blocks", device, 0, reserved, "", "0,0", False, 0, address, size, size, "active_allocated", NO_STACK
        )


def _record_events(recorder: Recorder, device: int, events: Sequence[tuple[Action, int, int, int]]) -> None:
    actions, addresses, sizes, times = zip(*events, strict=True)
    count = len(events)
    recorder.extend("events", {
        "device": [device] * count, "action": [int(action) for action in actions], "address": addresses,
        "size_bytes": sizes, "stream": [0] * count, "time_ns": times, "stack": [NO_STACK] * count,
    })  # fmt: skip


def _record_spans(recorder: Recorder, events: Sequence[Mapping[str, Any]], base_ns: int) -> None:
    for event in events:
        if event.get("cat") == "user_annotation" and "dur" in event:
            name = str(event.get("name", ""))
            begin_ns = base_ns + int(float(event["ts"]) * 1000)
            kind = "optimizer" if name.startswith("Optimizer.step#") else "annotation"
            recorder.add("spans", kind, name, begin_ns, begin_ns + int(float(event["dur"]) * 1000), 0, -1)


def _record_properties(recorder: Recorder, properties: Sequence[Mapping[str, Any]], devices: Mapping[int, Any]) -> None:
    for card in properties:
        if card.get("id") in devices:
            capability = f"{card.get('computeMajor', 0)}.{card.get('computeMinor', 0)}"
            peaks = [
                int(row["args"][key]) for key in ("Total Allocated", "Total Reserved") for row in devices[card["id"]]
            ]
            half = len(peaks) // 2
            recorder.add(
                "devices", int(card["id"]), str(card.get("name", "")), int(card.get("totalGlobalMem", 0)), capability,
                peaks[0], peaks[half - 1], max(peaks[:half]), max(peaks[half:]),
            )  # fmt: skip
