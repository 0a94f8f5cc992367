"""Turns a Python object into the path of references that keeps it alive, from a variable, global or cache to it.

No code of the user's runs: types are told by `type()`, members by identity, keys only if they are plain strings and
numbers. Everything found is text; no reference to an object of the user's outlives the walk.
"""

from __future__ import annotations

import functools
import gc
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_PACKAGE = str(Path(__file__).resolve().parents[1])
_OPTIMIZED = 0x0001  # CO_OPTIMIZED: a function's frame, whose f_locals is a copy
_DEEPEST = 24
_WIDEST = 96
MOST_TARGETS = 32
LRU_CACHE = type(functools.lru_cache(maxsize=1)(lambda: None))


class Place(NamedTuple):
    """A name on the path, and the lines in which code may use it."""

    name: str
    filename: str
    first_line: int
    last_line: int


class Root(NamedTuple):
    """Where a path begins. `kind` is variable, global, attribute or cache."""

    kind: str
    text: str
    place: Place | None


@dataclass(frozen=True)
class Reference:
    """One path. `kind` is variable, global, attribute, closure, hook, cache, exception, thread, cycle or C++.

    `places` are the path's names, the outermost first; `bound` is the most items that its container takes.
    """

    kind: str
    text: str
    places: tuple[Place, ...] = ()
    bound: int | None = None


def mro(kind: type) -> tuple[type, ...]:
    """The bases of a type, whatever its metaclass does."""
    found: tuple[type, ...] = type.__dict__["__mro__"].__get__(kind)
    return found


def type_name(thing: Any) -> str:
    """The name of a type, whatever its metaclass does."""
    return str(type.__dict__["__name__"].__get__(type(thing)))


class Roots:
    """Every place by name where a path may begin: variables of all running functions, and globals of all modules."""

    def __init__(self) -> None:
        self._globals: dict[int, tuple[types.ModuleType, str]] = {}
        self._variables: dict[int, Root] = {}
        for module in list(sys.modules.values()):
            if type(module) is types.ModuleType:
                for key, value in list(_namespace(module).items()):
                    self._globals[id(value)] = (module, key)
        for frame in sys._current_frames().values():
            here: types.FrameType | None = frame
            while here is not None:
                if not here.f_code.co_filename.startswith(_PACKAGE):
                    for name, value in local_variables(here):
                        text = variable_text(name, value, here)
                        self._variables[id(value)] = Root("variable", text, frame_place(name, here))
                here = here.f_back

    def get(self, thing: Any) -> Root | None:
        """The place that holds this object directly."""
        module, key = self._globals.get(id(thing), (None, None))
        if module is None or type(key) is not str or key.startswith("__"):
            return self._variables.get(id(thing))
        name, filename = (_text(_namespace(module).get(one)) for one in ("__name__", "__file__"))
        text = f"{type_name(thing)} '{key}' of module {name}"
        return None if name.startswith("vramprof.") else Root("global", text, Place(key, filename, 1, sys.maxsize))


def _namespace(module: types.ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = types.ModuleType.__dict__["__dict__"].__get__(module)  # type: ignore[index]
    return found


def _text(value: Any) -> str:
    return value if type(value) is str else ""


def variable_text(name: str, value: Any, frame: types.FrameType) -> str:
    """`list 'losses' in train() at train.py:42`."""
    return f"{type_name(value)} '{name}' in {frame_text(frame)}"


def frame_text(frame: types.FrameType) -> str:
    """`train() at train.py:42`."""
    return f"{frame.f_code.co_name}() at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def frame_place(name: str, frame: types.FrameType) -> Place:
    """A variable and the lines of its function."""
    return Place(name, frame.f_code.co_filename, *line_range(frame.f_code))


def line_range(code: types.CodeType) -> tuple[int, int]:
    """The first and last line of a function."""
    lines = [line for _, _, line in code.co_lines() if line is not None]
    nested = [line_range(constant)[1] for constant in code.co_consts if type(constant) is types.CodeType]
    return code.co_firstlineno, max([code.co_firstlineno, *lines, *nested])


def local_variables(frame: types.FrameType) -> list[tuple[str, Any]]:
    """A frame's variables. Before Python 3.13 reading them leaves a copy in the frame, which is emptied again."""
    if not frame.f_code.co_flags & _OPTIMIZED:
        return []  # a module's or class body's namespace, which is found as such
    variables = frame.f_locals
    found = [(name, value) for name, value in list(variables.items()) if type(name) is str]
    if sys.version_info < (3, 13) and sys.gettrace() is None and sys.getrefcount(variables) <= 3:
        variables.clear()
    return found


@dataclass
class Way:
    """The objects from a target up to `root`, or as far up as anything was found; `cyclic`: it led back to itself."""

    things: list[Any]
    root: Root | None
    cyclic: bool


class Walk:
    """All targets are walked together, level by level, for each level costs a look at every object of the process.

    Args:
        targets: the objects; at most MOST_TARGETS.
        roots: where paths may begin.
        ours: ids of containers of ours, which don't count.
        deadline: on `time.monotonic`.
    """

    def __init__(self, targets: list[Any], roots: Roots, *, ours: set[int], deadline: float) -> None:
        self._targets = targets
        self._roots = roots
        self._deadline = deadline
        self._things = {id(target): target for target in targets}
        self._below: dict[int, dict[int, int]] = {id(target): {index: 0} for index, target in enumerate(targets)}
        self._ours = ours | {id(targets), id(self), id(self._things), id(self.__dict__)}
        self._open = set(range(len(targets)))
        self._last = {index: id(target) for index, target in enumerate(targets)}
        self._cyclic: set[int] = set()

    def ways(self) -> dict[int, Way]:
        """The shortest way to each target, by its position; those that time did not allow are left out."""
        found: dict[int, Way] = {}
        frontier = {id(target): {index} for index, target in enumerate(self._targets)}
        for _ in range(_DEEPEST):
            for key, reached in frontier.items():
                for index in sorted(reached & self._open):
                    root = self._root(key, index)
                    if root is not None:
                        self._open.discard(index)
                        found[index] = Way(self._down(key, index), root, cyclic=False)
            frontier = {key: left for key, reached in frontier.items() if (left := reached & self._open)}
            for index in self._open - set().union(*frontier.values()):
                self._open.discard(index)
                found[index] = Way(self._down(self._last[index], index), None, index in self._cyclic)
            if not frontier or time.monotonic() > self._deadline:
                break
            frontier = self._next(frontier)
        return found

    def _root(self, key: int, index: int) -> Root | None:
        thing = self._things[key]
        is_target = self._below[key].get(index) == 0
        return self._roots.get(thing) or (None if is_target else _root_by_type(thing))

    def _down(self, key: int, index: int) -> list[Any]:
        """The objects from the target up to this one."""
        way = []
        while key:
            way.append(self._things[key])
            key = self._below[key][index]
        return way[::-1]

    def _next(self, frontier: dict[int, set[int]]) -> dict[int, set[int]]:
        """What holds the objects of a level."""
        held = [self._things[key] for key in frontier]
        referrers = gc.get_referrers(*held)
        skip = self._ours | {id(held), id(referrers), id(frontier), id(self._below)}
        added: dict[int, set[int]] = {}
        for referrer in referrers:
            if id(referrer) in skip or _is_our_frame(referrer) or len(added) >= _WIDEST:
                continue
            for one in gc.get_referents(referrer):
                if id(one) in frontier:
                    self._meet(referrer, id(one), frontier[id(one)], added)
        return added

    def _meet(self, holder: Any, child: int, reached: set[int], added: dict[int, set[int]]) -> None:
        key = id(holder)
        self._things[key] = holder
        below = self._below.setdefault(key, {})
        for index in reached:
            if index in below:
                self._cyclic.add(index)
            else:
                below[index] = child
                self._last[index] = key
                added.setdefault(key, set()).add(index)


def _root_by_type(thing: Any) -> Root | None:
    """Caches and classes hold for themselves."""
    if type(thing) is LRU_CACHE:
        return Root("cache", f"lru_cache of {thing.__wrapped__.__qualname__}()", code_place(thing.__wrapped__))
    if type in mro(type(thing)):
        return Root("attribute", f"class {type.__dict__['__name__'].__get__(thing)}", None)
    return None


def code_place(function: Any, name: str = "") -> Place | None:
    """The lines of a plain function."""
    if type(function) is not types.FunctionType:
        return None
    return Place(name, function.__code__.co_filename, *line_range(function.__code__))


def _is_our_frame(thing: Any) -> bool:
    return type(thing) is types.FrameType and thing.f_code.co_filename.startswith(_PACKAGE)
