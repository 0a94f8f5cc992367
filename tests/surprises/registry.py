"""Turns decorated generator functions into a table of programs and what is to be said of each.

A program is called twice: `body(False)` is the one that is predicted, `body(True)` the one that is measured. It is
endless: each `yield` ends a step. Nothing here and in the programs' files imports torch at its top: the device must be
known before torch is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HELD_OUT = "held_out"
FILES = ("passes", "states", "surroundings", "expected", HELD_OUT)

Body = Callable[[bool], Iterator[None]]


@dataclass(frozen=True)
class Program:
    """`code` is the finding that must be raised, None for a program without a surprise."""

    name: str
    body: Body
    code: str | None
    expected_steps: int
    actual_steps: int

    @property
    def held_out(self) -> bool:
        """Written after the rules, which were not changed for it."""
        return self.body.__module__.endswith(HELD_OUT)


_programs: dict[str, Program] = {}


def surprise(code: str, *, expected_steps: int = 4, actual_steps: int = 4) -> Callable[[Body], Body]:
    """Register a program whose measurement differs from its prediction."""
    return lambda body: _register(Program(body.__name__, body, code, expected_steps, actual_steps))


def no_surprise(*, expected_steps: int = 4, actual_steps: int = 4) -> Callable[[Body], Body]:
    """Register a program whose measurement is what was predicted, give or take."""
    return lambda body: _register(Program(body.__name__, body, None, expected_steps, actual_steps))


def _register(program: Program) -> Body:
    if program.name in _programs:
        raise ValueError(f"two programs are called {program.name}")
    _programs[program.name] = program
    return program.body


def programs() -> dict[str, Program]:
    """Every program by its name."""
    for file in FILES:
        importlib.import_module(f"surprises.{file}")
    return dict(_programs)
