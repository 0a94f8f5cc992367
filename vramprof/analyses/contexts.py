"""Turns spans and allocations into who was at work: the phase, module and span of every allocation.

torch's own stamp on the event says it exactly, where torch can (see `vramprof.sources.spans`); elsewhere, the times do.
An allocation of the autograd engine that no mark told belongs to the module that the same allocation belonged to in
another backward pass of the same sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from vramprof.analyses.allocations import BEFORE, Allocations, IntArray
from vramprof.analyses.moments import Interval
from vramprof.analyses.spans import NOWHERE, innermost
from vramprof.recording import Recording
from vramprof.recording.schema import NO_CONTEXT

PHASES = ("outside", "forward", "recompute", "backward", "optimizer")
OUTSIDE, FORWARD, RECOMPUTE, BACKWARD, OPTIMIZER = range(5)
_WORK = ("forward", "recompute", "backward", "optimizer", "module", "module_backward")
_MODULES = ("module", "module_backward")
_CLOCK_NS = 100_000
"""How far torch's event clock and Python's may disagree before a stamp is taken for a stale one."""


@dataclass(frozen=True, eq=False)
class Contexts:
    """For each allocation: its phase (a number in PHASES), its module's path ("" for none), when its phase's span
    ended (Unix ns; 0 where there is none), and whether torch's own stamp said so."""

    phase: npt.NDArray[np.int8]
    module: npt.NDArray[np.object_]
    phase_end_ns: IntArray
    exact: npt.NDArray[np.bool_]


def find_contexts(recording: Recording, allocations: Allocations, backward: tuple[Interval, ...]) -> Contexts | None:
    """Who made each allocation; None where the recording has no spans."""
    own = recording.spans["id"] != NO_CONTEXT
    work = recording.spans["kind"].isin(_WORK)
    spans = recording.spans[work & own if own.any() else work].reset_index(drop=True)
    if not own.any() and not spans["kind"].isin(("forward", "module")).any():
        return None
    position, exact = _positions(recording, allocations, spans)
    phase, phase_span = _phases(spans)
    names = np.where(spans["kind"].isin(_MODULES), spans["name"], "")
    ends = np.append(spans["end_ns"].to_numpy(dtype=np.int64), 0)
    found = Contexts(
        phase=np.append(phase, OUTSIDE)[position].astype(np.int8),
        module=np.append(names, "").astype(object)[position],
        phase_end_ns=ends[np.append(phase_span, NOWHERE)[position]],
        exact=exact,
    )
    _fill_backward(found, allocations, backward)
    return found


def _positions(
    recording: Recording, allocations: Allocations, spans: pd.DataFrame
) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """Each allocation's row in `spans`, NOWHERE for none, and whether torch's stamp tells it."""
    count = len(allocations.address)
    inside = allocations.alloc_row != BEFORE
    if not allocations.event_count or spans.empty:
        return np.full(count, NOWHERE), np.zeros(count, dtype=np.bool_)
    rows = np.maximum(allocations.alloc_row, 0)
    times = allocations.time_ns[rows]
    events = recording.events[recording.events["device"] == allocations.device]
    stamps = events["context"].to_numpy(dtype=np.int64)
    if not (stamps != NO_CONTEXT).any():
        return np.where(inside, innermost(spans, times), NOWHERE), np.zeros(count, dtype=np.bool_)
    stamp = stamps[rows]
    ids = spans["id"].to_numpy(dtype=np.int64)
    order = np.argsort(ids)
    place = np.clip(np.searchsorted(ids[order], stamp), 0, len(ids) - 1)
    position = order[place]
    begins, ends = spans["begin_ns"].to_numpy(dtype=np.int64), spans["end_ns"].to_numpy(dtype=np.int64)
    fits = (ids[position] == stamp) & inside & (stamp != NO_CONTEXT)
    fits &= (times >= begins[position] - _CLOCK_NS) & (times <= ends[position] + _CLOCK_NS)
    return np.where(fits, position, NOWHERE), fits | (inside & (stamp == NO_CONTEXT))


def _phases(spans: pd.DataFrame) -> tuple[IntArray, IntArray]:
    """Of each span its phase, and the row of the span that made it so: the nearest phase among its ancestors."""
    ids, parents, kinds = (spans[column].tolist() for column in ("id", "parent", "kind"))
    rows = {number: row for row, number in enumerate(ids) if number != NO_CONTEXT}
    phase, owner = np.full(len(ids), FORWARD), np.arange(len(ids))
    for row in sorted(range(len(ids)), key=ids.__getitem__):
        if kinds[row] in PHASES:
            phase[row] = PHASES.index(kinds[row])
        else:
            above = rows.get(parents[row], NOWHERE)
            phase[row] = BACKWARD if kinds[row] == "module_backward" else FORWARD if above < 0 else phase[above]
            owner[row] = row if above < 0 else owner[above]
    return phase, owner


def _fill_backward(found: Contexts, allocations: Allocations, backward: tuple[Interval, ...]) -> None:
    """What is left unsaid inside a backward pass: the engine's threads carry no stamp, or that of an older pass."""
    known: dict[bytes, npt.NDArray[np.object_]] = {}
    silent: list[tuple[bytes, IntArray]] = []
    by_row = np.argsort(allocations.alloc_row, kind="stable")
    rows = allocations.alloc_row[by_row]
    for interval in backward:
        first, last = np.searchsorted(rows, (interval.begin_row, interval.end_row), side="left")
        inside = by_row[first:last]
        inside = inside[np.isin(found.phase[inside], (OUTSIDE, BACKWARD))]
        unsaid = found.phase[inside] == OUTSIDE
        found.phase[inside[unsaid]] = BACKWARD
        key = allocations.requested_bytes[inside].tobytes()
        if unsaid.any():
            silent.append((key, inside))
        else:
            known[key] = found.module[inside]
    for key, inside in silent:
        if key in known:
            found.module[inside] = known[key]
