"""Turns one moment into what was held then, by what would change it: the batch, the layers, the loss, the optimizer.

What scales with the batch is told by kind: inputs, activations, outputs, caches, the loss and the temporaries of
forward and backward do; weights, buffers, gradients, optimizer states and workspaces do not, nor does an allocation of
the size of a weight (or of its copy in half of its precision) in that weight's own module. Of the program's own tensors
and of what is unattributed nothing is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vramprof.analyses.allocations import BEFORE, Allocations
from vramprof.analyses.attribution import CATEGORIES, LOSS, Attribution
from vramprof.analyses.contexts import BACKWARD, FORWARD, OPTIMIZER, OUTSIDE, RECOMPUTE
from vramprof.analyses.fragmentation import Request
from vramprof.analyses.frames import Hint, hint
from vramprof.recording import Frame

_SCALING = ("activations", "outputs", "inputs", "kv_cache")
_CONSTANT = ("weights", "buffers", "gradients", "optimizer", "workspaces")
_BLOCK = re.compile(r"(?:.*?\.)?\d+(?=\.|$)")
_LEAST_8BIT_BYTES = 4 * 4096
"""bitsandbytes keeps states of fewer than 4,096 elements as they are (min_8bit_size)."""
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Layer:
    """One of several like modules: what it held that grows with the batch, and the last of it, which is its output."""

    path: str
    held_bytes: int
    output_bytes: int


@dataclass(frozen=True, eq=False)
class Held:
    """What one device held right after an event, in bytes; `scaling`, `constant` and `unknown` sum to all of it.

    `request` is the kind of what was asked for next: "scaling", "constant" or "unknown"; `request_in_loss` says that it
    came from the loss. `layers` are those whose outermost number in the path differs; none where forward recomputes
    already. `narrowable_bytes` are states large enough for an 8-bit optimizer.
    """

    scaling_bytes: int
    constant_bytes: int
    unknown_bytes: int
    activation_bytes: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    narrowable_bytes: int
    loss_bytes: int
    layers: tuple[Layer, ...]
    request: str
    request_in_loss: bool


def find_held(
    allocations: Allocations, attribution: Attribution, row: int, request: Request, frames: tuple[Frame, ...]
) -> Held:
    """What one device held right after event `row`, when `request` came from `frames`."""
    alive = allocations.alive(row)
    of = {name: alive & (attribution.category == CATEGORIES.index(name)) for name in CATEGORIES}
    like_weights = _like_weights(allocations, attribution, alive)
    at_work = np.isin(attribution.phase, (FORWARD, RECOMPUTE, BACKWARD))
    scaling = np.logical_or.reduce([of[name] for name in _SCALING]) | (of["temporaries"] & at_work)
    loss = _of_loss(allocations, attribution, alive, row)
    scaling = (scaling | loss) & ~like_weights
    constant = np.logical_or.reduce([of[name] for name in _CONSTANT]) | (alive & like_weights)
    constant |= of["temporaries"] & (attribution.phase == OPTIMIZER)
    activations = (of["activations"] | (of["outputs"] & (attribution.phase == FORWARD))) & scaling
    sizes = allocations.size_bytes

    def total(chosen: _Bools) -> int:
        return int(sizes[chosen].sum())

    kind, in_loss = _kind_of(request, frames, allocations, attribution, row)
    return Held(
        scaling_bytes=total(scaling),
        constant_bytes=total(constant & ~scaling),
        unknown_bytes=total(alive & ~scaling & ~constant),
        activation_bytes=total(activations),
        weight_bytes=total(of["weights"]),
        gradient_bytes=total(of["gradients"]),
        optimizer_bytes=total(of["optimizer"]),
        narrowable_bytes=total(of["optimizer"] & (allocations.requested_bytes >= _LEAST_8BIT_BYTES)),
        loss_bytes=total(loss),
        layers=() if (attribution.phase == RECOMPUTE).any() else _layers(allocations, attribution, activations),
        request=kind,
        request_in_loss=in_loss,
    )


def _like_weights(allocations: Allocations, attribution: Attribution, alive: _Bools) -> _Bools:
    """What is of the size of a weight of its own module, or half of it: gradients on their way, autocast's copies."""
    weights = np.flatnonzero(alive & (attribution.category == CATEGORIES.index("weights")))
    known = {
        (attribution.module[index], int(allocations.requested_bytes[index]) // part)
        for index in weights.tolist()
        for part in (1, 2)
    }
    found = np.zeros_like(alive)
    at_work = np.isin(attribution.phase, (FORWARD, RECOMPUTE, BACKWARD))
    for index in np.flatnonzero(alive & at_work).tolist():
        found[index] = (attribution.module[index], int(allocations.requested_bytes[index])) in known
    return found


def _layers(allocations: Allocations, attribution: Attribution, chosen: _Bools) -> tuple[Layer, ...]:
    """Modules that differ in the first number of their path alone, where there are two or more of them."""
    blocks: dict[str, list[int]] = {}
    for index in np.flatnonzero(chosen & (attribution.phase == FORWARD)).tolist():
        match = _BLOCK.match(attribution.module[index])
        if match:
            blocks.setdefault(match[0], []).append(index)
    parents = [path.rpartition(".")[0] for path in blocks]
    layers = []
    for path, rows in blocks.items():
        if parents.count(path.rpartition(".")[0]) > 1:
            last = max(rows, key=lambda index: int(allocations.alloc_row[index]))
            held = int(allocations.size_bytes[rows].sum())
            layers.append(Layer(path, held, int(allocations.size_bytes[last])))
    return tuple(layers)


def _of_loss(allocations: Allocations, attribution: Attribution, alive: _Bools, row: int) -> _Bools:
    """What the loss holds; before the first backward is over, that is all that was made since the last forward."""
    loss: _Bools = alive & (attribution.module == LOSS)
    loss &= attribution.category != CATEGORIES.index("gradients")
    newest = _newest_work(allocations, attribution, row)
    if newest is not None and attribution.phase[newest] == FORWARD:
        since = allocations.alloc_row > allocations.alloc_row[newest]
        loss |= alive & since & (attribution.category == CATEGORIES.index("program"))
    return loss


def _newest_work(allocations: Allocations, attribution: Attribution, row: int) -> int | None:
    """The newest allocation up to this event that a module, a backward or an optimizer made."""
    inside = (attribution.phase != OUTSIDE) & (allocations.alloc_row <= row)
    made = np.where(inside, allocations.alloc_row, BEFORE)
    return int(np.argmax(made)) if len(made) and made.max() != BEFORE else None


def _kind_of(
    request: Request, frames: tuple[Frame, ...], allocations: Allocations, attribution: Attribution, row: int
) -> tuple[str, bool]:
    """Whether what was asked for grows with the batch, and whether the loss asked for it."""
    told = hint(frames)
    newest = _newest_work(allocations, attribution, row)
    phase = OUTSIDE if newest is None else int(attribution.phase[newest])
    if told in (Hint.OPTIMIZER, Hint.OPTIMIZER_STATE, Hint.WEIGHT, Hint.GATHERED, Hint.WORKSPACE, Hint.GRADIENT):
        return "constant", False
    if told is Hint.FORWARD:
        return "scaling", False
    if told is Hint.BACKWARD or (not frames and phase == BACKWARD):
        weights = attribution.category == CATEGORIES.index("weights")
        like_weight = bool((allocations.size_bytes[weights] == request.size_bytes).any())
        return ("unknown" if like_weight else "scaling"), newest is not None and attribution.module[newest] == LOSS
    return ("scaling", True) if phase in (FORWARD, BACKWARD) else ("unknown", False)
