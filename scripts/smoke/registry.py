"""Turns decorated generator functions into a table of programs. Nothing here or in a subject's file imports torch at
its top: the device, the environment and the list must be known before torch is."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

SUBJECTS = (
    "training",
    "allocator",
    "numerics",
    "vision",
    "hugging_face",
    "hugging_face_tools",
    "compilers",
    "distributed",
    "processes",
)


@dataclass(frozen=True)
class Peaks:
    """What a program yields when the memory was taken by other processes than its own."""

    allocated_bytes: int
    reserved_bytes: int


Body = Callable[[], Iterator[Peaks | None]]


@dataclass(frozen=True)
class Program:
    """A generator function: each `yield` ends a step. It allocates in the same order in every run."""

    name: str
    subject: str
    body: Body
    needs: tuple[str, ...] = ()
    """Packages besides torch."""
    core: bool = False
    """Needs torch 2.6 alone and under 4 GiB: held on every torch build, and against real cards."""
    gpu: str = "a100-80gb"
    """What to emulate where no other card is asked for."""
    devices: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """The packages that it needs and that are not installed."""
        return [package for package in self.needs if importlib.util.find_spec(package) is None]


_programs: dict[str, Program] = {}


def program(
    *,
    subject: str,
    needs: tuple[str, ...] = (),
    core: bool = False,
    gpu: str = "a100-80gb",
    devices: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Callable[[Body], Body]:
    """Register a generator function under its own name."""

    def register(body: Body) -> Body:
        name = body.__name__
        if name in _programs:
            raise ValueError(f"two programs are called {name}")
        _programs[name] = Program(name, subject, body, needs, core, gpu, devices, environment or {})
        return body

    return register


def programs(*, core: bool = False) -> dict[str, Program]:
    """Every program by its name, or those of the core alone."""
    for subject in SUBJECTS:
        importlib.import_module(f"smoke.{subject}")
    return {name: program for name, program in _programs.items() if program.core or not core}
