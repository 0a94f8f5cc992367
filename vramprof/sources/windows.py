"""Turns the ends of phases and steps into windows of full tracing, and into counters where nothing is traced.

Three ways to choose the windows: always (trace), the steps asked for, or whenever the monitor sees something new: a
higher peak, memory that grows step after step, or the device nearly full. One window is kept: the one with the highest
peak, for that is the one that answers most.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vramprof.recording import Recorder
from vramprof.sources.allocator_history import AllocatorHistory
from vramprof.sources.counters import Counters, Thinned

if TYPE_CHECKING:
    from vramprof.sources.program import Program

WINDOW_STEPS = 2
_READ_INTERVAL_NS = 50_000_000
"""On a real card most steps are longer; a read takes ten to forty microseconds of the host."""
_NEW_PEAK_RATIO = 1.02
_GROWING_STEPS = 5
_NEARLY_FULL_RATIO = 0.92
_MOST_WINDOWS = 16
"""A monitor that runs for months arms itself so often, and the interval between two times grows."""


@dataclass(frozen=True)
class Steps:
    """Steps [first, last) are traced."""

    first: int
    last: int


class Windows:
    """Opens and closes the allocator's history and the program's tracing at the ends of steps.

    Args:
        steps: trace these; None with `always` traces all, None without lets the monitor decide.
    """

    def __init__(
        self, recorder: Recorder, history: AllocatorHistory, *, steps: Steps | None = None, always: bool = False
    ) -> None:
        self._recorder = recorder
        self._history = history
        self._steps = steps
        self._always = always
        self._program: Program | None = None
        self._close_after: int | None = None
        self._begin_ns = 0
        self._kept_peak_bytes = -1
        self._count = 0
        self._read_ns = 0
        self._triggers = Triggers()
        self.counters = Counters()
        self.samples = Thinned()

    @property
    def is_tracing(self) -> bool:
        """Whether a window is open."""
        return self._history.is_open

    def begin(self, program: Program) -> None:
        """The session starts: open the first window, if it begins with step 0."""
        self._program = program
        program.steps.end_at_once = not self._always  # untraced modules are not watched: nobody sees the next forward
        program.trace(self._always or (self._steps is not None and self._steps.first == 0))
        if program.tracing:
            self._open(None if self._steps is None else self._steps.last - 1)

    def phase_ends(self, phase: str) -> None:
        """A forward, backward or optimizer step is over: read the counters, unless they were read a moment ago."""
        late = time.monotonic_ns() - self._read_ns >= _READ_INTERVAL_NS
        if self._always or not (late or self._history.is_open):
            return
        self._read_ns = time.monotonic_ns()
        for row in self.counters.read():
            self.samples.add(phase, row)

    def step_ends(self, index: int) -> None:
        """A step is over: close a window, or open one."""
        if self._always:
            return
        if self._history.is_open:
            if self._close_after is not None and index >= self._close_after:
                self._close()
        elif self._steps is not None:
            if index + 1 == self._steps.first:
                self._open(self._steps.last - 1)
        elif self._count < _MOST_WINDOWS and self._triggers.fire(index, self.counters):
            self._open(index + WINDOW_STEPS)

    def _open(self, close_after: int | None) -> None:
        assert self._program is not None
        self._history.open()
        self._program.trace(True)
        self._close_after = close_after
        self._begin_ns = time.time_ns()
        self._count += 1
        self.counters.begin_window()

    def _close(self) -> None:
        assert self._program is not None
        self._program.trace(False)
        self._program.name_everything()
        self._end_window()

    def _end_window(self) -> None:
        peak = self.counters.window_peak_bytes
        if peak < self._kept_peak_bytes:
            self._history.drop()
            return
        self._kept_peak_bytes = peak
        self._history.close()
        self._recorder.metadata["window"] = {"begin_ns": self._begin_ns, "end_ns": time.time_ns()}

    def finish(self) -> None:
        """The session ends: what is open is closed; where nothing was traced, the state is still recorded."""
        if self._history.is_open:
            self._end_window()
        elif self._kept_peak_bytes < 0:
            self._history.record_state()
        self.samples.write(self._recorder)
        if not self._always:
            kept = "no window was traced" if self._kept_peak_bytes < 0 else "one window was kept"
            self._recorder.gap("windows", f"allocations were traced in windows of steps only: {kept} of {self._count}")


class Triggers:
    """What makes a monitor look closer."""

    def __init__(self) -> None:
        self._peak_bytes = 0
        self._last_end_bytes = 0
        self._rising = 0
        self._quiet_until = 1
        self._retries = 0

    def fire(self, index: int, counters: Counters) -> bool:
        """Whether the next steps should be traced, from what the step that has ended left in the counters."""
        end_bytes, peak_bytes, retries = counters.allocated_bytes, counters.peak_bytes, counters.retry_count
        self._rising = self._rising + 1 if end_bytes > self._last_end_bytes else 0
        self._last_end_bytes = end_bytes
        reasons = (
            peak_bytes > self._peak_bytes * _NEW_PEAK_RATIO,
            self._rising >= _GROWING_STEPS,
            retries > self._retries,
            counters.fullest_ratio > _NEARLY_FULL_RATIO,
        )
        if index < self._quiet_until or not any(reasons):
            return False
        self._peak_bytes, self._retries, self._rising = max(peak_bytes, self._peak_bytes), retries, 0
        self._quiet_until = max(2 * index, index + 2 * WINDOW_STEPS)
        return True
