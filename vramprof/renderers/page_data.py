"""Turns a device's facts into what the page works on: every allocation, the segments, the moments and the stacks."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from vramprof.analyses.allocations import IntArray
from vramprof.analyses.attribution import CATEGORIES, Attribution
from vramprof.analyses.contexts import PHASES
from vramprof.analyses.frames import is_python, is_users
from vramprof.analyses.segments import find_segments
from vramprof.analyses.spans import of_kind
from vramprof.findings import DeviceFacts
from vramprof.recording import Recording
from vramprof.recording.schema import NO_STACK, Action
from vramprof.renderers.columns import pack

_SPANS = ("step", "forward", "backward", "recompute", "optimizer")
_MOST_SAMPLES = 4000

Columns = dict[str, npt.NDArray[Any]]


def pack_device(recording: Recording, device: DeviceFacts) -> str:
    """One device as a binary block. A moment is a number of events applied: 0 is before the first.

    An allocation is alive at moment m if born <= m < died; allocations are in the order of their birth.
    """
    order = np.argsort(device.allocations.alloc_row, kind="stable")
    head: dict[str, Any] = {}
    columns = _allocations(device, order)
    columns["time"] = device.timeline.time_ns - device.timeline.time_ns[0]
    columns["reserved"] = device.timeline.reserved_bytes
    head["begin_ns"] = str(device.timeline.time_ns[0])  # more than a JavaScript number holds
    head["groupings"] = _groupings(device.attribution, order, columns)
    head.update(_stacks(recording, device.attribution.stack[order], columns))
    _segments(recording, device.index, columns)
    _samples(recording, device, columns)
    _marks(recording, device.index, columns)
    head["span_names"] = _spans(recording, device, columns)
    return pack(head, columns)


def _allocations(device: DeviceFacts, order: IntArray) -> Columns:
    allocations = device.allocations
    born = allocations.alloc_row[order] + 1
    return {
        "born": born,
        "lifetime": allocations.free_row[order] + 1 - born,
        "pending": allocations.completed_row[order] - allocations.free_row[order],
        "size": allocations.size_bytes[order],
        "rounding": allocations.size_bytes[order] - allocations.requested_bytes[order],
        "address": allocations.address[order],
        "measured": device.attribution.measured[order].astype(np.int64),
    }


def _groupings(attribution: Attribution, order: IntArray, columns: Columns) -> dict[str, list[str]]:
    """The names of each grouping, whose numbers are in the column of that name."""
    columns["category"] = attribution.category[order].astype(np.int64)
    columns["phase"] = attribution.phase[order].astype(np.int64)
    columns["module"], modules = pd.factorize(attribution.module[order])
    return {"category": list(CATEGORIES), "module": [str(path) for path in modules], "phase": list(PHASES)}


def _stacks(recording: Recording, stack: IntArray, columns: Columns) -> dict[str, Any]:
    """Only the stacks and frames that the allocations use, renumbered; -1 is no stack."""
    used, number = np.unique(stack, return_inverse=True)
    known = used[used != NO_STACK].tolist()
    columns["stack"] = number - (len(used) - len(known))
    chosen = [recording.stacks.stacks[index] for index in known]
    flat = np.fromiter(chain.from_iterable(chosen), dtype=np.int64)
    frames, renumbered = np.unique(flat, return_inverse=True)
    told = [recording.stacks.frames[index] for index in frames.tolist()]
    columns["stack_end"] = np.cumsum([len(one) for one in chosen], dtype=np.int64)
    columns["stack_frames"] = renumbered
    columns["stack_user"] = _users_frames(chosen, frames, told)
    return {"frames": [[*frame, int(is_users(frame))] for frame in told]}


def _users_frames(stacks: list[tuple[int, ...]], frames: IntArray, told: list[Any]) -> IntArray:
    """The user's own innermost frame of each stack; else Python's innermost, else -1."""
    position = {index: place for place, index in enumerate(frames.tolist())}
    users = {index for index, frame in zip(position, told, strict=True) if is_users(frame)}
    python = {index for index, frame in zip(position, told, strict=True) if is_python(frame)}

    def find(stack: tuple[int, ...]) -> int:
        own = next((one for one in stack if one in users), None)
        return position.get(own if own is not None else next((one for one in stack if one in python), -1), -1)

    return np.array([find(stack) for stack in stacks], dtype=np.int64)


def _segments(recording: Recording, device: int, columns: Columns) -> None:
    segments = find_segments(recording, device)
    columns["segment_address"] = segments.address
    columns["segment_size"] = segments.size_bytes
    columns["segment_born"] = segments.begin_row + 1
    columns["segment_died"] = segments.end_row + 1
    columns["segment_mapped"] = segments.mapped.astype(np.int64)


def moments_at(device: DeviceFacts, times_ns: IntArray) -> IntArray:
    """How many events had been applied at these times."""
    clock = np.maximum.accumulate(device.timeline.time_ns[1:])
    return np.searchsorted(clock, times_ns, side="right").astype(np.int64)


def _samples(recording: Recording, device: DeviceFacts, columns: Columns) -> None:
    samples = recording.samples[recording.samples["device"] == device.index].sort_values("time_ns", kind="stable")
    samples = samples[samples["process_bytes"] >= 0]
    samples = samples.iloc[:: max(-(-len(samples) // _MOST_SAMPLES), 1)]
    columns["sample_moment"] = moments_at(device, samples["time_ns"].to_numpy(dtype=np.int64))
    columns["sample_process"] = samples["process_bytes"].to_numpy(dtype=np.int64)


def _marks(recording: Recording, device: int, columns: Columns) -> None:
    """Out-of-memory errors."""
    events = recording.events[recording.events["device"] == device]
    where = np.flatnonzero(events["action"].to_numpy() == Action.OOM)
    columns["oom_moment"] = where + 1
    columns["oom_size"] = events["size_bytes"].to_numpy(dtype=np.int64)[where]


def _spans(recording: Recording, device: DeviceFacts, columns: Columns) -> list[str]:
    spans = of_kind(recording.spans, *_SPANS)
    columns["span_kind"] = np.array([_SPANS.index(kind) for kind in spans["kind"]], dtype=np.int64)
    columns["span_begin"] = moments_at(device, spans["begin_ns"].to_numpy(dtype=np.int64))
    columns["span_end"] = moments_at(device, spans["end_ns"].to_numpy(dtype=np.int64))
    columns["span_step"] = spans["step"].to_numpy(dtype=np.int64)
    return list(_SPANS)
