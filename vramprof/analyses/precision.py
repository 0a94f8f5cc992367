"""Turns what autograd saved, and in which type, into the scores of unfused attention and fp32 activations."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from vramprof.analyses.allocations import Allocations
from vramprof.analyses.attribution import CATEGORIES, LOSS, Attribution
from vramprof.analyses.idle import IdleBytes
from vramprof.analyses.peak import bytes_by_stack
from vramprof.recording import Recording

_ACTIVATIONS = CATEGORIES.index("activations")
_STATISTIC_BYTES = 4
_LEAST_SEQUENCE = 64
_SOFTMAX = {"SoftmaxBackward0", "SafeSoftmaxBackward0"}


@dataclass(frozen=True)
class Saved:
    """Of the activations at a moment: `scores` are softmaxes over pairs of tokens and what has their size beside them
    (dropout's result and mask), `flash_bytes` what flash attention would keep instead: one fp32 logsumexp a row.
    `fp32` is what is saved in fp32 outside the loss, `known_bytes` the size of all whose type was seen."""

    scores: IdleBytes
    flash_bytes: int
    fp32: IdleBytes
    known_bytes: int


def find_saved(recording: Recording, allocations: Allocations, attribution: Attribution, row: int) -> Saved:
    """What one device's activations are, right after event `row`.

    A step that was not looked at in detail is told by the stacks and sizes of one that was.
    Blind to: what saved-tensors hooks packed, compiled code, and torch before 2.11.
    """
    names = _names(allocations, attribution)
    alive = allocations.alive(row) & (attribution.category == _ACTIVATIONS) & (attribution.module != LOSS)
    scores, fp32, known_bytes, flash_bytes = set[int](), set[int](), 0, 0
    shapes: dict[str, set[int]] = {}
    for index in np.flatnonzero(alive).tolist():
        name = names.get((int(allocations.stack[index]), int(allocations.requested_bytes[index])))
        if name is None:
            continue
        known_bytes += int(allocations.size_bytes[index])
        if name.endswith("float32"):
            fp32.add(index)
        shape = _score_shape(name)
        if shape:
            scores.add(index)
            flash_bytes += prod(shape[:-1]) * _STATISTIC_BYTES
            shapes.setdefault(str(attribution.module[index]), set()).update(prod(shape) * size for size in (1, 2, 4))
    for index in np.flatnonzero(alive).tolist():
        if int(allocations.requested_bytes[index]) in shapes.get(str(attribution.module[index]), ()):
            scores.add(index)

    def total(chosen: set[int]) -> IdleBytes:
        rows = np.array(sorted(chosen), dtype=np.int64)
        sizes = allocations.size_bytes[rows]
        return IdleBytes(int(sizes.sum()), bytes_by_stack(recording, attribution.stack[rows], sizes))

    return Saved(total(scores), flash_bytes, total(fp32), known_bytes)


def _names(allocations: Allocations, attribution: Attribution) -> dict[tuple[int, int], str]:
    """By stack and size, the name under which autograd saved what was allocated so."""
    named = np.flatnonzero((attribution.category == _ACTIVATIONS) & (attribution.name != "")).tolist()
    return {
        (int(allocations.stack[index]), int(allocations.requested_bytes[index])): str(attribution.name[index])
        for index in named
    }


def _score_shape(name: str) -> tuple[int, ...]:
    """The shape of attention's scores, (..., queries, keys); () for what is none."""
    if not _SOFTMAX & set(name.split()):
        return ()
    shape = tuple(int(part) for part in name.split()[-2].split("x") if part.isdigit())
    is_scores = len(shape) == 4 or (len(shape) == 3 and shape[-1] == shape[-2])
    return shape if is_scores and min(shape[-2:]) >= _LEAST_SEQUENCE else ()
