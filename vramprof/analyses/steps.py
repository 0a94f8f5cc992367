"""Turns step spans and a timeline into what each step peaked at and left behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vramprof.analyses.spans import of_kind
from vramprof.analyses.timeline import Timeline
from vramprof.recording import Recording


@dataclass(frozen=True)
class Step:
    """One step of the user's loop."""

    index: int
    begin_ns: int
    end_ns: int
    peak_allocated_bytes: int
    end_allocated_bytes: int


def find_steps(recording: Recording, timeline: Timeline) -> tuple[Step, ...]:
    """Every step, in order."""
    spans = of_kind(recording.spans, "step")
    window = recording.metadata.get("window")
    if window:  # steps of an older window, whose events were not kept
        spans = spans[(spans["end_ns"] > window["begin_ns"]) & (spans["begin_ns"] < window["end_ns"])]
    steps = []
    for index, begin, end in zip(
        spans["step"].tolist(), spans["begin_ns"].tolist(), spans["end_ns"].tolist(), strict=True
    ):
        first = max(int(np.searchsorted(timeline.time_ns[1:], begin, side="left")), 0)
        last = int(np.searchsorted(timeline.time_ns[1:], end, side="right"))
        window = timeline.allocated_bytes[first : last + 1]
        steps.append(Step(int(index), int(begin), int(end), int(window.max()), int(window[-1])))
    return tuple(steps)
