"""Turns the peak into what flame-graph tools read: folded stacks, and a pprof profile."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator

import numpy as np

from vramprof.analyses.attribution import CATEGORIES
from vramprof.findings import DeviceFacts, Facts
from vramprof.recording import Frame


def render_folded(facts: Facts) -> str:
    """One line per stack, the outermost frame first, under its device and above its category, then its bytes."""
    lines: dict[str, int] = {}
    for device in facts.devices:
        for stack, category, _, size, _ in _alive(device):
            frames = [f"{frame.name} ({frame.filename}:{frame.line})" for frame in facts.recording.stacks.get(stack)]
            line = ";".join(_plain(part) for part in (_root(facts, device), *reversed(frames), CATEGORIES[category]))
            lines[line] = lines.get(line, 0) + size
    return "".join(f"{line} {size}\n" for line, size in lines.items())


def _root(facts: Facts, device: DeviceFacts) -> str:
    return f"{'EMULATED ' if facts.recording.emulated else ''}GPU {device.index} {device.name}".strip()


def _plain(text: str) -> str:
    return " ".join(text.replace(";", ",").split())


def _alive(device: DeviceFacts) -> Iterator[tuple[int, int, str, int, int]]:
    """What is alive at the peak as (stack, category, module, bytes, blocks)."""
    totals: dict[tuple[int, int, str], list[int]] = {}
    for index in np.flatnonzero(device.allocations.alive(device.peak.index - 1)).tolist():
        attribution = device.attribution
        key = (int(attribution.stack[index]), int(attribution.category[index]), str(attribution.module[index]))
        total = totals.setdefault(key, [0, 0])
        total[0] += int(device.allocations.size_bytes[index])
        total[1] += 1
    for (stack, category, module), (size, count) in totals.items():
        yield stack, category, module, size, count


def render_pprof(facts: Facts) -> bytes:
    """The peak as a gzipped profile.proto (github.com/google/pprof/blob/main/proto/profile.proto).

    Sample values are inuse_objects and inuse_space, as Go's heap profiles have them; labels are device, category and
    module.
    """
    writer = _Profile()
    for device in facts.devices:
        for stack, category, module, size, count in _alive(device):
            labels = {"device": _root(facts, device), "category": CATEGORIES[category], "module": module}
            writer.sample(facts.recording.stacks.get(stack), (count, size), labels)
    comments = ["EMULATED: no GPU was used; torch's allocator ran on an emulated device"] * facts.recording.emulated
    return gzip.compress(writer.finish((("inuse_objects", "count"), ("inuse_space", "bytes")), comments), mtime=0)


class _Profile:
    """A profile.proto as it grows: strings, functions and locations are stored once."""

    def __init__(self) -> None:
        self._strings: dict[str, int] = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._locations: dict[Frame, int] = {}
        self._samples: list[bytes] = []

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))

    def _location(self, frame: Frame) -> int:
        self._functions.setdefault((frame.name, frame.filename), len(self._functions) + 1)
        return self._locations.setdefault(frame, len(self._locations) + 1)

    def sample(self, frames: Iterable[Frame], values: Iterable[int], labels: dict[str, str]) -> None:
        body = _packed(1, (self._location(frame) for frame in frames)) + _packed(2, values)
        for key, text in labels.items():
            body += _message(3, _number(1, self._string(key)) + _number(2, self._string(text)))
        self._samples.append(_message(2, body))

    def finish(self, types: Iterable[tuple[str, str]], comments: Iterable[str]) -> bytes:
        body = b""
        for name, unit in types:
            body += _message(1, _number(1, self._string(name)) + _number(2, self._string(unit)))
        body += b"".join(self._samples)
        for frame, number in self._locations.items():
            line = _number(1, self._functions[frame.name, frame.filename]) + _number(2, max(frame.line, 0))
            body += _message(4, _number(1, number) + _message(4, line))
        for (name, filename), number in self._functions.items():
            told = _number(1, number) + _number(2, self._string(name)) + _number(4, self._string(filename))
            body += _message(5, told)
        body += b"".join(_number(13, self._string(comment)) for comment in comments)
        body += _number(14, self._string("inuse_space"))
        return body + b"".join(_message(6, text.encode("utf-8", "replace")) for text in self._strings)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _packed(field: int, values: Iterable[int]) -> bytes:
    return _message(field, b"".join(map(_varint, values)))
