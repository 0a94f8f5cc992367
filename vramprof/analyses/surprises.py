"""Turns a comparison into surprises: for what came and was not expected, the likeliest reason, moment by moment.

The certain first: what a leak holds, and weights, gradients and states. Then what was made as often as expected, and
lives longer; then what was made more often: by the kinds of autograd's nodes and their elements' types, at last by
category and size. What none of these explains stays unexplained. The bytes of a moment's surprises never sum to more
than the moment's whole residual.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from vramprof.analyses.allocations import IntArray
from vramprof.analyses.attribution import CATEGORIES, NO_MODULE
from vramprof.analyses.comparison import END, Comparison, Pair, Side
from vramprof.analyses.contexts import OPTIMIZER, RECOMPUTE
from vramprof.analyses.frames import users_first
from vramprof.analyses.leaks import FILLS, Growth, Leaks
from vramprof.recording.schema import NO_STACK


class Reason(Enum):
    """Why more came than was expected; the value is what a JSON report says."""

    ATTENTION = "unfused attention"
    PRECISION = "wider elements"
    INPUTS = "larger inputs"
    KEPT = "kept between steps"
    GRADIENTS = "gradients not freed"
    GRAPH = "retained graph"
    CHECKPOINTING = "missing checkpointing"
    STATES = "optimizer states"
    WEIGHTS = "weights"
    WORKSPACE = "workspace"
    COPY = "hidden copy"
    KERNEL = "another kernel"
    GROWTH = "growth"
    CACHE = "a cache that fills"
    MOVED = "the peak lies elsewhere in its phase"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, eq=False)
class Surprise:
    """Bytes at one moment for one reason; `chosen` are the allocations of the actual side, the largest first."""

    reason: Reason
    pair: Pair
    bytes: int
    chosen: IntArray


_AFTER_BACKWARD = ("optimizer", END)
_LARGER_RATIO = 1.05
_WHOLE_RATIOS = (2, 4)
"""fp32 for bf16 or fp16, and for fp8 or int8."""
_WIDTHS = {
    "float64": 8, "complex64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
_FUSED = "ScaledDotProduct"
_UNFUSED = "SoftmaxBackward"
_OF_WEIGHTS = ("weights", "buffers", "gradients", "optimizer")


def find_surprises(comparison: Comparison, leaks: Leaks) -> Iterator[Surprise]:
    """Every reason at every moment at which more came than was expected.

    Args:
        comparison: of one device.
        leaks: what grew on the actual side.
    """
    judge = _Judge(comparison, leaks)
    for pair in comparison.pairs:
        if pair.bytes <= 0:
            continue
        by_reason: dict[Reason, list[int]] = defaultdict(list)
        for index in pair.surplus.tolist():
            by_reason[judge.reason(pair, index)].append(index)
        if Reason.GRAPH in by_reason:  # what a graph's outputs are held by is the graph
            by_reason[Reason.GRAPH] += by_reason.pop(Reason.KEPT, [])
        yield from _sized(comparison.actual, pair, by_reason)


def _sized(actual: Side, pair: Pair, by_reason: dict[Reason, list[int]]) -> Iterator[Surprise]:
    """A reason's bytes: its share of what each category of each module has beyond what was expected."""
    net = {(one.module, one.category): max(one.bytes, 0) for one in pair.residuals}
    gross: dict[tuple[str, str], int] = defaultdict(int)
    for index in pair.surplus.tolist():
        gross[_owner(actual, index)] += int(actual.allocations.size_bytes[index])
    sizes = {index: int(actual.allocations.size_bytes[index]) for index in pair.surplus.tolist()}
    share = {owner: min(net.get(owner, 0) / size, 1) for owner, size in gross.items() if size}
    totals = {
        reason: sum(share.get(_owner(actual, index), 0) * sizes[index] for index in indices)
        for reason, indices in by_reason.items()
    }
    whole = min(pair.bytes / max(sum(totals.values()), 1), 1)
    for reason, indices in by_reason.items():
        order = sorted(indices, key=lambda index: -sizes[index])
        yield Surprise(reason, pair, round(whole * totals[reason]), np.array(order, dtype=np.int64))


def _owner(side: Side, index: int) -> tuple[str, str]:
    return str(side.attribution.module[index]), CATEGORIES[int(side.attribution.category[index])]


class _Judge:
    """What is known of both sides as a whole, and the reason for each allocation in its light."""

    def __init__(self, comparison: Comparison, leaks: Leaks) -> None:
        expected, self._actual = comparison.expected, comparison.actual
        self._birth = comparison.births[1]
        self._expected_steps = comparison.expected_steps
        self._leaking = _stacks_of(self._actual, leaks.leaking)
        self._filling = {address for one in leaks.growths if one.reason == FILLS for address in one.held}
        self._before, self._after = _Nodes(expected), _Nodes(self._actual)
        self._recomputed = [bool((side.attribution.phase == RECOMPUTE).any()) for side in (expected, self._actual)]
        self._larger = _inputs_are_larger(comparison)
        self._sizes, self._doubled = _sizes_by_module(expected, (0.5, 1, 2)), _sizes_by_module(expected, (2, 4))
        self._widened = {module for module in self._after.modules if self._is_wider(module)}
        self._made = [
            _made(side, birth) for side, birth in zip((expected, self._actual), comparison.births, strict=True)
        ]

    def reason(self, pair: Pair, index: int) -> Reason:
        """The first that fits; the order is that of certainty."""
        attribution = self._actual.attribution
        category, module = CATEGORIES[int(attribution.category[index])], str(attribution.module[index])
        older = 0 <= self._birth[index] < pair.step
        if older and int(self._actual.allocations.stack[index]) in self._leaking:
            return Reason.GROWTH
        if int(self._actual.allocations.address[index]) in self._filling and pair.step >= self._expected_steps:
            return Reason.CACHE
        if category in _OF_WEIGHTS:
            return self._of_weights(pair, category, older=older)
        if category == "activations" and self._recomputed == [True, False]:
            return Reason.CHECKPOINTING
        if not self._is_made_more_often(index, module):
            return self._of_lifetime(pair, category, older=older)
        if self._is_unfused(module):
            return Reason.ATTENTION
        if category == "workspaces":
            return Reason.WORKSPACE
        return self._of_the_pass(index, category, module, older=older)

    def _of_weights(self, pair: Pair, category: str, *, older: bool) -> Reason:
        if category == "gradients" and (older or pair.phase == "forward") and not _had(pair, category):
            return Reason.GRADIENTS
        if category == "optimizer":
            return Reason.STATES
        if _whole_ratio(pair, category):
            return Reason.PRECISION
        return {"gradients": Reason.GRADIENTS}.get(category, Reason.WEIGHTS)

    def _of_lifetime(self, pair: Pair, category: str, *, older: bool) -> Reason:
        """What was made was expected; that it is alive here was not."""
        if older or pair.phase in _AFTER_BACKWARD:
            return Reason.GRAPH if category == "activations" else Reason.KEPT
        return Reason.KEPT if category == "outputs" and pair.phase == "backward" else Reason.MOVED

    def _of_the_pass(self, index: int, category: str, module: str, *, older: bool) -> Reason:
        size = int(self._actual.allocations.requested_bytes[index])
        if module in self._widened or (self._widened and size in self._doubled.get(module, ())):
            return Reason.PRECISION
        if self._larger and not older:
            return Reason.INPUTS
        if self._actual.attribution.phase[index] == OPTIMIZER:
            return Reason.KERNEL
        if self._is_for_one_call(index):
            return Reason.WORKSPACE
        if older:
            return Reason.GRAPH if category == "activations" else Reason.KEPT
        return self._of_the_code(index, category, module)

    def _of_the_code(self, index: int, category: str, module: str) -> Reason:
        new, gone = self._after.of(module) - self._before.of(module), self._before.of(module) - self._after.of(module)
        if new and gone:
            return Reason.KERNEL
        if int(self._actual.allocations.requested_bytes[index]) in self._sizes.get(module, ()):
            return Reason.COPY
        if category == "temporaries" and module != NO_MODULE:
            return Reason.KERNEL
        return Reason.UNEXPLAINED

    def _is_made_more_often(self, index: int, module: str) -> bool:
        """In the step that it was made in, its module asked more often for this size than expected."""
        step, size = int(self._birth[index]), int(self._actual.allocations.requested_bytes[index])
        expected = self._made[0][min(step, self._expected_steps - 1), module, size]
        return self._made[1][step, module, size] > expected

    def _is_for_one_call(self, index: int) -> bool:
        """Nothing was allocated or freed while it lived: a library's workspace, not a tensor that one worked with."""
        made, freed = (rows[index] for rows in (self._actual.allocations.alloc_row, self._actual.allocations.free_row))
        return bool(0 <= made == freed - 1)

    def _is_wider(self, module: str) -> bool:
        """The same kind of node saved wider elements than expected."""
        before, after = self._before.widths(module), self._after.widths(module)
        return any(width > before.get(kind, width) for kind, width in after.items())

    def _is_unfused(self, module: str) -> bool:
        before, after = self._before.of(module), self._after.of(module)
        if any(_FUSED in kind for kind in before):
            return not any(_FUSED in kind for kind in after)
        return any(_UNFUSED in kind for kind in after) and not any(_UNFUSED in kind for kind in before)


class _Nodes:
    """The kinds of autograd nodes that saved each module's activations, and how wide the elements were at most."""

    def __init__(self, side: Side) -> None:
        self._widths: dict[str, dict[str, int]] = defaultdict(dict)
        activations = side.attribution.category == CATEGORIES.index("activations")
        named = np.flatnonzero(activations & (side.attribution.name != ""))
        pairs = zip(side.attribution.module[named].tolist(), side.attribution.name[named].tolist(), strict=True)
        for module, name in set(pairs):
            *kinds, dtype = name.split()
            widths = self._widths[module]
            for kind in (one for one in kinds if not one[0].isdigit()):  # a softmax's shape stands among them
                widths[kind] = max(widths.get(kind, 0), _WIDTHS.get(dtype, 0))

    @property
    def modules(self) -> tuple[str, ...]:
        """Those that saved anything."""
        return tuple(self._widths)

    def of(self, module: str) -> set[str]:
        """The kinds of nodes that saved something in this module."""
        return set(self._widths.get(module, ()))

    def widths(self, module: str) -> dict[str, int]:
        """Bytes per element of the widest that each kind of node saved; 0 for types that are no floating point."""
        return self._widths.get(module, {})


def _total(pair: Pair, category: str) -> tuple[int, int]:
    """Expected and actual bytes of what differs in a category."""
    rows = [one for one in pair.residuals if one.category == category]
    return sum(one.expected_bytes for one in rows), sum(one.actual_bytes for one in rows)


def _had(pair: Pair, category: str) -> bool:
    """Whether a good part of a category was expected here."""
    before, after = _total(pair, category)
    return before > after // 2


def _whole_ratio(pair: Pair, category: str) -> bool:
    before, after = _total(pair, category)
    return any(abs(after - ratio * before) < 0.02 * after for ratio in _WHOLE_RATIOS)


def _inputs_are_larger(comparison: Comparison) -> bool:
    """Whether what the modules were called with is larger, at the first step at least."""
    most = [_largest_input(side) for side in (comparison.expected, comparison.actual)]
    return bool(most[0]) and most[1] > _LARGER_RATIO * most[0]


def _largest_input(side: Side) -> int:
    inputs = side.attribution.measured & (side.attribution.category == CATEGORIES.index("inputs"))
    return int(side.allocations.requested_bytes[inputs].max()) if inputs.any() else 0


def _stacks_of(side: Side, growths: Iterable[Growth]) -> set[int]:
    """The stacks that made what grows."""
    wanted = {growth.frames for growth in growths}
    stacks: list[int] = np.unique(side.allocations.stack).tolist()
    return {one for one in stacks if one != NO_STACK and users_first(side.recording.stacks.get(one)) in wanted}


def _made(side: Side, birth: IntArray) -> Counter[tuple[int, str, int]]:
    """How often each module asked for each size, by step."""
    columns = (birth.tolist(), side.attribution.module.tolist(), side.allocations.requested_bytes.tolist())
    return Counter(zip(*columns, strict=True))


def _sizes_by_module(side: Side, factors: tuple[float, ...]) -> dict[str, set[int]]:
    """The sizes that each module allocated, times each factor: what a cast makes of them."""
    sizes: dict[str, set[int]] = defaultdict(set)
    columns = (side.attribution.module.tolist(), side.allocations.requested_bytes.tolist())
    for module, size in set(zip(*columns, strict=True)):
        sizes[module].update(int(size * factor) for factor in factors)
    return sizes
