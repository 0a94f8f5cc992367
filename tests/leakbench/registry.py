"""Turns decorated generator functions into a table of programs and the truth about each.

A program is endless: each `yield` ends a step. Lines that end in `# leaks` allocate, or keep, what leaks. Nothing here
and in the programs' files imports torch at its top: the device must be known before torch is.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

FILES = ("graphs", "containers", "cycles", "elsewhere", "benign")
MARK = "# leaks"

Body = Callable[[], Iterator[None]]


@dataclass(frozen=True)
class Program:
    """`grows` is in bytes per step by formula, None for a clean program; `holder` are words that name who holds it."""

    name: str
    body: Body
    steps: int
    grows: int | None
    holder: tuple[str, ...] = ()
    outside: bool = False
    """The memory is not torch's."""

    @property
    def leaks(self) -> bool:
        return self.grows is not None

    @property
    def lines(self) -> frozenset[tuple[str, int]]:
        """(file name, line) of every marked line."""
        return frozenset(line for function in (self.body, *_helpers(self.body)) for line in _marked(function))


def _helpers(body: Body) -> list[Callable[..., object]]:
    """The functions of the same file that a program calls by name."""
    named = (body.__globals__.get(name) for name in body.__code__.co_names)
    return [inspect.unwrap(one) for one in named if callable(one) and getattr(one, "__module__", "") == body.__module__]


def _marked(function: Callable[..., object]) -> list[tuple[str, int]]:
    source, first = inspect.getsourcelines(function)
    filename = inspect.getsourcefile(function) or ""
    return [(filename, first + offset) for offset, text in enumerate(source) if text.rstrip().endswith(MARK)]


_programs: dict[str, Program] = {}


def leak(
    *, grows: int, holder: str | tuple[str, ...], steps: int = 12, outside: bool = False
) -> Callable[[Body], Body]:
    """Register a program that leaks."""
    words = (holder,) if isinstance(holder, str) else holder
    return lambda body: _register(Program(body.__name__, body, steps, grows, words, outside))


def clean(*, steps: int = 24) -> Callable[[Body], Body]:
    """Register a program that does not leak."""
    return lambda body: _register(Program(body.__name__, body, steps, None))


def _register(program: Program) -> Body:
    if program.name in _programs:
        raise ValueError(f"two programs are called {program.name}")
    _programs[program.name] = program
    return program.body


def programs() -> dict[str, Program]:
    """Every program by its name."""
    for file in FILES:
        importlib.import_module(f"leakbench.{file}")
    return dict(_programs)


def block(*shape: int, item_bytes: int = 4) -> int:
    """The bytes of a tensor's block: torch rounds up to 512, and so small ones share a segment."""
    count = 1
    for extent in shape:
        count *= extent
    return -(-count * item_bytes // 512) * 512
