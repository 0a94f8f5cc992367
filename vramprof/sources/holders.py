"""Turns addresses of storages that leaked into who holds them: the path of references to each that is still alive."""

from __future__ import annotations

import gc
import linecache
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from vramprof.recording import Recorder
from vramprof.sources.graph_owners import Key, find_graph_owners
from vramprof.sources.reference_text import describe
from vramprof.sources.references import MOST_TARGETS, Place, Reference, Roots, Walk, Way, mro

BUDGET_S = 2.0
_GONE = Reference("unknown", "no Python object holds it: C++ does (a saved tensor, a pool), or it is gone")
_LATE = Reference("unknown", "not found within the time allowed")
_MOST_VIEWS = 4
_T = TypeVar("_T")
_CALLS = "append|appendleft|add|extend|insert|update|put|put_nowait|push|setdefault|register_hook|setattr"


@dataclass(frozen=True)
class Holder:
    """Who holds one storage. `filename`, `line` and `code` are where the program puts it there, "" and 0 if unknown."""

    device: int
    address: int
    kind: str
    path: str
    filename: str
    line: int
    code: str
    bound: int


def find_holders(storages: Iterable[Key], *, budget_s: float = BUDGET_S) -> list[Holder]:
    """Who holds these storages, each given as (device index, address).

    Runs no code of the user's and keeps no reference. What is not found within `budget_s` seconds is said to be so.
    """
    deadline = time.monotonic() + budget_s
    wanted = list(dict.fromkeys(storages))
    if not wanted:
        return []
    references = _Search(wanted, deadline).references()
    return [_holder(key, references.get(key, _GONE)) for key in wanted]


def record_holders(recorder: Recorder, storages: Iterable[Key], *, budget_s: float = BUDGET_S) -> None:
    """Write one row of the table "holders" for each storage; a failure of ours becomes a gap."""
    try:
        for holder in find_holders(storages, budget_s=budget_s):
            recorder.add("holders", *vars(holder).values())
    except Exception as error:  # objects of the user's may do anything; the program goes on
        recorder.gap("holders", f"who holds what leaked was not found: {type(error).__name__}: {error}")


def _holder(key: Key, reference: Reference) -> Holder:
    outermost = reference.kind in ("exception", "generator")
    filename, line, code = _where_kept(reference.places if outermost else reference.places[::-1])
    bound = -1 if reference.bound is None else reference.bound
    return Holder(*key, reference.kind, reference.text, filename, line, code, bound)


class _Search:
    """One walk over the objects of this process; everything found is dropped with it."""

    def __init__(self, wanted: list[Key], deadline: float) -> None:
        self._wanted = wanted
        self._deadline = deadline
        self._tensors, self._with_history = _alive(set(wanted))
        self._roots = Roots()

    def references(self) -> dict[Key, Reference]:
        """The best path to each storage: one of Python's, then one through autograd's graph."""
        try:
            ways = self._ways_to_storages()
            rooted = {key: describe(way) for key, way in ways.items() if way is not None and way.root is not None}
            left = [key for key in self._wanted if key not in rooted]
            return {**self._rest(left, ways), **rooted}
        finally:
            self._tensors.clear()
            self._with_history.clear()

    def _ways_to_storages(self) -> dict[Key, Way | None]:
        """Of each storage the best way to one of its tensors: views have a way of their own."""
        tensors = {
            (*key, place): tensor
            for place in range(_MOST_VIEWS)
            for key in self._wanted
            for tensor in self._tensors.get(key, ())[place : place + 1]
        }
        best: dict[Key, Way | None] = {}
        for (device, address, _), way in self._ways(tensors).items():
            key = (device, address)
            if best.get(key) is None or (way is not None and _rank(way) > _rank(best[key])):
                best[key] = way
        return best

    def _ways(self, targets: dict[_T, Any]) -> dict[_T, Way | None]:
        """Of each target its way, or None if time did not allow it."""
        keys = list(targets)[:MOST_TARGETS]
        things = [targets[key] for key in keys]
        ours = {id(targets), id(self._tensors), id(self._with_history), *map(id, self._tensors.values())}
        found = Walk(things, self._roots, ours=ours, deadline=self._deadline).ways()
        things.clear()
        return {key: found.get(position) for position, key in enumerate(keys)}

    def _rest(self, left: list[Key], ways: dict[Key, Way | None]) -> dict[Key, Reference]:
        """What Python does not reach may be part of the history of a tensor that it does."""
        nodes = {id(thing): key for key in left if (way := ways.get(key)) is not None for thing in way.things}
        owners, node_owners = find_graph_owners(
            set(left), set(nodes), reversed(self._with_history), storage_key, deadline=self._deadline
        )
        for node, owner in node_owners.items():
            owners.setdefault(nodes[node], owner)
        unique = {(-1, id(owner)): owner for owner in owners.values()}
        owner_ways = self._ways(unique)
        found: dict[Key, Reference] = {}
        for key in left:
            way = owner_ways.get((-1, id(owners[key]))) if key in owners else None
            own = ways.get(key)
            if way is not None and (way.root is not None or own is None):
                outer = describe(way)
                found[key] = replace(outer, kind="graph", text=f"{outer.text} -> grad_fn -> saved tensor")
            elif own is not None:
                found[key] = describe(own)
            elif key in ways or key in owners:
                found[key] = _LATE
        owners.clear()
        unique.clear()
        return found


def _rank(way: Way | None) -> tuple[bool, int]:
    return (False, -1) if way is None else (way.root is not None, len(way.things))


def _alive(wanted: set[Key]) -> tuple[dict[Key, list[Any]], list[Any]]:
    """The tensors of these storages, and every tensor with a history."""
    import torch

    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if torch.Tensor in mro(kind) or kind is torch.UntypedStorage}
    by_storage: dict[Key, list[Any]] = {}
    with_history: list[Any] = []
    with torch._C.DisableTorchFunctionSubclass():
        for tensor in [thing for thing in objects if type(thing) in kinds]:
            key = storage_key(tensor)
            if key in wanted:
                same = by_storage.setdefault(key, [])
                if type(tensor) is not torch.UntypedStorage:
                    same[:] = [one for one in same if type(one) is not torch.UntypedStorage]
                if not same or type(tensor) is not torch.UntypedStorage:
                    same.append(tensor)
            if getattr(tensor, "grad_fn", None) is not None:
                with_history.append(tensor)
    objects.clear()
    return by_storage, with_history


def storage_key(tensor: Any) -> Key | None:
    """(device index, address) of a CUDA tensor's or storage's memory."""
    import torch

    try:
        if type(tensor) is torch.UntypedStorage:
            storage = tensor
        elif torch.Tensor in mro(type(tensor)):
            storage = torch._C.TensorBase.untyped_storage(tensor)
        else:
            return None
        return (storage.device.index, storage.data_ptr()) if storage.device.type == "cuda" else None
    except (RuntimeError, NotImplementedError, TypeError):  # no storage: meta, sparse, functional wrappers
        return None


def _where_kept(places: tuple[Place, ...]) -> tuple[str, int, str]:
    """The line by which the first name that has one keeps its tensors, by the words of the source."""
    for place in places:
        for line, code in _lines_that_keep(place):
            return place.filename, line, code
    return "", 0, ""


def _lines_that_keep(place: Place) -> Iterator[tuple[int, str]]:
    if not place.name or not place.filename:
        return
    name = re.escape(place.name)
    subject = rf"\b{name}\b(?:\s*\[[^\]]*\])*"
    forms = (
        rf"{subject}\s*\.(?:{_CALLS})\s*\(",  # losses.append(loss)
        rf"{subject}\s*[-+*/|&]=",  # total += loss
        rf"\b{name}\b\s*\[[^\]]*\]\s*=[^=]",  # cache[key] = mask
        rf"\b{name}\b[^=]*=[^=].*\b{name}\b",  # total = total + loss
        rf"\b{name}\b\s*(?::[^=]*)?=\s*(?!\[\]|\{{\}}|None|0|deque)[^=]",  # kept = error
    )
    lines = linecache.getlines(place.filename)[place.first_line - 1 : place.last_line]
    for form in forms:
        for offset, text in enumerate(lines):
            if re.search(form, text) and not text.lstrip().startswith(("#", "def ", "class ")):
                yield place.first_line + offset, text.strip()
