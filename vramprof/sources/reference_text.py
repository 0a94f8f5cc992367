"""Turns a way of references into words: `list 'losses' in train() at train.py:42 -> [3] -> Tensor`."""

from __future__ import annotations

import collections
import types
from collections.abc import Sequence
from typing import Any

from vramprof.sources.references import (
    LRU_CACHE,
    Place,
    Reference,
    Root,
    Way,
    code_place,
    frame_place,
    frame_text,
    line_range,
    local_variables,
    mro,
    type_name,
    variable_text,
)

_MOST_ITEMS = 20_000
_PLAIN = (str, int, float, bool, type(None))
_FRAMES = {types.GeneratorType: "gi_frame", types.CoroutineType: "cr_frame", types.AsyncGeneratorType: "ag_frame"}
_SAFE_MEMBERS = (
    "__traceback__", "__cause__", "__context__", "tb_frame", "tb_next",
    "_backward_hooks", "_post_accumulate_grad_hooks",
)  # fmt: skip
"""Members of C types that only give what they hold."""
_HOOKS = ("_hooks", "_pre_hooks")


def describe(way: Way) -> Reference:
    """The reference in words."""
    things, root = way.things, way.root
    labels, places = _labels(things)
    begin = root.text if root is not None else type_name(things[-1])
    if root is not None and root.kind == "variable" and len(things) > 1 and type(things[-1]) in _FRAMES:
        begin, labels = labels[0].removeprefix(" -> "), labels[1:]  # a running loop: its variables are as a function's
        root = Root("variable", begin, None)
    if root is not None and root.place is not None:
        places = [root.place, *places]
    kind = _kind(things, "".join(labels), root, cyclic=way.cyclic)
    prefix = {"cycle": "reference cycle that only gc frees: ", "C++": "held by C++: "}.get(kind, "")
    suffix = "" if len(things) == 1 else f" -> {type_name(things[0])}"
    return Reference(kind, prefix + begin + "".join(labels) + suffix, tuple(places), _bound(things))


def _labels(things: Sequence[Any]) -> tuple[list[str], list[Place]]:
    """What leads from each object to the next, the root's first, and the names among them."""
    labels: list[str] = []
    places: list[Place] = []
    for position in range(len(things) - 1, 0, -1):
        owner = things[position + 1] if position + 1 < len(things) else None
        label, place = _label(things[position], things[position - 1], owner)
        labels.append(label)
        places += [] if place is None else [place]
    return labels, places


def _label(holder: Any, held: Any, owner: Any) -> tuple[str, Place | None]:
    kind = type(holder)
    if kind is types.FrameType or kind in _FRAMES:
        return _of_frame(holder if kind is types.FrameType else getattr(holder, _FRAMES[kind]), held)
    if dict in mro(kind):
        return _of_dict(holder, held, owner)
    if kind is tuple and type(owner) is types.FunctionType and owner.__closure__ is holder:
        return _of_closure(owner, held)
    if kind in (list, tuple, collections.deque):
        return f"[{_index(holder, held)}]", None
    if kind is types.FunctionType:
        return f" -> {holder.__qualname__}", code_place(holder)
    if kind is types.CellType:
        return "", None  # the closure names the variable
    if kind is types.MethodType:
        return f" -> {getattr(holder.__func__, '__name__', 'method')}.__self__", None
    if type(held) is dict and _instance_dict(holder) is held:
        return "", None  # the dict names the attribute
    name = _attribute(holder, held)
    return (f".{name}", _class_place(holder, name)) if name else (f" -> {type_name(holder)}", None)


def _of_frame(frame: types.FrameType | None, held: Any) -> tuple[str, Place | None]:
    if frame is None:
        return "", None
    for name, value in local_variables(frame):
        if value is held or _holds(held, value):
            return f" -> {variable_text(name, value, frame)}", frame_place(name, frame)
    return f" -> loop of {frame_text(frame)}", frame_place("", frame)


def _holds(cell: Any, value: Any) -> bool:
    """Whether this is the cell of a variable that an inner function uses too."""
    try:
        return type(cell) is types.CellType and cell.cell_contents is value
    except ValueError:  # an empty cell
        return False


def _of_dict(holder: dict[Any, Any], held: Any, owner: Any) -> tuple[str, Place | None]:
    if dict.__len__(holder) > _MOST_ITEMS:
        return "[...]", None
    for key, value in list(dict.items(holder)):
        if value is held or key is held:
            if type(key) is str and owner is not None and _instance_dict(owner) is holder:
                return f".{key}", _class_place(owner, key)
            return f"[{key!r}]" if type(key) in _PLAIN else f"[{type_name(key)}]", None
    return "", None


def _index(holder: Any, held: Any) -> str:
    if len(holder) > _MOST_ITEMS:
        return "..."
    return next((str(index) for index, one in enumerate(tuple(holder)) if one is held), "...")


def _of_closure(function: types.FunctionType, cell: Any) -> tuple[str, Place | None]:
    for name, one in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if one is cell:
            return f" closure over '{name}'", code_place(function, name)
    return "", None


def _instance_dict(thing: Any) -> Any:
    """An instance's own namespace, past whatever `__getattr__` or properties its class has."""
    for base in mro(type(thing)):
        descriptor = type.__dict__["__dict__"].__get__(base).get("__dict__")
        if type(descriptor) is types.GetSetDescriptorType:
            return descriptor.__get__(thing)
    return None


def _attribute(holder: Any, held: Any) -> str:
    namespace = _instance_dict(holder)
    if type(namespace) is dict:
        for name, value in list(namespace.items()):
            if value is held and type(name) is str:
                return name
    for base in mro(type(holder)):
        for name, member in list(type.__dict__["__dict__"].__get__(base).items()):
            if type(member) is types.MemberDescriptorType or name in _SAFE_MEMBERS:
                try:
                    if member.__get__(holder) is held:
                        return str(name)
                except Exception:  # noqa: S112 -- an empty slot
                    continue
    return ""


def _class_place(holder: Any, name: str) -> Place | None:
    """The lines of an instance's class, as far as its methods tell."""
    for base in mro(type(holder)):
        functions = [
            one for one in list(type.__dict__["__dict__"].__get__(base).values()) if type(one) is types.FunctionType
        ]
        if functions:
            ranges = [line_range(one.__code__) for one in functions]
            return Place(name, functions[0].__code__.co_filename, min(r[0] for r in ranges), max(r[1] for r in ranges))
    return None


def _kind(things: Sequence[Any], text: str, root: Root | None, *, cyclic: bool) -> str:
    if root is None:
        return "cycle" if cyclic else "C++"
    if any(hook in text for hook in _HOOKS):
        return "hook"
    if any(BaseException in mro(type(one)) or type(one) is types.TracebackType for one in things):
        return "exception"
    if root.kind == "cache" or any(type(one) is LRU_CACHE for one in things):
        return "cache"
    if any(type(one) is types.CellType for one in things):
        return "closure"
    if any(type(one) in _FRAMES for one in things[1:-1]):
        return "generator"
    return "attribute" if root.kind == "variable" and "." in text else root.kind


def _bound(things: Sequence[Any]) -> int | None:
    for one in things:
        if collections.deque in mro(type(one)):
            limit = collections.deque.maxlen.__get__(one)
            if limit is not None:
                return int(limit)
        if type(one) is LRU_CACHE:
            limit = one.cache_parameters()["maxsize"]
            if limit is not None:
                return int(limit)
    return None
