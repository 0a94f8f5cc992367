"""Allocator events of a real GPU beside those of our dry run: how many are the same, in the same order."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import SequenceMatcher
from pathlib import Path

Event = tuple[str, int]


@dataclass(frozen=True)
class Alignment:
    """Of one snapshot. An event is its action and its size; addresses and times are the machine's own."""

    source: str
    key: str
    torch_used: str
    measured_count: int
    predicted_count: int
    equal_in_order_count: int
    equal_in_any_order_count: int
    where: str = ""
    """The functions at which the two differ, with the number of events, as `name=count` joined by semicolons."""

    @property
    def equal_in_order_ratio(self) -> float:
        """Of the longer of the two sequences."""
        return self.equal_in_order_count / max(self.measured_count, self.predicted_count)


def align(measured: Sequence[Event], predicted: Sequence[Event], places: Sequence[str]) -> tuple[int, Counter[str]]:
    """How many events are equal in order, and how many of either side are not, by the place of the measured one.

    `places` says for each measured event where in the program it happened.
    """
    matcher = SequenceMatcher(None, measured, predicted, autojunk=False)
    where: Counter[str] = Counter()
    equal = 0
    for kind, begin, end, first, last in matcher.get_opcodes():
        if kind == "equal":
            equal += end - begin
        else:
            where[places[min(begin, len(places) - 1)]] += max(end - begin, last - first)
    return equal, where


def peaks(events: Iterable[Event]) -> dict[str, int]:
    """Peak of the bytes asked for and of the bytes in segments, replayed from nothing."""
    signs = {"alloc": ("allocated", 1), "free_completed": ("allocated", -1)}
    signs |= {"segment_alloc": ("reserved", 1), "segment_free": ("reserved", -1)}
    now, peak = Counter[str](), {"allocated": 0, "reserved": 0}
    for action, size in events:
        if action in signs:
            quantity, sign = signs[action]
            now[quantity] += sign * size
            peak[quantity] = max(peak[quantity], now[quantity])
    return peak


def write_alignments(path: Path, alignments: Iterable[Alignment]) -> None:
    """One line each."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Alignment)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) for one in sorted(alignments, key=lambda one: (one.source, one.key)))


def read_alignments(path: Path) -> list[Alignment]:
    """What `write_alignments` wrote; nothing where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    texts = ("source", "key", "torch_used", "where")
    return [Alignment(**{name: text if name in texts else int(text) for name, text in line.items()}) for line in lines]
