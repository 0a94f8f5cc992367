"""Turns allocations into what grows from step to step: leaks, and growth that only looks like one, told apart.

An allocation counts in the steps that it outlives whole: made before one, freed after it. What a step frees again,
and what the next one replaces, is in no sum. A group (one stack) leaks when

1. its bytes grow: Mann-Kendall, one-sided, p < ALPHA, after the first fifth of the steps (`trend.find_trend`);
2. tensors of at least four steps are alive together, so that nothing was merely replaced or made once;
3. it has not stopped: neither the level of the last third nor the moments at which tensors stay say so;
4. it does not fall: no garbage collection, end of epoch or end of a sequence gave it back meanwhile.

Blind to: buffers that grow beyond the recorded steps only, and a ring that is longer than the recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vramprof.analyses.allocations import Allocations, IntArray
from vramprof.analyses.attribution import CATEGORIES, Attribution
from vramprof.analyses.frames import users_first, users_frame
from vramprof.analyses.replaced import replaced_by_larger
from vramprof.analyses.trend import ALPHA, FloatArray, Trend, falls, find_trend, has_stopped
from vramprof.analyses.windows import FEWEST, Windows, find_windows
from vramprof.recording import Frame, Recording
from vramprof.recording.schema import NO_STACK

_FEWEST_RISES = 4
_BENIGN_BYTES = 1024**2
_STATES_PER_WEIGHT = 3

ACCUMULATES = "tensors of many steps stay alive together"
LARGER = "each step replaces the tensor by a larger one"
FILLS = "fills and stops"
SAWTOOTH = "falls again: freed at once, as by the garbage collector or at the end of an epoch"
ONCE = "made once or a few times: warm-up, lazy state or workspace"
SEQUENCE = "a cache of a sequence that is being generated"
OF_WEIGHTS = "optimizer state, bounded by the weights"


@dataclass(frozen=True)
class Growth:
    """What one stack allocated and kept. `leaks` is the verdict and `reason` says why.

    `trend` is in bytes per step; `addresses` are those of a leak's blocks that are never freed, oldest first, and
    `held` those that were alive after the last step looked at: a program's end may have freed them since.
    """

    leaks: bool
    reason: str
    trend: Trend
    frames: tuple[Frame, ...]
    module: str
    category: str
    alive_bytes: int
    alive_count: int
    births: tuple[int, ...]
    addresses: tuple[int, ...]
    held: tuple[int, ...]

    @property
    def line(self) -> Frame | None:
        """The user's line that allocates."""
        return users_frame(self.frames)


@dataclass(frozen=True)
class Leaks:
    """Everything of one device that grew over its steps, the fastest first."""

    basis: str
    step_count: int
    growths: tuple[Growth, ...]

    @property
    def leaking(self) -> tuple[Growth, ...]:
        """The leaks."""
        return tuple(growth for growth in self.growths if growth.leaks)

    @property
    def bytes_per_step(self) -> float:
        """Of all leaks together."""
        return sum(growth.trend.slope for growth in self.leaking)


class _Steps(NamedTuple):
    """The step in which each allocation was made and freed, and how many steps are looked at."""

    birth: IntArray
    death: IntArray
    watched: int


def find_leaks(recording: Recording, allocations: Allocations, attribution: Attribution) -> Leaks:
    """What grew on one device. The last of eight or more steps is left out: a program's end frees what leaked."""
    windows = find_windows(recording, allocations)
    if windows.count < FEWEST:
        return Leaks(windows.basis, windows.count, ())
    steps = _steps(windows, allocations)
    found = list(_accumulating(recording, allocations, attribution, steps))
    found += _growing_in_place(recording, allocations, attribution, steps)
    found = _settle_optimizer(found, allocations, attribution)
    return Leaks(windows.basis, windows.count, tuple(sorted(found, key=lambda one: -one.trend.slope)))


def _steps(windows: Windows, allocations: Allocations) -> _Steps:
    count = windows.count - 1 if windows.count >= FEWEST + 2 else windows.count
    return _Steps(windows.of_rows(allocations.alloc_row), windows.of_rows(allocations.free_row), count)


def _accumulating(
    recording: Recording, allocations: Allocations, attribution: Attribution, steps: _Steps
) -> Iterator[Growth]:
    """By stack, and what no stack tells because each step has its own, by the user's line."""
    held = np.flatnonzero((steps.birth >= 0) & (steps.death - steps.birth >= 2) & (steps.birth < steps.watched - 1))
    loose: list[IntArray] = []
    for rows in _groups(_stack_keys(allocations, held), held):
        if len(_births(steps, rows)) < _FEWEST_RISES:
            loose.append(rows)
            continue
        yield _grown(recording, allocations, attribution, steps, rows)
    if not loose:
        return
    rest = np.concatenate(loose)
    for rows in _groups(_line_keys(recording, allocations, rest), rest):
        if len(_births(steps, rows)) >= _FEWEST_RISES or _bytes_at_end(allocations, steps, rows) >= _BENIGN_BYTES:
            yield _grown(recording, allocations, attribution, steps, rows)


def _stack_keys(allocations: Allocations, rows: IntArray) -> IntArray:
    """The stack; where there are none, the size stands in."""
    stack = allocations.stack[rows]
    return np.where(stack == NO_STACK, -1 - allocations.requested_bytes[rows], stack)


def _line_keys(recording: Recording, allocations: Allocations, rows: IntArray) -> IntArray:
    lines: dict[Frame | None, int] = {}
    by_stack = {
        int(stack): lines.setdefault(users_frame(recording.stacks.get(int(stack))), len(lines))
        for stack in np.unique(allocations.stack[rows])
    }
    return np.array([by_stack[int(stack)] for stack in allocations.stack[rows]], dtype=np.int64)


def _groups(keys: IntArray, rows: IntArray) -> list[IntArray]:
    order = np.argsort(keys, kind="stable")
    _, starts = np.unique(keys[order], return_index=True)
    return [group for group in np.split(rows[order], starts[1:]) if len(group)]


def _births(steps: _Steps, rows: IntArray) -> IntArray:
    """The steps whose tensors are alive at the end of those looked at."""
    return np.unique(steps.birth[rows[steps.death[rows] >= steps.watched]])


def _bytes_at_end(allocations: Allocations, steps: _Steps, rows: IntArray) -> int:
    return int(allocations.size_bytes[rows[steps.death[rows] >= steps.watched]].sum())


def _grown(
    recording: Recording, allocations: Allocations, attribution: Attribution, steps: _Steps, rows: IntArray
) -> Growth:
    level = _level(steps, rows, allocations.size_bytes[rows], outlived=True)
    counts = _level(steps, rows, np.ones(len(rows), dtype=np.int64), outlived=True)
    births = _births(steps, rows)
    trend = find_trend(level[max(steps.watched // 5, 1) :])
    reason = _verdict(level, counts, births, trend)
    return _growth(recording, allocations, attribution, steps, rows, trend, reason, births)


def _level(steps: _Steps, rows: IntArray, sizes: IntArray, *, outlived: bool) -> FloatArray:
    """Bytes per step: of what outlives it whole, or else of what is alive at its end."""
    delta = np.zeros(steps.watched + 2)
    np.add.at(delta, np.minimum(steps.birth[rows] + outlived, steps.watched), sizes)
    np.subtract.at(delta, np.clip(steps.death[rows], 0, steps.watched), sizes)
    return np.cumsum(delta)[: steps.watched]


def _verdict(level: FloatArray, counts: FloatArray, births: IntArray, trend: Trend) -> str:
    if falls(level):
        return SAWTOOTH
    if len(births) < _FEWEST_RISES:
        return ONCE
    if trend.p_value >= ALPHA or trend.slope < 0 or has_stopped(level, births) or has_stopped(counts, births):
        return FILLS
    return ACCUMULATES


def _growing_in_place(
    recording: Recording, allocations: Allocations, attribution: Attribution, steps: _Steps
) -> Iterator[Growth]:
    """`buffer = torch.cat([buffer, new])`: alive is one tensor only, yet it grows for good."""
    crossing = np.flatnonzero((steps.birth >= 0) & (steps.death == steps.birth + 1) & (steps.birth < steps.watched))
    for rows in _groups(_stack_keys(allocations, crossing), crossing):
        if len(np.unique(steps.birth[rows])) < 0.8 * steps.watched:
            continue
        level = _level(steps, rows, allocations.requested_bytes[rows], outlived=False)[: steps.watched - 1]
        trend = find_trend(level[max(steps.watched // 5, 1) :])
        if trend.p_value >= ALPHA or trend.slope <= 0:
            continue
        if not replaced_by_larger(level, rows, allocations, steps.birth, steps.death):
            continue
        births = np.unique(steps.birth[rows])
        reason = SAWTOOTH if falls(level) else LARGER
        growth = _growth(recording, allocations, attribution, steps, rows, trend, reason, births)
        yield replace(growth, leaks=False, reason=SEQUENCE) if _generates(recording, growth) else growth


def _generates(recording: Recording, growth: Growth) -> bool:
    """Inside a module's forward of a program that never trains, a growing tensor is a sequence's cache."""
    return growth.leaks and growth.module != "(none)" and not (recording.spans["kind"] == "backward").any()


def _growth(
    recording: Recording, allocations: Allocations, attribution: Attribution, steps: _Steps, rows: IntArray,
    trend: Trend, reason: str, births: IntArray,
) -> Growth:  # fmt: skip
    stack = int(np.bincount(np.maximum(allocations.stack[rows], 0)).argmax()) if len(rows) else NO_STACK
    leaks = reason in (ACCUMULATES, LARGER)
    alive = _alive(allocations, steps, rows, stack) if leaks else rows[:0]
    at_end = rows[steps.death[rows] >= steps.watched]
    return Growth(
        leaks=leaks,
        reason=reason,
        trend=trend,
        frames=users_first(recording.stacks.get(stack if allocations.stack[rows[0]] != NO_STACK else NO_STACK)),
        module=_commonest(attribution.module[rows]),
        category=CATEGORIES[int(np.bincount(attribution.category[rows]).argmax())],
        alive_bytes=int(allocations.size_bytes[at_end].sum()),
        alive_count=len(at_end),
        births=tuple(births.tolist()),
        addresses=tuple(allocations.address[np.sort(alive)].tolist()),
        held=tuple(allocations.address[at_end].tolist()),
    )


def _alive(allocations: Allocations, steps: _Steps, rows: IntArray, stack: int) -> IntArray:
    """The rows that are never freed, and those of the same stack that the last steps have added."""
    never_freed = allocations.free_row == allocations.event_count
    kept: IntArray = rows[never_freed[rows]]
    if allocations.stack[rows[0]] == NO_STACK:
        return kept
    same = np.flatnonzero(never_freed & (allocations.stack == stack) & (steps.birth >= 0))
    both: IntArray = np.union1d(kept, same).astype(np.int64)
    return both


def _commonest(names: npt.NDArray[np.object_]) -> str:
    values, counts = np.unique(names.astype(str), return_counts=True)
    return str(values[counts.argmax()])


def _settle_optimizer(found: list[Growth], allocations: Allocations, attribution: Attribution) -> list[Growth]:
    """Optimizer states that appear one by one, as layers are unfrozen, end with the weights."""
    alive = allocations.free_row == allocations.event_count
    weights, states = (
        int(allocations.size_bytes[alive & (attribution.category == CATEGORIES.index(name))].sum())
        for name in ("weights", "optimizer")
    )
    if states > _STATES_PER_WEIGHT * weights:
        return found
    return [
        replace(one, leaks=False, reason=OF_WEIGHTS) if one.leaks and one.category == "optimizer" else one
        for one in found
    ]
