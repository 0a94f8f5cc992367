"""Turns two allocator histories into what they have in common and every place where they part."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, NamedTuple


class Event(NamedTuple):
    """An event of torch's allocator, without what differs from run to run: addresses and times."""

    action: str
    size: int
    """Requested bytes; of a segment, its whole size."""
    stream: int
    """0 is the first stream that was seen, and so on."""


@dataclass(frozen=True)
class History:
    """What happened on one device, in order."""

    events: tuple[Event, ...]
    places: tuple[tuple[int, int] | None, ...]
    """For each event: in which segment, in the order of their making, and how far into it."""
    reserved_bytes: int
    """When the snapshot was taken."""

    def sizes(self, action: str) -> Counter[int]:
        return Counter(event.size for event in self.events if event.action == action)


@dataclass(frozen=True)
class Difference:
    """Where the histories part: the numbers of the events, and those that the other side doesn't have."""

    at: tuple[int, int]
    real: tuple[Event, ...]
    emulated: tuple[Event, ...]


@dataclass(frozen=True)
class Alignment:
    """Two histories side by side."""

    real: History
    emulated: History
    differences: tuple[Difference, ...]
    common: int
    """Events that are on both sides, in the same order."""
    moved: int
    """Of those, blocks that lie elsewhere: in another segment or at another offset."""

    def only_real(self) -> Counter[Event]:
        return Counter(event for difference in self.differences for event in difference.real)

    def only_emulated(self) -> Counter[Event]:
        return Counter(event for difference in self.differences for event in difference.emulated)


def read_histories(snapshot: dict[str, Any]) -> list[History]:
    """One per device of `torch.cuda.memory._snapshot()`."""
    reserved: Counter[int] = Counter()
    for segment in snapshot["segments"]:
        reserved[segment["device"]] += segment["total_size"]
    return [read_history(trace, reserved[device]) for device, trace in enumerate(snapshot["device_traces"])]


def read_history(trace: Iterable[dict[str, Any]], reserved_bytes: int) -> History:
    steps, streams, segments = [], {}, Segments()
    for entry in trace:
        if entry["action"] == "snapshot":
            continue
        stream = streams.setdefault(entry["stream"], len(streams))
        segments.note(entry)
        place = segments.place(entry["addr"]) if entry["action"] == "alloc" else None
        steps.append((Event(entry["action"], entry["size"], stream), place))
    ordered = list(in_order(steps))
    return History(tuple(event for event, _ in ordered), tuple(place for _, place in ordered), reserved_bytes)


Step = tuple[Event, "tuple[int, int] | None"]


def in_order(steps: Iterable[Step]) -> Iterator[Step]:
    """Frees with no allocation between them, by size: autocast drops its cached weights in the order of their
    addresses, which is another one in every run, and leaves the same gaps."""
    for are_frees, group in itertools.groupby(steps, key=lambda step: step[0].action.startswith("free_")):
        run = list(group)
        if are_frees:
            run.sort(key=lambda step: (step[0].stream, step[0].size, step[0].action == "free_completed"))
        yield from run


class Segments:
    """Which address is in which segment. Mapped pages that touch are of one expandable segment."""

    def __init__(self) -> None:
        self.ranges: dict[int, tuple[int, int, int]] = {}
        """By begin: end, number, address of the segment's first byte."""
        self.made = 0

    def note(self, entry: dict[str, Any]) -> None:
        begin, end = entry["addr"], entry["addr"] + entry["size"]
        if entry["action"] == "segment_alloc":
            self.add(begin, end, self.made, begin)
        elif entry["action"] == "segment_map":
            before = next((known for known in self.ranges.values() if known[0] == begin), None)
            self.add(begin, end, before[1] if before else self.made, before[2] if before else begin)
        elif entry["action"] in ("segment_free", "segment_unmap"):
            self.ranges.pop(begin, None)

    def add(self, begin: int, end: int, number: int, first: int) -> None:
        self.made += number == self.made
        self.ranges[begin] = end, number, first

    def place(self, address: int) -> tuple[int, int] | None:
        for begin, (end, number, first) in self.ranges.items():
            if begin <= address < end:
                return number, address - first
        return None


def align(real: History, emulated: History) -> Alignment:
    """The longest runs in common, found as diff does."""
    head = common_prefix(real.events, emulated.events)
    left, right = real.events[head:], emulated.events[head:]
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    differences = tuple(
        Difference((head + i, head + j), left[i:i_end], right[j:j_end])
        for tag, i, i_end, j, j_end in matcher.get_opcodes()
        if tag != "equal"
    )
    blocks = [(0, 0, head), *((head + i, head + j, size) for i, j, size in matcher.get_matching_blocks())]
    return Alignment(
        real,
        emulated,
        differences,
        common=sum(size for _, _, size in blocks),
        moved=sum(real.places[i + k] != emulated.places[j + k] for i, j, size in blocks for k in range(size)),
    )


def common_prefix(left: Sequence[Event], right: Sequence[Event]) -> int:
    """Most of two histories is the same, and this far it is found in one go."""
    for count, (ours, theirs) in enumerate(zip(left, right, strict=False)):
        if ours != theirs:
            return count
    return min(len(left), len(right))
