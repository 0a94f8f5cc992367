"""Turns the runs of one card, real and emulated, into a page of Markdown that shows every difference."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from card_check.history import Alignment, Difference, Event

FIRST_PLACES = 10
MOST_SIZES = 20
CUBLAS_WORKSPACES = {  # torch's defaults, in aten/src/ATen/cuda/CublasHandlePool.cpp
    8_519_680: "the cuBLAS workspace of compute capabilities below 9.0",
    33_554_432: "the cuBLAS workspace from compute capability 9.0 on",
}
LEGEND = """
Each program ran in processes of its own, with the same torch: twice on the real card and once on the emulated one. An
event is one of torch's caching allocator: its action, its requested size (of a segment: its whole size) and its stream,
in order. "real again" counts the places where the second real run parts from the first: what differs between two real
runs can't be foretold. "in common" are events on both sides in the same order, frees in a row in any; "moved" are
allocations among them that lie in another segment or at another offset of it. "outside torch" is what NVML says of the
process (of the whole card, where NVML can't name the process), less what torch's allocator has reserved, at the end of
a program: context, modules, libraries. Figures of the emulated side are predictions.
"""
HEAD = (
    "| program | verdict | real again | events real | emulated | in common | moved | peak allocated MiB | difference | "
    "peak reserved MiB | difference | outside torch MiB | difference |\n"
    "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Compared:
    """One program on both sides. Without alignments one of them did not run."""

    name: str
    real: dict[str, Any]
    emulated: dict[str, Any]
    devices: tuple[Alignment, ...]
    again: str
    """How a second real run compares with the first."""

    def difference(self, key: str) -> int:
        return int(self.emulated[key] - self.real[key])

    def both_ran(self) -> bool:
        return self.real["outcome"] == self.emulated["outcome"] == "ran"

    def verdict(self) -> str:
        if not self.both_ran():
            return f"real {self.real['outcome']}, emulated {self.emulated['outcome']}"
        if parted(self.devices):
            return f"differs in {counted(parted(self.devices), 'place')}"
        if any(device.moved for device in self.devices):
            return "same events, other addresses"
        figures = ("peak_allocated_bytes", "peak_reserved_bytes", "outside_torch_bytes")
        return "same events, other figures" if any(map(self.difference, figures)) else "same"


def parted(devices: Iterable[Alignment]) -> int:
    return sum(len(device.differences) for device in devices)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.2f}"


def signed(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:+.2f}" if size_bytes else "0"


def table(compared: list[Compared]) -> str:
    return "\n".join([HEAD, *map(row, compared)])


def row(program: Compared) -> str:
    cells = [f"`{program.name}`", program.verdict(), program.again]
    if program.both_ran():
        for count in (
            sum(len(device.real.events) for device in program.devices),
            sum(len(device.emulated.events) for device in program.devices),
            sum(device.common for device in program.devices),
            sum(device.moved for device in program.devices),
        ):
            cells.append(str(count))
        for key in ("peak_allocated_bytes", "peak_reserved_bytes", "outside_torch_bytes"):
            cells += [mib(program.real[key]), signed(program.difference(key))]
    return f"| {' | '.join(cells)} |"


def details(program: Compared) -> str:
    lines = [f"### {program.name}: {program.verdict()}", ""]
    for side, result in (("real", program.real), ("emulated", program.emulated)):
        if result["outcome"] != "ran":
            lines.append(f"- {side}: {result['outcome']}: {result['reason'].strip().splitlines()[-1][:300]}")
    for number, device in enumerate(program.devices):
        if device.differences or device.moved:
            lines += device_details(number, device)
    return "\n".join(lines)


def device_details(number: int, device: Alignment) -> Iterable[str]:
    yield f"Device {number}: {counted(len(device.differences), 'place')}, {counted(device.moved, 'moved block')}."
    yield from ("", "| action | size | only real | only emulated | |", "|---|---:|---:|---:|---|")
    yield from sizes(device.only_real(), device.only_emulated())
    segments = device.emulated.sizes("segment_alloc"), device.real.sizes("segment_alloc")
    if segments[0] != segments[1]:
        missing, added = segments[1] - segments[0], segments[0] - segments[1]
        yield ""
        yield f"Segments: the emulated device lacks {listed(missing)} and has {listed(added)} more."
    if device.differences:
        yield from ("", "First places:", "")
        yield from (place(difference) for difference in device.differences[:FIRST_PLACES])
    yield ""


def sizes(real: Counter[Event], emulated: Counter[Event]) -> Iterable[str]:
    """Sizes that one side has more often, the largest first; what differs in order alone is one line."""
    missing, added = by_size(real) - by_size(emulated), by_size(emulated) - by_size(real)
    both = sorted(missing.keys() | added.keys(), key=lambda kind: (-kind[1], kind[0]))
    for action, size in both[:MOST_SIZES]:
        kind = (action, size)
        yield f"| {action} | {size} | {missing[kind]} | {added[kind]} | {CUBLAS_WORKSPACES.get(size, '')} |"
    if len(both) > MOST_SIZES:
        yield f"| | | | | and {len(both) - MOST_SIZES} more sizes |"
    reordered = (by_size(real) & by_size(emulated)).total()
    if reordered:
        yield f"| | | {reordered} | {reordered} | on both sides, in another order or on another stream |"


def by_size(events: Counter[Event]) -> Counter[tuple[str, int]]:
    count: Counter[tuple[str, int]] = Counter()
    for event, number in events.items():
        count[event.action, event.size] += number
    return count


def listed(segments: Counter[int]) -> str:
    return ", ".join(f"{count} of {mib(size)} MiB" for size, count in sorted(segments.items())) or "none"


def place(difference: Difference) -> str:
    real, emulated = difference.at
    return f"- event {real} / {emulated}: real {told(difference.real)}; emulated {told(difference.emulated)}"


def told(events: tuple[Event, ...]) -> str:
    """Repetitions in a row as one; no more than four kinds."""
    runs = [(event, len(list(group))) for event, group in itertools.groupby(events)]
    texts = [f"{count} x {write(event)}" if count > 1 else write(event) for event, count in runs[:4]]
    more = [f"{counted(len(runs) - 4, 'more kind')}"] if len(runs) > 4 else []
    return ", ".join(texts + more) or "nothing"


def write(event: Event) -> str:
    stream = f" on stream {event.stream}" if event.stream else ""
    return f"{event.action} {event.size}{stream}"


def card_table(fields: dict[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in fields.items()]
    return "\n".join(["| what | this card |", "|---|---|", *rows])


def page(title: str, about: str, fields: dict[str, Any], compared: list[Compared]) -> str:
    same = sum(program.verdict() == "same" for program in compared)
    different = [program for program in compared if program.verdict() != "same"]
    sections = [
        f"# {title}\n\nWritten by `scripts/gpu_check`. {about}\n{LEGEND}",
        card_table(fields),
        f"## {same} of {len(compared)} programs are the same\n\n{table(compared)}",
        *(["## Where they part", *map(details, different)] if different else []),
    ]
    return "\n\n".join(sections) + "\n"
