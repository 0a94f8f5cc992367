"""Turns call stacks into small ids, each stack and each frame stored once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vramprof.recording.schema import NO_STACK

_GENERATED = re.compile(r"<eval_with_key>.*|.*/([a-z2-7]{2})/c\1[a-z2-7]{49}\.py")


def is_generated(filename: str) -> bool:
    """Whether torch.compile wrote this code: a graph module's, or a file in Inductor's cache, under its hash."""
    return _GENERATED.fullmatch(filename.replace("\\", "/")) is not None


class Frame(NamedTuple):
    """One frame of a call stack, as torch names it."""

    filename: str
    line: int
    name: str


class Stacks:
    """Interns frames and stacks; a stack is a tuple of frame ids, innermost first."""

    def __init__(self, frames: Iterable[Frame] = (), stacks: Iterable[Sequence[int]] = ()) -> None:
        self._frame_ids: dict[Frame, int] = {frame: index for index, frame in enumerate(frames)}
        self._stack_ids: dict[tuple[int, ...], int] = {tuple(s): index for index, s in enumerate(stacks)}
        self.frames: list[Frame] = list(self._frame_ids)
        self.stacks: list[tuple[int, ...]] = list(self._stack_ids)

    def add(self, frames: Iterable[Frame]) -> int:
        """The id of this stack; NO_STACK for an empty one."""
        ids = tuple(self._frame_id(frame) for frame in frames)
        if not ids:
            return NO_STACK
        found = self._stack_ids.setdefault(ids, len(self.stacks))
        if found == len(self.stacks):
            self.stacks.append(ids)
        return found

    def _frame_id(self, frame: Frame) -> int:
        found = self._frame_ids.setdefault(frame, len(self.frames))
        if found == len(self.frames):
            self.frames.append(frame)
        return found

    def insert_behind(self, frame: Frame, frames: Sequence[Frame]) -> None:
        """Put frames behind, that is outside, a frame in every stack so far that has it and not them."""
        own, ids = self._frame_ids[frame], tuple(self._frame_id(one) for one in frames)
        for index, stack in enumerate(self.stacks):
            if own in stack:
                place = stack.index(own) + 1
                if stack[place : place + len(ids)] != ids:
                    self.stacks[index] = stack[:place] + ids + stack[place:]

    def get(self, stack: int) -> tuple[Frame, ...]:
        """The frames of a stack id, innermost first; empty for NO_STACK."""
        return () if stack == NO_STACK else tuple(self.frames[index] for index in self.stacks[stack])
