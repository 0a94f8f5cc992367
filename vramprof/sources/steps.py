"""Turns forward calls and optimizer steps into the steps of the user's loop, whatever its shape.

A training step ends where the next outermost forward begins, once every optimizer of the loop has stepped: with several
(a GAN) those that stepped in the step before. An inference step ends where its first outermost module is called again.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

_MOST_REPEATS = 16
"""An optimizer that steps so often alone is not waiting for the others."""


class Steps:
    """The current step and whether it may end; `ends(index, begin_ns, end_ns)` is called when it does."""

    def __init__(self, ends: Callable[[int, int, int], None]) -> None:
        self.index = 0
        self.trains = False
        self.end_at_once = False
        """A training step ends with its last optimizer, and not where the next forward begins."""
        self._ends = ends
        self._begin_ns = time.time_ns()
        self._may_end_ns = 0
        self._users = False
        self._first: weakref.ref[Any] | None = None
        self._expected: set[weakref.ref[Any]] | None = None
        self._stepped: dict[weakref.ref[Any], int] = {}

    def forward_begins(self, root: Any) -> None:
        """An outermost module with parameters is called."""
        again = self.trains or self._first is None or self._first() in (None, root)
        if self._may_end_ns and again and not self._users:
            self._end(self._may_end_ns)
        if self._first is None:
            self._first = weakref.ref(root)

    def forward_ends(self) -> None:
        """An outermost call is over: where nothing is trained, a step may end with it."""
        if not self.trains:
            self._may_end_ns = time.time_ns()

    def backward_ends(self) -> None:
        """More is to come in this step: the optimizer."""
        self._may_end_ns = 0

    def optimizer_ends(self, optimizer: Any) -> None:
        """An optimizer has stepped."""
        stepped, this = self._stepped, weakref.ref(optimizer)
        stepped[this] = stepped.get(this, 0) + 1
        if self._expected is None:
            self._expected = {weakref.ref(other) for other in _other_optimizers(optimizer)}
        waiting = any(other() is not None and other not in stepped for other in self._expected)
        if not waiting or stepped[this] >= _MOST_REPEATS:
            self._expected = set(stepped)
            self._may_end_ns = time.time_ns()
            if self.end_at_once and not self._users:
                self._end(self._may_end_ns)

    def users_step(self) -> None:
        """The user says that a step ends here."""
        self._users = True
        self._end(time.time_ns())

    def _end(self, end_ns: int) -> None:
        index, begin_ns = self.index, self._begin_ns
        self.index += 1
        self._begin_ns = end_ns
        self._may_end_ns = 0
        self._first = None
        self._stepped.clear()
        self._ends(index, begin_ns, end_ns)  # last, for it may end the program

    def finish(self) -> None:
        """The session ends, and the last step with it."""
        if (self._may_end_ns or not self.index) and not self._users:
            self._end(time.time_ns())


def _other_optimizers(stepped: Any) -> list[Any]:
    """Every optimizer alive that trains parameters which this one does not; asked for once, after the first step.

    One that has no others is a wrapper around it, as accelerate's, and steps when it does.
    """
    import gc

    from torch.optim import Optimizer

    alive = [item for item in gc.get_objects() if issubclass(type(item), Optimizer)]
    return [optimizer for optimizer in alive if _trained_by(optimizer) - _trained_by(stepped)]


def _trained_by(optimizer: Any) -> set[int]:
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return {id(parameter) for parameter in parameters if parameter.requires_grad}
