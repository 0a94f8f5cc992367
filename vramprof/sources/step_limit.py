"""Turns the end of a step into the end of the program: a dry run needs a few steps, not all of them."""

from __future__ import annotations

from vramprof.sources.program import Watcher


class StepLimit:
    """Passes phases and steps on; after so many steps the program ends as by `sys.exit()`, with its own clean-up."""

    def __init__(self, watcher: Watcher, count: int) -> None:
        self._watcher = watcher
        self._count = count

    def phase_ends(self, phase: str) -> None:
        """A phase is over."""
        self._watcher.phase_ends(phase)

    def step_ends(self, index: int) -> None:
        """A step is over.

        Raises:
            SystemExit: it was the last one asked for; again at each later one, where the program went on all the same.
        """
        self._watcher.step_ends(index)
        if index + 1 >= self._count:
            raise SystemExit(0)
