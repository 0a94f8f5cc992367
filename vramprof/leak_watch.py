"""Watches a live session for growth that is certain, and says so once, while the program still holds what leaked."""

from __future__ import annotations

import sys

from vramprof.analyses.trend import Trend, certain_growth
from vramprof.errors import LeakError
from vramprof.leaks import look, with_holders
from vramprof.recording import Recorder, Recording
from vramprof.sources.windows import Windows
from vramprof.units import format_bytes

WAYS = ("warn", "raise", "off")
_MOST_LEVELS = 256
_LEAST_AT_END_BYTES = 1024
_RETRY_LOOKS = 3


class LeakWatch:
    """Passes phases and steps on to the windows, and keeps the allocated bytes at the ends of steps.

    At most 256 of them: when they are full, every second is dropped, and only every second step looked at from then on.
    """

    def __init__(self, recorder: Recorder, windows: Windows, *, way: str) -> None:
        self._recorder = recorder
        self._windows = windows
        self._way = way
        self._levels: list[int] = []
        self._stride = 1
        self._looks = 0
        self._told = False
        self.found = False

    def phase_ends(self, phase: str) -> None:
        """A phase is over."""
        self._windows.phase_ends(phase)

    def step_ends(self, index: int) -> None:
        """A step is over: does memory grow, beyond doubt?

        Raises:
            LeakError: it does, something leaks, and the session was told to raise.
        """
        self._windows.counters.read()
        if self._way != "off" and not self._told and index % self._stride == 0:
            self._watch(index)
        self._windows.step_ends(index)

    def _watch(self, index: int) -> None:
        self._levels.append(self._windows.counters.allocated_bytes)
        if len(self._levels) >= _MOST_LEVELS:
            self._levels, self._stride = self._levels[::2], 2 * self._stride
        growth = certain_growth(self._levels)
        if growth is None:
            return
        if self._windows.is_tracing:
            self._looks += 1
            self.found = look(self._recorder)
            if not self.found:  # growth that has a reason, as far as can be seen by now
                self._told = self._looks >= _RETRY_LOOKS
                return
        self._told = True
        self._tell(index, growth)

    def _tell(self, index: int, growth: Trend) -> None:
        each = format_bytes(int(growth.slope / self._stride))
        text = f"vramprof: memory grows by {each} in every step, for certain since step {index}: see the report"
        if self._way == "raise":
            raise LeakError(text)
        print(text, file=sys.stderr)

    def complete(self, recording: Recording) -> Recording:
        """The recording with who holds what leaked, where growth shows only now that the session has ended."""
        if self._way == "off" or self.found or not certain_growth(self._levels, least_bytes=_LEAST_AT_END_BYTES):
            return recording
        return with_holders(recording)
