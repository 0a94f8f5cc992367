"""Turns a moment into what lay idle then: alive, and of no use to the work in hand. Facts; findings judge them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vramprof.analyses.allocations import BEFORE, Allocations, IntArray
from vramprof.analyses.attribution import CATEGORIES, LOSS, Attribution
from vramprof.analyses.contexts import BACKWARD, OPTIMIZER, OUTSIDE
from vramprof.analyses.peak import StackBytes, bytes_by_stack
from vramprof.recording import Recording


@dataclass(frozen=True)
class IdleBytes:
    """Bytes, by the stacks that allocated them, the largest first."""

    bytes: int
    stacks: tuple[StackBytes, ...]


@dataclass(frozen=True)
class Idle:
    """What lay idle, or was in flight where a change of the program would avoid it.

    `outputs`: results of a forward that autograd did not save, alive inside a backward. `gradients`: alive while a
    forward or its loss was computed. `optimizer_copies`: temporaries inside an optimizer's step. `loss`: what the loss
    itself keeps and computes, outside every module.
    """

    outputs: IdleBytes
    gradients: IdleBytes
    optimizer_copies: IdleBytes
    loss: IdleBytes


def find_idle(recording: Recording, allocations: Allocations, attribution: Attribution, row: int) -> Idle:
    """What lay idle on one device right after event `row`."""
    alive = allocations.alive(row)
    inside = _phase_at(allocations, attribution, row)
    of = {name: alive & (attribution.category == CATEGORIES.index(name)) for name in CATEGORIES}
    nothing = np.zeros_like(alive)
    loss = alive & (attribution.module == LOSS) & ~of["gradients"]

    def total(chosen: npt.NDArray[np.bool_]) -> IdleBytes:
        return _total(recording, allocations, attribution, np.flatnonzero(chosen))

    return Idle(
        outputs=total(of["outputs"] if inside == BACKWARD else nothing),
        gradients=total(of["gradients"] & ~_of_this_backward(allocations, attribution, row)),
        optimizer_copies=total(
            of["temporaries"] & (attribution.phase == OPTIMIZER) if inside == OPTIMIZER else nothing
        ),
        loss=total(loss),
    )


def _phase_at(allocations: Allocations, attribution: Attribution, row: int) -> int:
    """The phase of the newest allocation: at a peak, of the one that made it."""
    newest = allocations.newest(row)
    return OUTSIDE if newest is None else int(attribution.phase[newest])


def _of_this_backward(allocations: Allocations, attribution: Attribution, row: int) -> npt.NDArray[np.bool_]:
    """Which were made after the last allocation of a forward or outside: gradients of the backward in hand, or, in an
    optimizer's step, those that it needs."""
    before = (allocations.alloc_row < row) & (allocations.alloc_row != BEFORE)
    if _phase_at(allocations, attribution, row) == OPTIMIZER:
        return np.ones_like(before)
    others = before & ~np.isin(attribution.phase, (BACKWARD, OPTIMIZER))
    last = int(allocations.alloc_row[others].max()) if others.any() else BEFORE
    return np.asarray(allocations.alloc_row > last, dtype=np.bool_)


def _total(recording: Recording, allocations: Allocations, attribution: Attribution, chosen: IntArray) -> IdleBytes:
    sizes = allocations.size_bytes[chosen]
    return IdleBytes(int(sizes.sum()), bytes_by_stack(recording, attribution.stack[chosen], sizes))
