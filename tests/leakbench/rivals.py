"""The rules by which others tell a leak, applied to the same recordings: each gives yes or no for a whole program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

RULES: dict[str, Callable[[Any], bool]] = {}
MEGABYTE = 1_000_000


def _rule(words: str) -> Callable[[Callable[[Any], bool]], Callable[[Any], bool]]:
    def register(function: Callable[[Any], bool]) -> Callable[[Any], bool]:
        RULES[words] = function
        return function

    return register


@_rule("alive at the end and over 1 MB")
def alive_at_the_end(device: Any) -> bool:
    """Any one place whose allocations of the session are alive at its end, 1 MB or more together."""
    allocations = device.allocations
    alive = (allocations.alloc_row >= 0) & (allocations.free_row == allocations.event_count)
    by_stack: dict[int, int] = {}
    for stack, size in zip(allocations.stack[alive].tolist(), allocations.size_bytes[alive].tolist(), strict=True):
        by_stack[stack] = by_stack.get(stack, 0) + size
    return any(size > MEGABYTE for size in by_stack.values())


@_rule("more than 70 % of the calls grow, and by over 100 MB together")
def most_calls_grow(device: Any) -> bool:
    """A step counts as a call."""
    ends = np.array([step.end_allocated_bytes for step in device.steps])
    rises = np.diff(ends)
    return len(rises) > 0 and (rises > 0).mean() > 0.7 and ends[-1] - ends[0] > 100 * MEGABYTE


@_rule("more than 70 % of the calls grow, whatever they grow by")
def most_calls_grow_at_all(device: Any) -> bool:
    """The same rule without its threshold: these programs are small."""
    rises = np.diff([step.end_allocated_bytes for step in device.steps])
    return len(rises) > 0 and bool((rises > 0).mean() > 0.7)


@_rule("the least-squares slope of the total is positive")
def slope_of_the_total(device: Any) -> bool:
    """Of the allocated bytes at the end of each step."""
    ends = [step.end_allocated_bytes for step in device.steps]
    return len(ends) > 1 and bool(np.polyfit(np.arange(len(ends)), ends, 1)[0] > 1)
