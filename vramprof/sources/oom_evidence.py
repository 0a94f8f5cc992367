"""Turns the moment of an out-of-memory error into a recording, while the program, and what it holds, stands still."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import pandas as pd

from vramprof.recording import Recorder, Recording
from vramprof.sources.allocator_history import AllocatorHistory
from vramprof.sources.compiled import describe_compiled
from vramprof.sources.devices import allocated_bytes, record_devices
from vramprof.sources.host_memory import available_bytes
from vramprof.sources.live_snapshot import take_state
from vramprof.sources.oom_signals import Failure
from vramprof.sources.oom_text import find_ooms
from vramprof.sources.snapshot import collector_paused, record_snapshot

_SOURCE = "out of memory"
_WITHOUT_EVENT = ("async", "rejected")
_RECENT_EVENTS = 256
"""Other threads may have gone on since the request failed."""
_EVENT_BYTES = 2048
"""Of host memory that one event takes while it is turned from torch's into ours."""


def take_evidence(
    recorder: Recorder,
    failure: Failure,
    *,
    history: AllocatorHistory | None,
    open_spans: Sequence[tuple[Any, ...]] = (),
) -> Recording:
    """What `recorder` holds, torch's history until now, the allocator's state and its counters, of origin "oom".

    `open_spans` are rows of what the program is in the middle of. Where torch has recorded no "oom" event of this
    failure, one is added from what the signal or the error's text tells, and a gap says so. With little host memory
    left the history is left out, and a gap says that.
    """
    taken = Recorder(origin="oom", emulated=recorder.emulated)
    record_devices(taken, allocated_bytes())
    with collector_paused():
        snapshot = _snapshot(taken, history)
        _add_event(taken, snapshot, failure)
        record_snapshot(taken, snapshot)
        describe_compiled(taken)
        new = taken.freeze()
    rest = recorder.freeze()
    about = {"thread": failure.thread, "frames": [list(frame) for frame in failure.frames], "text": failure.text}
    return replace(
        rest,
        origin="oom",
        metadata={**rest.metadata, **new.metadata, "end_ns": time.time_ns(), "out_of_memory": about},
        stacks=new.stacks, events=new.events, blocks=new.blocks, devices=new.devices,
        compiled=new.compiled,
        gaps=_joined(rest.gaps, new.gaps), spans=_joined(rest.spans, _rows(open_spans, rest.spans)),
    )  # fmt: skip


def _rows(rows: Sequence[tuple[Any, ...]], like: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=like.columns).astype(like.dtypes.to_dict())


def _joined(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    if first.empty or second.empty:
        return second if first.empty else first
    return pd.concat([first, second], ignore_index=True)


def _snapshot(recorder: Recorder, history: AllocatorHistory | None) -> dict[str, Any]:
    """torch's own, without its history where there is none or where the host could not hold it."""
    room = available_bytes()
    if history is not None and history.is_open:
        needed = _EVENT_BYTES * history.most_events()
        if room is None or needed < room // 2:
            return history.snapshot(recorder)
        recorder.gap(_SOURCE, f"the host has {room} bytes left: torch's history was not taken, only the blocks alive")
    else:
        recorder.gap(
            _SOURCE,
            "allocations were not traced when memory ran out: known are the blocks alive, the segment asked for",
        )
    return take_state()


def _add_event(recorder: Recorder, snapshot: dict[str, Any], failure: Failure) -> None:
    """Make sure that the failing request is there as an "oom" event, with frames."""
    device, tried_bytes, free_bytes = failure.device, failure.tried_bytes, failure.free_bytes
    text = next(find_ooms(BytesIO(failure.text.encode())), None)
    if text is not None and text.kind in ("allocator", *_WITHOUT_EVENT):
        device, tried_bytes, free_bytes = text.device or 0, text.tried_bytes, text.free_bytes
    if device is None or tried_bytes is None:
        return
    traces = snapshot["device_traces"]
    traces += [[] for _ in range(len(traces), device + 1)]
    recent = () if text is not None and text.kind in _WITHOUT_EVENT else traces[device][-_RECENT_EVENTS:]
    told = [entry for entry in recent if entry["action"] == "oom"]
    if not told:
        if traces[device]:
            recorder.gap(_SOURCE, "torch recorded no event of this failure: the size is the segment's, not the block's")
        told = [{"action": "oom", "device_free": free_bytes or 0, "size": tried_bytes, "stream": 0,
                 "time_us": time.time_ns() // 1000}]  # fmt: skip
        traces[device] += told
    if not told[-1].get("frames"):
        told[-1]["frames"] = [frame._asdict() for frame in failure.frames]
