"""Turns two recordings of one device, what was expected and what came, into residuals at matching moments.

A moment is the peak of a phase of a step, or the end of a step. Step k is compared with step k, and steps beyond the
last that was expected with that last one: a loop repeats itself. At each moment, what was alive is matched one by one:
first by category, module and size, then by category and size, by module and size, and by size alone, since bytes that
merely changed their name are no difference. What is left over is the surplus of what came, and the deficit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vramprof.analyses.allocations import BEFORE, Allocations, IntArray
from vramprof.analyses.attribution import CATEGORIES, Attribution
from vramprof.analyses.contexts import BACKWARD, PHASES, RECOMPUTE
from vramprof.analyses.timeline import Timeline
from vramprof.analyses.windows import Windows, find_windows
from vramprof.recording import Recording

END = "end"
_LATER_STEPS = 8
"""Of steps beyond those expected, so many of the highest are looked at, and the last."""


class Side(NamedTuple):
    """One device of one recording, with its analyses."""

    recording: Recording
    allocations: Allocations
    attribution: Attribution
    timeline: Timeline


@dataclass(frozen=True)
class Residual:
    """One category of one module at a moment: bytes expected and bytes that came."""

    module: str
    category: str
    expected_bytes: int
    actual_bytes: int

    @property
    def bytes(self) -> int:
        """What came beyond what was expected; negative where less did."""
        return self.actual_bytes - self.expected_bytes


@dataclass(frozen=True, eq=False)
class Pair:
    """The same moment on both sides: `phase` is one of PHASES or END, and the steps differ only where the expectation
    has fewer. `surplus` are allocations of the actual side without a match, `deficit` those of the expected side."""

    step: int
    expected_step: int
    phase: str
    expected_row: int
    actual_row: int
    expected_bytes: int
    actual_bytes: int
    residuals: tuple[Residual, ...]
    surplus: IntArray
    deficit: IntArray

    @property
    def bytes(self) -> int:
        """What came beyond what was expected."""
        return self.actual_bytes - self.expected_bytes


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two sides and their moments, in order. `births` are the steps that each side's allocations were made in (-1:
    before), and `expected_steps` how many steps there were to expect from."""

    expected: Side
    actual: Side
    pairs: tuple[Pair, ...]
    births: tuple[IntArray, IntArray]
    expected_steps: int

    @property
    def reserved_bytes(self) -> tuple[int, int]:
        """The most that torch reserved, expected and actual."""
        return int(self.expected.timeline.reserved_bytes.max()), int(self.actual.timeline.reserved_bytes.max())

    @property
    def allocated_bytes(self) -> tuple[int, int]:
        """The most that torch handed out, expected and actual."""
        return int(self.expected.timeline.allocated_bytes.max()), int(self.actual.timeline.allocated_bytes.max())


def compare(expected: Side, actual: Side) -> Comparison:
    """Align two sides by step and phase, and match what was alive."""
    before, after = _Moments(expected), _Moments(actual)
    pairs = []
    for step in _steps(before, after):
        expected_step = min(step, before.count - 1)
        for phase, row in after.of_step(step).items():
            counterpart = before.of_step(expected_step).get(phase)
            is_exit = phase == END and before.count <= step == after.count - 1  # the program's end, not the step's
            if counterpart is not None and not is_exit:
                pairs.append(_pair(expected, actual, (step, expected_step, phase), (counterpart, row)))
    births = tuple(moments.windows.of_rows(moments.side.allocations.alloc_row) for moments in (before, after))
    return Comparison(expected, actual, tuple(pairs), births, before.count)  # type: ignore[arg-type]


class _Moments:
    """The rows of one side's moments, step by step."""

    def __init__(self, side: Side) -> None:
        found = find_windows(side.recording, side.allocations)
        if not found.basis.endswith("steps") or not found.count:  # one run through is one step
            found = Windows("steps", np.array([0, side.allocations.event_count], dtype=np.int64))
        self.side = side
        self.windows = found
        self.count = found.count
        self._levels = side.timeline.allocated_bytes
        phase = np.where(side.attribution.phase == RECOMPUTE, BACKWARD, side.attribution.phase)
        inside = np.flatnonzero(side.allocations.alloc_row != BEFORE)
        order = inside[np.argsort(side.allocations.alloc_row[inside], kind="stable")]
        self._rows, self._phase = side.allocations.alloc_row[order], phase[order]

    def of_step(self, step: int) -> dict[str, int]:
        """The row of each phase's highest allocation in this step, and of the step's last event."""
        begin, end = int(self.windows.edges[step]), int(self.windows.edges[step + 1])
        first, last = np.searchsorted(self._rows, (begin, end))
        rows, phases = self._rows[first:last], self._phase[first:last]
        found = {}
        for number in np.unique(phases).tolist():
            of_phase = rows[phases == number]
            found[PHASES[number]] = int(of_phase[np.argmax(self._levels[of_phase + 1])])
        return {**found, END: end - 1} if end > begin else found

    def highest(self, first: int) -> list[int]:
        """The steps from `first` on that reached most."""
        edges = self.windows.edges[first:]
        peaks = np.maximum.reduceat(self._levels, edges[:-1]) if len(edges) > 1 else np.zeros(0)
        found: list[int] = (first + np.argsort(-peaks, kind="stable")[:_LATER_STEPS]).tolist()
        return found


def _steps(before: _Moments, after: _Moments) -> list[int]:
    """Which steps are compared; the last of a longer run may have been cut off, but its peaks count."""
    if not before.count:
        return []
    later = {*after.highest(before.count), after.count - 1} if after.count > before.count else set()
    return [*range(min(before.count, after.count)), *sorted(later)]


def _pair(expected: Side, actual: Side, where: tuple[int, int, str], rows: tuple[int, int]) -> Pair:
    before, after = (
        np.flatnonzero(side.allocations.alive(row)) for side, row in zip((expected, actual), rows, strict=True)
    )
    deficit, surplus = before, after
    for key in (_by_owner, _by_category, _by_module, _by_size):
        deficit, surplus = _unmatched(expected, actual, deficit, surplus, key)
    step, expected_step, phase = where
    return Pair(
        step=step,
        expected_step=expected_step,
        phase=phase,
        expected_row=rows[0],
        actual_row=rows[1],
        expected_bytes=int(expected.timeline.allocated_bytes[rows[0] + 1]),
        actual_bytes=int(actual.timeline.allocated_bytes[rows[1] + 1]),
        residuals=tuple(_residuals(expected, actual, before, after)),
        surplus=surplus,
        deficit=deficit,
    )


_Key = Callable[[Side, int], Hashable]


def _by_owner(side: Side, index: int) -> Hashable:
    return _by_category(side, index), str(side.attribution.module[index])


def _by_category(side: Side, index: int) -> Hashable:
    return int(side.attribution.category[index]), _by_size(side, index)


def _by_module(side: Side, index: int) -> Hashable:
    return str(side.attribution.module[index]), _by_size(side, index)


def _by_size(side: Side, index: int) -> Hashable:
    return int(side.allocations.requested_bytes[index])


def _unmatched(
    expected: Side, actual: Side, deficit: IntArray, surplus: IntArray, key: _Key
) -> tuple[IntArray, IntArray]:
    """What of both has no counterpart under this key."""
    waiting: dict[Hashable, list[int]] = defaultdict(list)
    for index in deficit.tolist():
        waiting[key(expected, index)].append(index)
    left = []
    for index in surplus.tolist():
        found = waiting.get(key(actual, index))
        if found:
            found.pop(0)
        else:
            left.append(index)
    rest = sorted(index for indices in waiting.values() for index in indices)
    return np.array(rest, dtype=np.int64), np.array(left, dtype=np.int64)


def _residuals(expected: Side, actual: Side, before: IntArray, after: IntArray) -> Iterator[Residual]:
    """By module and category, the largest difference first; what agrees is left out."""
    sums = [held_by_owner(side, alive) for side, alive in ((expected, before), (actual, after))]
    found = [Residual(*owner, sums[0].get(owner, 0), sums[1].get(owner, 0)) for owner in {**sums[0], **sums[1]}]
    yield from sorted((one for one in found if one.bytes), key=lambda one: (-abs(one.bytes), one.module, one.category))


def held_by_owner(side: Side, chosen: IntArray) -> dict[tuple[str, str], int]:
    """The bytes of these allocations by (module, category)."""
    total: dict[tuple[str, str], int] = {}
    columns: tuple[npt.NDArray[np.object_], IntArray, IntArray] = (
        side.attribution.module[chosen],
        side.attribution.category[chosen].astype(np.int64),
        side.allocations.size_bytes[chosen],
    )
    for module, category, size in zip(*(column.tolist() for column in columns), strict=True):
        owner = (str(module), CATEGORIES[category])
        total[owner] = total.get(owner, 0) + size
    return total
