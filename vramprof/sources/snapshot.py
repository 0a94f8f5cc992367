"""Turns what `torch.cuda.memory._snapshot()` gives, of any torch version or fork, into rows of a recording."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vramprof.errors import RecordingError
from vramprof.recording import Frame, Recorder, Recording, Stacks
from vramprof.recording.schema import ACTIONS, CONTEXT_PREFIX, EMULATED_MARK, NO_CONTEXT, NO_STACK, Action
from vramprof.sources.pickles import load_plain_pickle

_CHUNK_EVENTS = 65_536
"""Events turned into columns at once: the Python lists of a million would take as much again as the columns."""
PENDING_STATES = ("active_pending_free", "active_awaiting_free")


@contextmanager
def collector_paused() -> Iterator[None]:
    """Python's cycle collector paused: it would walk the millions of dicts of a snapshot, which hold no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load_snapshot(path: Path) -> Recording:
    """A torch snapshot pickle as a Recording of origin "snapshot".

    Raises:
        RecordingError: the file is no pickle or no snapshot.
        UnsafeFileError: the pickle asks for more than plain data.
    """
    with collector_paused():
        return _recording_from(path, load_plain_pickle(path))


def _recording_from(path: Path, snapshot: Any) -> Recording:
    recorder = Recorder(origin="snapshot", emulated=False)
    try:
        record_snapshot(recorder, snapshot)
        recorder.metadata["source"] = str(path)
        return recorder.freeze()
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RecordingError(f"{path}: not a torch memory snapshot ({type(error).__name__}: {error})") from None


def record_snapshot(recorder: Recorder, snapshot: Any) -> None:
    """Write the events, blocks, annotations and settings of a snapshot; bare lists of old versions too."""
    if isinstance(snapshot, Sequence) and not isinstance(snapshot, str):
        snapshot = {"segments": snapshot}
    if not isinstance(snapshot, Mapping) or not isinstance(snapshot.get("segments"), Sequence):
        raise RecordingError("not a torch memory snapshot (it has no list of segments)")
    reader = _FrameReader(recorder.stacks)
    traces = snapshot.get("device_traces") or []
    for device, trace in enumerate(traces):
        for begin in range(0, len(trace), _CHUNK_EVENTS):
            recorder.extend("events", _event_columns(device, trace[begin : begin + _CHUNK_EVENTS], reader))
    _record_blocks(recorder, snapshot["segments"], reader)
    _record_annotations(recorder, snapshot.get("external_annotations") or [])
    settings = dict(snapshot.get("allocator_settings") or {})
    recorder.emulated = recorder.emulated or settings.pop(EMULATED_MARK, None) is not None
    recorder.metadata["allocator_settings"] = settings
    _record_gaps(recorder, traces)


def _record_gaps(recorder: Recorder, traces: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    entries = next((trace for trace in traces if trace), None)
    if entries is None:
        recorder.gap("allocator history", "state only: the snapshot has no trace, so there is no timeline")
        return
    if "time_us" not in entries[0]:
        recorder.gap("allocator history", "the snapshot has no times: events are in order, but not dated")
    if not any(entry.get("frames") for entry in entries):
        recorder.gap("allocator history", "the snapshot has no frames: nothing can be traced to a line")


class _FrameReader:
    """Interns the frame lists of a snapshot. Torch shares equal frames, and so does a pickle: their ids are the key."""

    def __init__(self, stacks: Stacks) -> None:
        self._stacks = stacks
        self._seen: dict[tuple[int, ...], int] = {}
        self._kept: list[Any] = []

    def stack(self, frames: Any) -> int:
        if not frames:
            return NO_STACK
        key = tuple(map(id, frames))
        stack = self._seen.get(key)
        if stack is None:
            stack = self._seen[key] = self._stacks.add(
                Frame(str(f.get("filename", "")), int(f.get("line", 0)), str(f.get("name", ""))) for f in frames
            )
            self._kept.append(frames)  # so that the ids are not reused
        return stack


def _event_columns(device: int, trace: Sequence[Mapping[str, Any]], reader: _FrameReader) -> dict[str, Iterable[Any]]:
    other = Action.OTHER
    return {
        "device": [device] * len(trace),
        "action": [int(ACTIONS.get(entry["action"], other)) for entry in trace],
        "address": [entry.get("addr", entry.get("device_free", 0)) for entry in trace],
        "size_bytes": [entry.get("size", 0) for entry in trace],
        "stream": [_unsigned(entry.get("stream", 0)) for entry in trace],
        "time_ns": [entry.get("time_us", 0) * 1000 for entry in trace],
        "stack": [reader.stack(entry.get("frames")) for entry in trace],
        "context": [_context(entry.get("user_metadata")) for entry in trace],
    }


def _context(metadata: Any) -> int:
    """The span or moment that our own metadata names; a stranger's metadata is none."""
    if isinstance(metadata, str) and metadata.startswith(CONTEXT_PREFIX) and metadata[len(CONTEXT_PREFIX) :].isdigit():
        return int(metadata[len(CONTEXT_PREFIX) :])
    return NO_CONTEXT


def _unsigned(value: int) -> int:
    return value & 0xFFFF_FFFF_FFFF_FFFF


def _record_blocks(recorder: Recorder, segments: Sequence[Mapping[str, Any]], reader: _FrameReader) -> None:
    for segment in segments:
        address = int(segment["address"])
        for block in segment["blocks"]:
            history = block.get("history") or []
            block_address = int(block.get("address", address))
            size_bytes = int(block["size"])
            requested_bytes = int(block.get("requested_size", history[0]["real_size"] if history else size_bytes))
            frames = block.get("frames") or (history[0].get("frames") if history else None)
            recorder.add(
                "blocks", int(segment.get("device", 0)), int(segment["address"]), int(segment["total_size"]),
                str(segment.get("segment_type", "")), _pool_id(segment), bool(segment.get("is_expandable", False)),
                _unsigned(int(segment.get("stream", 0))), block_address, size_bytes, requested_bytes,
                str(block["state"]), reader.stack(frames),
            )  # fmt: skip
            address += size_bytes


def _pool_id(segment: Mapping[str, Any]) -> str:
    pool = segment.get("segment_pool_id", (0, 0))
    return ",".join(str(part) for part in pool) if isinstance(pool, Sequence) else str(pool)


def _record_annotations(recorder: Recorder, annotations: Sequence[Mapping[str, Any]]) -> None:
    """record_function ranges: each START with the next END of its name becomes a span of kind "annotation"."""
    open_ranges: dict[str, list[int]] = {}
    for annotation in annotations:
        name, time_ns = str(annotation.get("name", "")), int(annotation.get("time_us", 0)) * 1000
        if annotation.get("stage") == "START":
            open_ranges.setdefault(name, []).append(time_ns)
        elif open_ranges.get(name):
            kind = "optimizer" if name.startswith("Optimizer.step#") else "annotation"
            recorder.add("spans", kind, name, open_ranges[name].pop(), time_ns, 0, -1)
