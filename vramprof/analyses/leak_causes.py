"""Turns leaking lines and their holders into causes: everything that one list, graph or cycle keeps is one leak."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from vramprof.analyses.leaks import Growth, Leaks
from vramprof.recording import Frame, Recording

_UNKNOWN = "unknown"
_TOGETHER = 3
"""So many lines whose tensors stay in the same steps are one cause where no holder is known."""


@dataclass(frozen=True)
class Keeper:
    """Who holds it: the kind and path of `sources/holders.py`, and the line that keeps it, "" where unknown."""

    kind: str
    path: str
    filename: str
    line: int
    code: str
    bound: int


@dataclass(frozen=True)
class LeakCause:
    """One leak. `keeper` is None where nobody was asked: a snapshot, or a program that has ended."""

    growths: tuple[Growth, ...]
    keeper: Keeper | None
    bounded_at_bytes: int | None = None

    @property
    def bytes_per_step(self) -> float:
        """The sum over its lines."""
        return sum(growth.trend.slope for growth in self.growths)

    @property
    def interval(self) -> tuple[float, float]:
        """The sum of the 95 % intervals: as wide as if all errors went one way."""
        return sum(g.trend.low for g in self.growths), sum(g.trend.high for g in self.growths)

    @property
    def alive_bytes(self) -> int:
        """What it holds at the end of the steps looked at."""
        return sum(growth.alive_bytes for growth in self.growths)

    @property
    def line(self) -> Frame | None:
        """The line to look at: the one that keeps a graph, else the one that allocates most, or the one that keeps."""
        keeps = None
        if self.keeper is not None and self.keeper.line:
            keeps = Frame(self.keeper.filename, self.keeper.line, self.keeper.code)
        allocates = next((growth.line for growth in self.growths if growth.line is not None), None)
        if keeps is not None and (allocates is None or self.keeper is None or self.keeper.kind == "graph"):
            return keeps
        return allocates


def find_leak_causes(recording: Recording, device: int, leaks: Leaks) -> tuple[LeakCause, ...]:
    """The causes of one device's leaks, the fastest first."""
    holders = recording.holders[recording.holders["device"] == device]
    by_address = {int(row["address"]): _keeper(row) for row in holders.to_dict("records")}
    grouped: dict[tuple[object, ...], tuple[list[Growth], Keeper | None]] = {}
    keepers = [(growth, _commonest(growth, by_address)) for growth in leaks.leaking]
    together = Counter(growth.births for growth, keeper in keepers if keeper is None)
    for growth, keeper in keepers:
        key = _key(growth, keeper, together)
        grouped.setdefault(key, ([], keeper))[0].append(growth)
    found = [_cause(growths, keeper) for growths, keeper in grouped.values()]
    return tuple(sorted(found, key=lambda cause: -cause.bytes_per_step))


def _keeper(row: Mapping[Hashable, Any]) -> Keeper:
    return Keeper(row["kind"], row["path"], row["filename"], int(row["line"]), row["code"], int(row["bound"]))


def _commonest(growth: Growth, by_address: Mapping[int, Keeper]) -> Keeper | None:
    """The keeper of most of a line's tensors; one that was not found counts only where no other was."""
    addresses = dict.fromkeys((*growth.addresses, *growth.held))
    asked = [by_address[address] for address in addresses if address in by_address]
    known = [keeper for keeper in asked if keeper.kind != _UNKNOWN] or asked
    if not known:
        return None
    counts = Counter(_place(keeper) for keeper in known)
    most = counts.most_common(1)[0][0]
    return next(keeper for keeper in known if _place(keeper) == most)


def _place(keeper: Keeper) -> str:
    """The path without positions and keys, up to where it enters a tensor."""
    path = keeper.path.removesuffix(" -> grad_fn -> saved tensor")
    path = re.sub(r" -> (Tensor|Parameter)$", "", path)
    return re.sub(r"\d+", "#", re.sub(r"\[[^\]]*\]", "", path))


def _key(growth: Growth, keeper: Keeper | None, together: Mapping[tuple[int, ...], int]) -> tuple[object, ...]:
    if keeper is not None and keeper.kind not in (_UNKNOWN, "C++"):
        return ("keeper", _place(keeper))
    if keeper is not None:
        return ("unheld", growth.births)
    if together[growth.births] >= _TOGETHER:
        return ("together", growth.births)
    return ("line", growth.line)


def _cause(growths: list[Growth], keeper: Keeper | None) -> LeakCause:
    bounded = None
    if keeper is not None and keeper.bound >= 0:
        bounded = sum(keeper.bound * growth.alive_bytes // max(growth.alive_count, 1) for growth in growths)
    return LeakCause(tuple(sorted(growths, key=lambda one: -one.trend.slope)), keeper, bounded)
