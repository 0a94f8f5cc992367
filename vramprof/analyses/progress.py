"""Folds the rows of a running program into what is to be seen of each of its devices, in constant memory."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vramprof.analyses.trend import certain_growth
from vramprof.recording.feed import SAMPLE, STEP, UNKNOWN, Head, Row

PHASES = ("forward", "backward", "optimizer")
NAMED = ("weights", "buffers", "gradients", "optimizer")
REST = "rest"
"""What has no name of its own while the program runs: activations, temporaries, workspaces, inputs."""

_MOST_POINTS = 4096
_MOST_LEVELS = 96
_RATE_STEPS = 12


class Point(NamedTuple):
    """What a device held at a moment, in bytes; UNKNOWN where it was not asked."""

    time_ns: int
    allocated_bytes: int
    reserved_bytes: int
    process_bytes: int
    device_used_bytes: int
    weights_bytes: int
    """With buffers; UNKNOWN before the first phase has ended."""
    optimizer_bytes: int

    @property
    def held_bytes(self) -> int:
        """What torch has allocated; of a process that is only seen from outside, all that it has."""
        return self.process_bytes if self.allocated_bytes == UNKNOWN else self.allocated_bytes


class Growth(NamedTuple):
    """Memory at the ends of steps grows beyond doubt."""

    each_step_bytes: float
    steps_left: int | None
    """Until the device is full, if it goes on like this."""


class Track:
    """One device of one run. The history is thinned as it grows; of two neighbours the one that held more stays."""

    def __init__(self, head: Head) -> None:
        self.device = head.device
        self.name = head.name
        self.total_bytes = head.total_bytes
        self.points: list[Point] = []
        self.newest: Point | None = None
        self.phases: dict[str, dict[str, int]] = {}
        self.peak_bytes = UNKNOWN
        self.peak_reserved_bytes = UNKNOWN
        self.step = UNKNOWN
        self.growth: Growth | None = None
        self._levels: list[tuple[int, int]] = []
        self._least_gap = 1
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RATE_STEPS)
        self._weights_bytes = self._optimizer_bytes = UNKNOWN

    def take(self, rows: Sequence[Row]) -> None:
        """What happened since the last time, oldest first."""
        for row in rows:
            self.step = max(self.step, row.step)
            self.peak_bytes = max(self.peak_bytes, row.peak_bytes)
            self.peak_reserved_bytes = max(self.peak_reserved_bytes, row.reserved_bytes)
            if row.moment == STEP:
                self._step_ends(row)
            elif row.moment != SAMPLE:
                self._phase_ends(row)
            self._see(row)
        if any(row.moment == STEP for row in rows):
            self.growth = self._find_growth()

    def _see(self, row: Row) -> None:
        before = self.newest
        outside = (row.process_bytes, row.device_used_bytes)
        if row.moment != SAMPLE and before is not None:  # these are told by samples alone
            outside = (before.process_bytes, before.device_used_bytes)
        figures = (row.time_ns, row.allocated_bytes, row.reserved_bytes, *outside)
        point = Point(*figures, self._weights_bytes, self._optimizer_bytes)
        if before is None or point.time_ns >= before.time_ns:
            self.newest = point
            self.points.append(point)
        if len(self.points) >= _MOST_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [max(pair, key=lambda one: one.held_bytes) for pair in pairs]

    def _phase_ends(self, row: Row) -> None:
        self._weights_bytes = row.weights_bytes + row.buffers_bytes
        self._optimizer_bytes = row.optimizer_bytes
        named = {name: int(getattr(row, f"{name}_bytes")) for name in NAMED}
        self.phases[row.moment] = {**named, REST: max(row.allocated_bytes - sum(named.values()), 0)}

    def _step_ends(self, row: Row) -> None:
        self._recent.append((row.step, row.time_ns))
        if self._levels and row.step < self._levels[-1][0] + self._least_gap:
            return
        self._levels.append((row.step, row.allocated_bytes))
        if len(self._levels) >= _MOST_LEVELS:
            self._levels = self._levels[::2]
            self._least_gap = max(self._levels[-1][0] - self._levels[-2][0], 1)

    def _find_growth(self) -> Growth | None:
        if len(self._levels) < 2 or self.newest is None:
            return None
        steps = [step for step, _ in self._levels]
        grid, each_steps = np.linspace(steps[0], steps[-1], len(steps), retstep=True)
        trend = certain_growth(np.interp(grid, steps, self.levels_bytes))
        if trend is None:
            return None
        each = trend.slope / float(each_steps)
        used = max(self.newest.device_used_bytes, self.newest.reserved_bytes)
        free = self.total_bytes - used + self.newest.reserved_bytes - self.newest.allocated_bytes
        return Growth(each, int(free / each) if self.total_bytes and each > 0 else None)

    @property
    def steps_per_s(self) -> float:
        """Of late; 0 where no steps are seen."""
        if len(self._recent) < 2:
            return 0.0
        (first, begin_ns), (last, end_ns) = self._recent[0], self._recent[-1]
        return (last - first) * 1e9 / max(end_ns - begin_ns, 1)

    @property
    def levels_bytes(self) -> list[int]:
        """Allocated at the ends of steps, oldest first; thinned."""
        return [level for _, level in self._levels]

    def since(self, time_ns: int) -> list[Point]:
        """The history from this moment on."""
        return self.points[bisect_left(self.points, time_ns, key=lambda point: point.time_ns) :]


@dataclass
class Subject:
    """A run, or a process that is only seen from outside, and its devices."""

    label: str
    about: str
    emulated: bool = False
    state: str = ""
    """What is to be said of it, if anything: that it has ended, and how."""
    ended: bool = False
    begin_ns: int = 0
    hint: str = ""
    tracks: list[Track] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Names are the user's: none of their letters may steer a terminal."""
        self.label, self.about, self.hint = map(_printable, (self.label, self.about, self.hint))

    def take(self, rows: Sequence[Row], devices: Sequence[Head]) -> None:
        """Sort rows to their devices; a device is there once it has rows."""
        heads = {head.device: head for head in devices}
        for device in sorted({row.device for row in rows}):
            track = next((one for one in self.tracks if one.device == device), None)
            if track is None:
                track = Track(heads.get(device, Head(device, "", 0)))
                self.tracks = sorted([*self.tracks, track], key=lambda one: one.device)
            track.take([row for row in rows if row.device == device])


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
