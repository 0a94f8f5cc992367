"""Turns allocations into answers to "what is this": a category, phase and module for each, the certain first.

1. Measured: the storage was seen under a name (parameter, buffer, gradient, optimizer state, input, cache, saved by
   autograd).
2. Inferred from spans and lifetimes: made in a forward and freed inside a backward is an activation, made in a
   backward and alive after it a gradient, made in an optimizer's step and alive after it a state. What the program
   makes outside modules, backward passes and optimizers, and feeds to none of them, is the program's own.
3. Inferred from frames, where there are no spans: torch's own functions on the stack tell the phase.
What none of these tells is unattributed, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vramprof.analyses.allocations import BEFORE, Allocations, IntArray
from vramprof.analyses.compiled import modules_in_compiled_code
from vramprof.analyses.contexts import (
    BACKWARD,
    FORWARD,
    OPTIMIZER,
    OUTSIDE,
    RECOMPUTE,
    Contexts,
    find_contexts,
)
from vramprof.analyses.frames import Hint, hint
from vramprof.analyses.moments import Interval, Moments, backward_intervals, find_names
from vramprof.recording import Recording
from vramprof.recording.schema import NO_STACK

CATEGORIES = (
    "weights", "gradients", "optimizer", "activations", "inputs", "outputs", "kv_cache", "temporaries", "workspaces",
    "buffers", "program", "unattributed",
)  # fmt: skip
UNATTRIBUTED = CATEGORIES.index("unattributed")
NO_MODULE = "(none)"
LOSS = "(loss)"

# cuBLAS workspaces that torch keeps per handle and stream: CUDABlas.cpp / CublasHandlePool.cpp,
# :4096:2:16:8 before compute capability 9.0, 32 MiB from it on.
_WORKSPACE_BYTES = (8_519_680, 33_554_432)
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Attribution:
    """For each allocation: its category (a number in CATEGORIES), whether that was measured, its module's path, its
    phase (a number in PHASES), its stack: of an allocation of the autograd engine, which has none of its own, the
    stack of its module's forward; and the name that it was first seen under as one of its category, "" for none."""

    category: npt.NDArray[np.int8]
    measured: _Bools
    module: npt.NDArray[np.object_]
    phase: npt.NDArray[np.int8]
    stack: IntArray
    name: npt.NDArray[np.object_]


def attribute(recording: Recording, allocations: Allocations) -> Attribution:
    """Categories, modules and phases of every allocation of one device."""
    count = len(allocations.address)
    moments = Moments(recording, allocations)
    backward = backward_intervals(recording, moments, allocations.event_count)
    contexts = find_contexts(recording, allocations, backward)
    hints = _hints(recording, allocations)
    category = np.full(count, UNATTRIBUTED, dtype=np.int8)
    if contexts is None:
        contexts = _from_hints(hints, count)
        _infer_from_hints(category, allocations, hints)
    else:
        _infer(category, allocations, contexts, backward, hints)
    module = modules_in_compiled_code(recording, allocations, contexts.module).copy()
    measured = np.zeros(count, dtype=np.bool_)
    name = _name(category, measured, module, moments, allocations, contexts)
    _recognise(category, measured, allocations)
    _place(module, category, contexts)
    stack = _stacks(allocations, contexts, module)
    return Attribution(category, measured, np.where(module == "", NO_MODULE, module), contexts.phase, stack, name)


def _hints(recording: Recording, allocations: Allocations) -> npt.NDArray[np.object_]:
    known = {int(stack): hint(recording.stacks.get(int(stack))) for stack in np.unique(allocations.stack)}
    return np.array([known[int(stack)] for stack in allocations.stack], dtype=object)


def _from_hints(hints: npt.NDArray[np.object_], count: int) -> Contexts:
    phase = np.full(count, OUTSIDE, dtype=np.int8)
    for found, number in ((Hint.FORWARD, FORWARD), (Hint.BACKWARD, BACKWARD), (Hint.OPTIMIZER, OPTIMIZER)):
        phase[hints == found] = number
    nothing = np.zeros(count, dtype=np.int64)
    return Contexts(phase, np.full(count, "", dtype=object), nothing, nothing.astype(np.bool_))


def _set(category: npt.NDArray[np.int8], name: str, where: npt.NDArray[np.bool_]) -> None:
    category[where.astype(np.bool_)] = CATEGORIES.index(name)


def _infer(
    category: npt.NDArray[np.int8],
    allocations: Allocations,
    contexts: Contexts,
    backward: tuple[Interval, ...],
    hints: npt.NDArray[np.object_],
) -> None:
    phase = contexts.phase
    before = allocations.alloc_row == BEFORE
    into, freed_in = _backward_lives(allocations, backward)
    outlives = _outlives(allocations, contexts)
    forward = phase == FORWARD
    outside = (phase == OUTSIDE) & ~before
    to_forward = outside & _lives_into(allocations, forward)
    _set(category, "program", outside)
    _set(category, "temporaries", phase != OUTSIDE)
    _set(category, "outputs", (forward & outlives) | (outside & into & _after_forward(allocations, forward)))
    _set(category, "inputs", to_forward)
    _set(category, "weights", (outside | before) & (hints == Hint.WEIGHT))
    _set(category, "activations", (forward | (outside & ~to_forward)) & freed_in)
    _set(category, "activations", (phase == RECOMPUTE) & outlives)
    _set(category, "gradients", (phase == BACKWARD) & _survives(allocations, backward))
    _set(category, "weights", hints == Hint.GATHERED)
    _set(category, "gradients", hints == Hint.GRADIENT)
    _set(category, "optimizer", ((phase == OPTIMIZER) & outlives) | (hints == Hint.OPTIMIZER_STATE))
    _set(category, "workspaces", hints == Hint.WORKSPACE)


def _backward_lives(allocations: Allocations, backward: tuple[Interval, ...]) -> tuple[_Bools, _Bools]:
    """Which allocations are alive when a backward pass begins after them, and which are freed inside such a one."""
    begins = np.array([interval.begin_row for interval in backward] or [np.iinfo(np.int64).max], dtype=np.int64)
    ends = np.array([interval.end_row for interval in backward] or [0], dtype=np.int64)
    following = np.searchsorted(begins, allocations.alloc_row, side="left")
    next_begin = np.append(begins, np.iinfo(np.int64).max)[following]
    freeing = np.searchsorted(begins, allocations.free_row, side="right") - 1
    inside = (freeing >= following) & (allocations.free_row <= ends[np.maximum(freeing, 0)])
    return allocations.free_row > next_begin, inside & (freeing >= 0)


def _after_forward(allocations: Allocations, forward: npt.NDArray[np.bool_]) -> _Bools:
    """Which allocations were made after the first forward of all: the loss and what is computed from outputs."""
    rows = allocations.alloc_row[forward]
    return np.asarray(allocations.alloc_row > (rows.min() if len(rows) else np.iinfo(np.int64).max), dtype=np.bool_)


def _survives(allocations: Allocations, backward: tuple[Interval, ...]) -> _Bools:
    """Which allocations are alive when the backward pass that they were made in ends."""
    if not backward:
        return np.zeros(len(allocations.address), dtype=np.bool_)
    begins = np.array([interval.begin_row for interval in backward], dtype=np.int64)
    ends = np.array([interval.end_row for interval in backward], dtype=np.int64)
    made = np.maximum(np.searchsorted(begins, allocations.alloc_row, side="right") - 1, 0)
    return np.asarray((allocations.alloc_row <= ends[made]) & (allocations.free_row > ends[made]), dtype=np.bool_)


def _outlives(allocations: Allocations, contexts: Contexts) -> _Bools:
    """Which allocations are alive when the phase that they were made in ends."""
    times = np.append(allocations.time_ns, np.iinfo(np.int64).max)
    freed_ns = times[np.maximum(allocations.free_row, 0)]
    return np.asarray((contexts.phase_end_ns > 0) & (freed_ns > contexts.phase_end_ns), dtype=np.bool_)


def _infer_from_hints(category: npt.NDArray[np.int8], allocations: Allocations, hints: npt.NDArray[np.object_]) -> None:
    stays = allocations.free_row == allocations.event_count
    forward, backward = hints == Hint.FORWARD, hints == Hint.BACKWARD
    optimizer = hints == Hint.OPTIMIZER
    _set(category, "temporaries", forward | backward | optimizer)
    _set(category, "optimizer", (hints == Hint.OPTIMIZER_STATE) | (optimizer & stays))
    _set(category, "activations", forward & _lives_into(allocations, backward) & ~stays)
    _set(category, "gradients", hints == Hint.GRADIENT)
    _set(category, "weights", hints == Hint.WEIGHT)
    _set(category, "workspaces", hints == Hint.WORKSPACE)


def _lives_into(allocations: Allocations, chosen: npt.NDArray[np.bool_]) -> _Bools:
    """Which allocations are alive when a later one of the chosen is made."""
    marks = np.zeros(allocations.event_count + 2, dtype=np.int64)
    rows = allocations.alloc_row[chosen.astype(np.bool_)]
    marks[rows[rows != BEFORE] + 1] = 1
    before = np.cumsum(marks)  # before[r + 1]: how many of the chosen were made up to event r
    first, last = allocations.alloc_row + 1, np.minimum(allocations.free_row, allocations.event_count)
    return np.asarray(before[last] > before[first], dtype=np.bool_)


def _name(
    category: npt.NDArray[np.int8],
    measured: _Bools,
    module: npt.NDArray[np.object_],
    moments: Moments,
    allocations: Allocations,
    contexts: Contexts,
) -> npt.NDArray[np.object_]:
    """Give each allocation the first name that it was seen under, and the module which that name belongs to.

    What was called with is an input only if no module made it: a criterion is called with a model's output.
    """
    names = np.full(len(category), "", dtype=object)
    saved: set[tuple[int, int]] = set()
    walked: set[int] = set()
    for found in find_names(moments, allocations):
        index = found.allocation
        owner = found.name.rpartition(".")[0] if found.category == "optimizer" else found.name  # path.weight.exp_avg
        module[index] = module[index] or owner.rpartition(".")[0]
        if measured[index] or (found.category == "inputs" and contexts.phase[index] != OUTSIDE):
            continue
        category[index] = CATEGORIES.index(found.category)
        measured[index] = True
        names[index] = found.name
        if found.category == "activations":
            saved.add(_pattern(allocations, index))
            walked.add(found.row)
        module[index] = owner.rpartition(".")[0] or module[index]
    if saved:
        for index in np.flatnonzero((category == CATEGORIES.index("outputs")) & ~measured).tolist():
            alive = (allocations.alloc_row[index] <= row < allocations.free_row[index] for row in walked)
            if _pattern(allocations, index) in saved and not any(alive):  # saved in a step looked at in detail
                category[index] = CATEGORIES.index("activations")
    return names


def _pattern(allocations: Allocations, index: int) -> tuple[int, int]:
    return int(allocations.stack[index]), int(allocations.requested_bytes[index])


def _recognise(category: npt.NDArray[np.int8], measured: _Bools, allocations: Allocations) -> None:
    """cuBLAS workspaces by their size: kept for good or, from torch 2.15 on, taken for one call, nothing between."""
    size = np.isin(allocations.requested_bytes, _WORKSPACE_BYTES) & ~measured
    kept = allocations.free_row == allocations.event_count
    for_one_call = allocations.free_row <= allocations.alloc_row + 2
    _set(category, "workspaces", size & (kept | for_one_call))


def _place(module: npt.NDArray[np.object_], category: npt.NDArray[np.int8], contexts: Contexts) -> None:
    """A word for what belongs to no module: the loss, between forward and backward and where backward starts."""
    loose = (module == "") & np.isin(contexts.phase, (OUTSIDE, BACKWARD))
    of_graph = np.isin(category, [CATEGORIES.index(name) for name in ("activations", "outputs")])
    module[loose & (of_graph | ((contexts.phase == BACKWARD) & contexts.exact))] = LOSS


def _stacks(allocations: Allocations, contexts: Contexts, module: npt.NDArray[np.object_]) -> IntArray:
    """Each allocation's stack; the engine's get the stack of a forward allocation of their module, of their size if
    there is one, else of its largest."""
    stack = allocations.stack.copy()
    orphans = (stack == NO_STACK) & (contexts.phase == BACKWARD) & (module != "")
    if not orphans.any():
        return stack
    of_size: dict[tuple[str, int], int] = {}
    largest: dict[str, tuple[int, int]] = {}
    parents = (stack != NO_STACK) & (contexts.phase != BACKWARD) & np.isin(module, list(set(module[orphans])))
    for index in np.flatnonzero(parents).tolist():
        path, size = module[index], int(allocations.requested_bytes[index])
        of_size[path, size] = int(stack[index])
        largest[path] = max(largest.get(path, (-1, NO_STACK)), (size, int(stack[index])))
    for index in np.flatnonzero(orphans).tolist():
        path, size = module[index], int(allocations.requested_bytes[index])
        stack[index] = of_size.get((path, size), largest.get(path, (0, NO_STACK))[1])
    return stack
