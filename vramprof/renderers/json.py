"""Turns facts and findings into JSON, schema_version 1: sizes are ints in bytes, times ints in Unix nanoseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vramprof.analyses.allocations import IntArray
from vramprof.analyses.timeline import Timeline
from vramprof.findings import DeviceFacts, Facts, Finding
from vramprof.findings.comparison import DeviceComparison, Prediction
from vramprof.recording import Frame
from vramprof.recording.schema import SCHEMA_VERSION
from vramprof.renderers.fragments import fragmentation_dict

_MOST_STACKS = 200
_MOST_RESIDUALS = 50
_MOST_POINTS = 200


def render_json(facts: Facts, findings: Sequence[Finding], prediction: Prediction | None = None) -> str:
    """The whole report as indented JSON text."""
    return json.dumps(as_dict(facts, findings, prediction), indent=1) + "\n"


def as_dict(facts: Facts, findings: Sequence[Finding], prediction: Prediction | None = None) -> dict[str, Any]:
    """The report as plain data; "prediction" is there only where there was one."""
    recording = facts.recording
    times = {device.index: device.timeline.time_ns for device in facts.devices}
    told = {
        "schema_version": SCHEMA_VERSION,
        "origin": recording.origin,
        "emulated": recording.emulated,
        "torch_version": str(recording.metadata.get("torch_version", "")),
        "command": list(recording.metadata.get("command", [])),
        "allocator_settings": dict(recording.metadata.get("allocator_settings") or {}),
        "devices": [_device(device) for device in facts.devices],
        "findings": [_finding(finding, times) for finding in findings],
        "gaps": recording.gaps.to_dict("records"),
    }
    if prediction is not None:
        devices = [comparison_dict(device) for device in prediction.devices]
        told["prediction"] = {"emulated": prediction.expected.recording.emulated, "devices": devices}
    return told


def comparison_dict(device: DeviceComparison) -> dict[str, Any]:
    """One device against what was expected of it: peaks, and every moment with what differs there, largest first."""
    comparison = device.comparison
    names = ("expected_bytes", "actual_bytes")
    return {
        "index": device.index,
        "expected_step_count": comparison.expected_steps,
        "peak_allocated": dict(zip(names, comparison.allocated_bytes, strict=True)),
        "peak_reserved": dict(zip(names, comparison.reserved_bytes, strict=True)),
        "moments": [
            {
                "step": pair.step, "expected_step": pair.expected_step, "phase": pair.phase,
                "expected_bytes": pair.expected_bytes, "actual_bytes": pair.actual_bytes,
                "residuals": [vars(one) for one in pair.residuals[:_MOST_RESIDUALS]],
            }
            for pair in comparison.pairs
        ],
    }  # fmt: skip


def _device(device: DeviceFacts) -> dict[str, Any]:
    peak = device.peak
    return {
        "index": device.index,
        "name": device.name,
        "total_bytes": device.total_bytes,
        "peak_allocated_bytes": peak.allocated_bytes,
        "peak_reserved_bytes": int(device.timeline.reserved_bytes.max()),
        "counted_peak_allocated_bytes": device.counted_peak_bytes,
        "outside_torch_bytes": device.outside_torch_bytes,
        "outside_torch": [vars(row) for row in device.outside],
        "pools": [vars(pool) for pool in device.pools],
        "error_bytes": device.allocations.error_bytes,
        "unmatched_free_count": device.allocations.unmatched_count,
        "peak": {
            "time_ns": peak.time_ns,
            "allocated_bytes": peak.allocated_bytes,
            "reserved_bytes": peak.reserved_bytes,
            "requested_bytes": peak.requested_bytes,
            "phase": peak.phase,
            "module": peak.module,
            "by_category": peak.by_category,
            "by_module": [{"path": path, "bytes": size} for path, size in peak.by_module],
            "by_stack": [
                {"bytes": stack.bytes, "count": stack.count, "frames": _frames(stack.frames)}
                for stack in peak.by_stack[:_MOST_STACKS]
            ],
        },
        "fragmentation": {
            **fragmentation_dict(device.fragmentation),
            "over_time": _reserved_over_time(device.timeline),
        },
        "steps": [vars(step) for step in device.steps],
    }


def _reserved_over_time(timeline: Timeline) -> list[dict[str, int]]:
    """Reserved against allocated, where reserved was highest in each of up to so many equal parts of the events."""
    parts = np.array_split(timeline.reserved_bytes, min(_MOST_POINTS, len(timeline.reserved_bytes)))
    begins = np.cumsum([0, *map(len, parts[:-1])])
    rows = [int(begin + np.argmax(part)) for begin, part in zip(begins, parts, strict=True)]
    columns = (timeline.time_ns, timeline.reserved_bytes, timeline.allocated_bytes)
    names = ("time_ns", "reserved_bytes", "allocated_bytes")
    return [dict(zip(names, (int(column[row]) for column in columns), strict=True)) for row in rows]


def _frames(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    return [{"name": frame.name, "filename": frame.filename, "line": frame.line} for frame in frames]


def _finding(finding: Finding, times: Mapping[int, IntArray]) -> dict[str, Any]:
    known = finding.moment is not None and finding.device in times
    return {
        "code": finding.code,
        "title": finding.title,
        "severity": finding.severity,
        "cost_bytes": finding.cost_bytes,
        "basis": finding.basis,
        "device": finding.device,
        "evidence": [
            {"statement": e.statement, "value": e.value, "unit": e.unit, "frames": _frames(e.frames)}
            for e in finding.evidence
        ],
        "holder": finding.holder,
        "moment_ns": int(times[finding.device][finding.moment]) if known else None,
        "fix": vars(finding.fix),
    }
