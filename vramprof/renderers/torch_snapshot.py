"""Turns a recording into a torch memory snapshot, so that PyTorch's own viewer (pytorch.org/memory_viz) opens it."""

from __future__ import annotations

import io
import pickle
from typing import Any

from vramprof.recording import Recording
from vramprof.recording.schema import EMULATED_MARK, Action

_PROTOCOL = 4  # the viewer's unpickler cannot read 5
_ACTIONS = {int(action): action.name.lower() for action in Action}


def render_snapshot(recording: Recording) -> bytes:
    """The pickle that `torch.cuda.memory._snapshot()` would give; steps and phases are its annotations.

    An emulated recording says so among the allocator settings, which the viewer shows.
    """
    frames = _Frames(recording)
    settings = dict(recording.metadata.get("allocator_settings") or {})
    if recording.emulated:
        settings[EMULATED_MARK] = "EMULATED: no GPU was used; torch's allocator ran on an emulated device"
    last = max(recording.device_indices, default=-1)
    snapshot = {
        "segments": _segments(recording, frames),
        "device_traces": [_trace(recording, device, frames) for device in range(last + 1)],
        "allocator_settings": settings,
        "external_annotations": _annotations(recording),
    }
    output = io.BytesIO()
    pickle.Pickler(output, protocol=_PROTOCOL).dump(snapshot)
    return output.getvalue()


class _Frames:
    """The frame dicts of each stack, made once and shared, as torch does."""

    def __init__(self, recording: Recording) -> None:
        dicts = [{"filename": f.filename, "line": f.line, "name": f.name} for f in recording.stacks.frames]
        self._lists = [[dicts[index] for index in stack] for stack in recording.stacks.stacks]
        self._none: list[Any] = []

    def get(self, stack: int) -> list[Any]:
        return self._none if stack < 0 else self._lists[stack]


def _trace(recording: Recording, device: int, frames: _Frames) -> list[dict[str, Any]]:
    events = recording.events[recording.events["device"] == device]
    columns = ("action", "address", "size_bytes", "stream", "time_ns", "stack")
    return [
        {
            "action": _ACTIONS[action],
            "device_free" if action == Action.OOM else "addr": address,
            "size": size,
            "stream": stream,
            "time_us": time_ns // 1000,
            "frames": frames.get(stack),
        }
        for action, address, size, stream, time_ns, stack in zip(*(events[c].tolist() for c in columns), strict=True)
    ]


def _segments(recording: Recording, frames: _Frames) -> list[dict[str, Any]]:
    segments: dict[tuple[int, int], dict[str, Any]] = {}
    for row in recording.blocks.to_dict("records"):
        segment = segments.setdefault((row["device"], row["segment_address"]), _segment(row))
        active = row["state"].startswith("active")
        segment["allocated_size"] += row["size_bytes"] * (row["state"] == "active_allocated")
        segment["active_size"] += row["size_bytes"] * active
        segment["requested_size"] += row["requested_bytes"] * active
        segment["blocks"].append(
            {
                "address": row["address"],
                "size": row["size_bytes"],
                "requested_size": row["requested_bytes"],
                "state": row["state"],
                "frames": frames.get(row["stack"]),
            }
        )
    return list(segments.values())


def _segment(row: dict[Any, Any]) -> dict[str, Any]:
    pool = tuple(int(part) for part in row["pool_id"].split(",") if part.lstrip("-").isdigit())
    return {
        "device": row["device"],
        "address": row["segment_address"],
        "total_size": row["segment_size_bytes"],
        "allocated_size": 0,
        "active_size": 0,
        "requested_size": 0,
        "stream": row["stream"],
        "segment_type": row["segment_type"],
        "segment_pool_id": pool or (0, 0),
        "is_expandable": row["is_expandable"],
        "frames": [],
        "blocks": [],
    }


def _annotations(recording: Recording) -> list[dict[str, Any]]:
    spans = recording.spans[recording.spans["kind"] != "module"]
    found = []
    columns = ("kind", "name", "step", "begin_ns", "end_ns")
    for kind, name, step, begin, end in zip(*(spans[column].tolist() for column in columns), strict=True):
        said = f"step {step}" if kind == "step" else name or kind
        for stage, time_ns in (("START", begin), ("END", end)):
            found.append({"name": said, "stage": stage, "device": 0, "time_us": time_ns // 1000})
    return sorted(found, key=lambda annotation: annotation["time_us"])
