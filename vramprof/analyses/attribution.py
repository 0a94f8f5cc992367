"""Turns allocations into answers to "what is this": a category and a module for each, the certain first.

1. Measured: the storage was seen under a name (parameter, buffer, gradient, optimizer state, input).
2. Inferred from spans: forward, backward or optimizer was running when it was allocated, and it lived into a backward.
3. Inferred from frames, where there are no spans: torch's own functions on the stack tell the phase.
What none of these tells is unattributed, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vramprof.analyses.allocations import BEFORE, Allocations, IntArray
from vramprof.analyses.frames import Hint, hint
from vramprof.analyses.spans import innermost, names_of, of_kind
from vramprof.recording import Recording

CATEGORIES = (
    "weights", "gradients", "optimizer", "activations", "inputs", "temporaries", "workspaces", "buffers",
    "unattributed",
)  # fmt: skip
UNATTRIBUTED = CATEGORIES.index("unattributed")
NO_MODULE = "(none)"

# cuBLAS workspaces that torch keeps per handle and stream: CUDABlas.cpp / CublasHandlePool.cpp,
# :4096:2:16:8 before compute capability 9.0, 32 MiB from it on.
_WORKSPACE_BYTES = (8_519_680, 33_554_432)
_PHASES = ("forward", "backward", "optimizer")
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Attribution:
    """For each allocation: the index of its category in CATEGORIES, whether that was measured, and its module."""

    category: npt.NDArray[np.int8]
    measured: _Bools
    module: npt.NDArray[np.object_]


def attribute(recording: Recording, allocations: Allocations) -> Attribution:
    """Categories and modules of every allocation of one device."""
    count = len(allocations.address)
    times = _alloc_times(allocations)
    phase = _phases(recording, allocations, times)
    category = np.full(count, UNATTRIBUTED, dtype=np.int8)
    _infer(category, allocations, phase)
    modules = of_kind(recording.spans, "module")
    module = names_of(modules, innermost(modules, times)) if count else np.array([], dtype=object)
    module = np.where(allocations.alloc_row == BEFORE, "", module)
    measured = np.zeros(count, dtype=np.bool_)
    _name(recording, allocations, category, measured, module)
    return Attribution(category, measured, np.where(module == "", NO_MODULE, module))


def _alloc_times(allocations: Allocations) -> IntArray:
    if allocations.event_count == 0:
        return np.zeros(len(allocations.address), dtype=np.int64)
    return allocations.time_ns[np.maximum(allocations.alloc_row, 0)]


def _phases(recording: Recording, allocations: Allocations, times: IntArray) -> npt.NDArray[np.object_]:
    """The Hint of each allocation: from the spans where there are any, else from its frames."""
    hints = {int(s): hint(recording.stacks.get(int(s))) for s in np.unique(allocations.stack)}
    phase = np.array([hints[int(stack)] for stack in allocations.stack], dtype=object)
    spans = of_kind(recording.spans, *_PHASES)
    if not (spans["kind"] == "forward").any():
        return phase
    position = innermost(spans, times)
    kinds = np.array([*spans["kind"].tolist(), "loose"], dtype=object)[position]
    kinds[allocations.alloc_row == BEFORE] = "before"
    return np.array([_phase_of(kind, found) for kind, found in zip(kinds, phase, strict=True)], dtype=object)


def _phase_of(kind: str, found: Hint) -> Hint | str:
    if kind == "before" or found in (Hint.WORKSPACE, Hint.GRADIENT, Hint.OPTIMIZER_STATE):
        return found
    return {"forward": Hint.FORWARD, "backward": Hint.BACKWARD, "optimizer": Hint.OPTIMIZER}.get(kind, "loose")


def _infer(category: npt.NDArray[np.int8], allocations: Allocations, phase: npt.NDArray[np.object_]) -> None:
    stays = allocations.free_row == allocations.event_count
    lives_into_backward = _lives_into(allocations, phase == Hint.BACKWARD)
    lives_into_forward = _lives_into(allocations, phase == Hint.FORWARD)
    loose = phase == "loose"
    early = (phase == Hint.FORWARD) | (loose & ~lives_into_forward)
    _set(category, "temporaries", (phase == Hint.BACKWARD) | (phase == Hint.OPTIMIZER) | early)
    _set(category, "optimizer", (phase == Hint.OPTIMIZER_STATE) | ((phase == Hint.OPTIMIZER) & stays))
    _set(category, "activations", early & lives_into_backward & ~stays)
    _set(category, "inputs", loose & lives_into_forward & ~stays)
    _set(category, "gradients", phase == Hint.GRADIENT)
    _set(category, "weights", phase == Hint.WEIGHT)
    kept = np.isin(allocations.requested_bytes, _WORKSPACE_BYTES) & stays
    working = (phase == Hint.FORWARD) | (phase == Hint.BACKWARD)
    _set(category, "workspaces", (phase == Hint.WORKSPACE) | (kept & working))


def _set(category: npt.NDArray[np.int8], name: str, where: npt.NDArray[np.bool_]) -> None:
    category[where.astype(np.bool_)] = CATEGORIES.index(name)


def _lives_into(allocations: Allocations, chosen: npt.NDArray[np.bool_]) -> _Bools:
    """Which allocations are alive when a later one of the chosen is made."""
    marks = np.zeros(allocations.event_count + 2, dtype=np.int64)
    rows = allocations.alloc_row[chosen.astype(np.bool_)]
    marks[rows[rows != BEFORE] + 1] = 1
    before = np.cumsum(marks)  # before[r + 1]: how many of the chosen were made up to event r
    first, last = allocations.alloc_row + 1, np.minimum(allocations.free_row, allocations.event_count)
    return np.asarray(before[last] > before[first], dtype=np.bool_)


_MOMENT_NS = 20_000
"""How far torch's event clock and Python's may disagree."""


def _name(
    recording: Recording,
    allocations: Allocations,
    category: npt.NDArray[np.int8],
    measured: _Bools,
    module: npt.NDArray[np.object_],
) -> None:
    """Give the allocations that were alive when a tensor was named that name's category and module."""
    named = recording.tensors[recording.tensors["device"] == allocations.device]
    if named.empty:
        return
    by_address: dict[int, list[int]] = {}
    for index, address in enumerate(allocations.address.tolist()):
        by_address.setdefault(address, []).append(index)
    begin, end = _lifetimes_ns(allocations)
    columns = ("address", "time_ns", "category", "name")
    for address, time, name_category, name in zip(*(named[c].tolist() for c in columns), strict=True):
        for index in by_address.get(int(address), ()):
            if begin[index] - _MOMENT_NS <= time <= end[index]:
                if not measured[index]:
                    category[index] = CATEGORIES.index(name_category)
                    measured[index] = True
                    owner = name.rpartition(".")[0] if name_category == "optimizer" else name  # path.weight.exp_avg
                    module[index] = owner.rpartition(".")[0] or module[index]
                break


def _lifetimes_ns(allocations: Allocations) -> tuple[list[int], list[int]]:
    forever = np.iinfo(np.int64).max
    times = np.concatenate([allocations.time_ns, [forever]])
    begin = np.where(allocations.alloc_row == BEFORE, 0, times[np.maximum(allocations.alloc_row, 0)])
    end = np.where(allocations.free_row == BEFORE, 0, times[np.maximum(allocations.free_row, 0)])
    return begin.tolist(), end.tolist()
