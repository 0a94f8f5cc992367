"""Turns torch's history up to this moment into a recording, while the recording goes on."""

from __future__ import annotations

from dataclasses import replace

from vramprof.recording import Recorder, Recording
from vramprof.sources.compiled import describe_compiled
from vramprof.sources.live_snapshot import take_snapshot
from vramprof.sources.snapshot import record_snapshot


def recording_so_far(recorder: Recorder) -> Recording:
    """What a live recorder would hold if the session ended now. Costs a snapshot, so not for every step."""
    history = Recorder(origin=recorder.origin, emulated=recorder.emulated)
    record_snapshot(history, take_snapshot())
    describe_compiled(history)
    events, rest = history.freeze(), recorder.freeze()
    return replace(rest, stacks=events.stacks, events=events.events, blocks=events.blocks, compiled=events.compiled)
