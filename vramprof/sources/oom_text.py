"""Turns a log, of any size, into the out-of-memory errors that torch wrote into it, in every wording since torch 0.4.

What the words mean (c10/cuda/CUDACachingAllocator.cpp): "Tried to allocate" is the size of the segment that torch asked
the driver for, not the tensor's; "allocated by PyTorch" includes the free cached blocks of private pools, which are
what "allocated in private pools" counts; so reserved is "allocated" plus "reserved but unallocated". Sizes are printed
with two decimals of their unit, so a figure is right to within half a hundredth of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from vramprof.recording import Frame
from vramprof.sources.log_frames import find_frames, plain_text

CHUNK_BYTES = 4 << 20
_BEFORE_BYTES = 64 << 10
_AFTER_BYTES = 8 << 10
_LINE_BYTES = 4 << 10
_MOST_TEXT = 3000

_UNITS = {"bytes": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = r"([0-9]+(?:\.[0-9]+)?) ?(bytes|KiB|MiB|GiB|TiB|B)\b"


@dataclass(frozen=True)
class OomText:
    """One error as printed; None where it does not say. `count` is how often the log repeats it in a row.

    `kind` is "allocator" (torch's caching allocator), "async" (cudaMallocAsync), "rejected" (turned down before the
    driver was asked), "driver" (cudaErrorMemoryAllocation outside the allocator) or "host". `allocated_bytes` is as
    printed: with `private_pool_bytes`, which are free. `line` counts from 1, `frames` are innermost first.
    """

    kind: str
    backend: str
    line: int
    text: str
    rank: int | None = None
    tried_bytes: int | None = None
    device: int | None = None
    capacity_bytes: int | None = None
    free_bytes: int | None = None
    allowed_bytes: int | None = None
    process_bytes: int | None = None
    processes: tuple[tuple[int, int], ...] = ()
    allocated_bytes: int | None = None
    private_pool_bytes: int | None = None
    reserved_bytes: int | None = None
    torch: str = ""
    frames: tuple[Frame, ...] = ()
    count: int = 1

    @property
    def unallocated_bytes(self) -> int | None:
        """What torch holds and has not handed out, free blocks of private pools left out, as newer torch prints it."""
        if self.reserved_bytes is None or self.allocated_bytes is None:
            return None
        return self.reserved_bytes - self.allocated_bytes

    @property
    def own_process(self) -> tuple[int, bool] | None:
        """This process's bytes in NVML, and whether the text says that they are its own.

        In a container torch cannot tell its own line from others'; it is then the smallest that can hold what torch
        reserved.
        """
        if self.process_bytes is not None:
            return self.process_bytes, True
        fitting = [size for _, size in self.processes if size + SLACK_BYTES >= (self.reserved_bytes or 0)]
        return (min(fitting), False) if fitting and self.reserved_bytes else None

    @property
    def other_processes(self) -> tuple[tuple[int, int], ...]:
        """The processes named that are not this one."""
        own = self.own_process
        if own is None or own[1]:
            return self.processes
        rest = list(self.processes)
        rest.remove(next(row for row in rest if row[1] == own[0]))
        return tuple(rest)


SLACK_BYTES = 16 << 20
"""Two printed figures of GiB, added, are off by up to 10 MiB."""

_NEEDLES = (
    b"Tried to allocate", b"error: out of memory", b"Allocation on device", b"preemptively rejected",
    b"you tried to allocate",
)  # fmt: skip

_FIELDS = {
    "device": r"\bGPU (\d+)",
    "capacity_bytes": rf"(?:total capac[i]?ty of {_SIZE}|{_SIZE} total capacity)",
    "free_bytes": rf"(?:of which {_SIZE} is free|already allocated; {_SIZE} free\b)",
    "allowed_bytes": rf"{_SIZE} allowed",
    "process_bytes": rf"this process has {_SIZE} memory in use",
    "allocated_bytes": rf"(?:Of the allocated memory {_SIZE} is allocated|{_SIZE} already allocated)",
    "private_pool_bytes": rf"with {_SIZE} allocated in private pools",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _FIELDS.items()}
_TRIED = re.compile(rf"Tried to allocate {_SIZE}")
_PROCESS = re.compile(rf"\bProcess (\d+) has {_SIZE} memory in use")
_UNALLOCATED = re.compile(rf"and {_SIZE} is reserved by PyTorch but unallocated")
_RESERVED = re.compile(rf"{_SIZE} (?:reserved in total by PyTorch|cached)")
_RANK = re.compile(r"\[(?:rank|default)(\d+)\]|\[\d+,(\d+)\]<std|\brank[ =:](\d+)\b", re.IGNORECASE)
_HOST = re.compile(r"[Yy]ou tried to allocate (\d+) bytes")
_REJECTED = re.compile(rf"Requested size: {_SIZE}|(\d+) bytes")
_ASYNC = {
    "allocated_bytes": "Currently allocated *:",
    "tried_bytes": "Requested *:",
    "capacity_bytes": "Device limit *:",
}


def find_ooms(stream: BinaryIO) -> Iterator[OomText]:
    """Every out-of-memory error in a log, in constant memory; one that is repeated at once is given once."""
    last: OomText | None = None
    for oom in _each(stream):
        if last is not None and _same(last, oom):
            last = replace(last, count=last.count + 1, frames=last.frames or oom.frames)
            continue
        if last is not None:
            yield last
        last = oom
    if last is not None:
        yield last


def _same(a: OomText, b: OomText) -> bool:
    """Chained tracebacks and loggers print an error twice; a later line may say less of it."""
    return (a.kind, a.rank, a.device, a.text) == (b.kind, b.rank, b.device, b.text)


def _each(stream: BinaryIO) -> Iterator[OomText]:
    """Windows of the log that overlap, so that no error and no traceback falls between two."""
    held, base_line, searched = b"", 1, 0
    while True:
        chunk = stream.read(CHUNK_BYTES)
        held += chunk
        limit = len(held) - (_AFTER_BYTES if chunk else 0)
        for begin, end in _hits(held, searched, limit):
            oom = _parse(held[max(begin - _BEFORE_BYTES, 0) : begin], held[begin:end])
            if oom is not None:
                yield replace(oom, line=base_line + held.count(b"\n", 0, begin))
        if not chunk:
            return
        searched = max(limit, searched)
        drop = max(searched - _BEFORE_BYTES, 0)
        base_line += held.count(b"\n", 0, drop)
        held, searched = held[drop:], searched - drop


def _hits(held: bytes, begin: int, limit: int) -> list[tuple[int, int]]:
    """Where an error begins and where the next one does, among those that begin before `limit`."""
    starts = sorted(start for needle in _NEEDLES for start in _finds(held, needle, begin))
    ends = [*starts, len(held)][1:]
    return [(a, min(b, a + _AFTER_BYTES)) for a, b in zip(starts, ends, strict=True) if a < limit]


def _finds(held: bytes, needle: bytes, begin: int) -> Iterator[int]:
    """Where the needle stands; far faster than a pattern of all of them."""
    start = held.find(needle, begin)
    while start >= 0:
        yield start
        start = held.find(needle, start + 1)


def _parse(before: bytes, after: bytes) -> OomText | None:
    head, ranked = plain_text(before), plain_text(after, keep_prefixes=True)
    text = " ".join(plain_text(after).split())[:_MOST_TEXT]
    kind, backend = _kind(head, text)
    if kind is None:
        return None
    base = OomText(
        kind=kind,
        backend=backend,
        line=0,
        text="",
        rank=_rank(plain_text(before[-_LINE_BYTES:], keep_prefixes=True), ranked),
    )
    base = replace(base, frames=find_frames(head))
    if kind == "allocator":
        return _allocator(base, text)
    return replace(base, text=text[:200], **_other_figures(kind, text))


def _kind(head: str, text: str) -> tuple[str | None, str]:
    words = head[-60:]
    if text.startswith("Tried to allocate"):
        if not _TRIED.match(text):
            return None, ""
        match = re.search(r"(\w+)(?: backend)? out of memory[^\n]*\s*$", head[-400:])
        return "allocator", match[1] if match else "CUDA"
    if "you tried to allocate" in text[:30].lower():
        return "host", "CPU"
    if text.startswith("error: out of memory"):
        match = re.search(r"(\w+) $", words)
        return "driver", match[1] if match else "CUDA"
    if text.startswith("preemptively rejected"):
        return "rejected", "CUDA"
    return ("async", "CUDA") if text.startswith("Allocation on device") else (None, "")


def _rank(head: str, after: str) -> int | None:
    line = head.rsplit("\n", 1)[-1] + after.split("\n", 1)[0]
    match = _RANK.search(line)
    return int(next(group for group in match.groups() if group)) if match else None


def _allocator(base: OomText, text: str) -> OomText:
    text = _without_what_follows(text)
    values: dict[str, Any] = {"tried_bytes": _bytes(_TRIED.match(text))}
    for name, pattern in _PATTERNS.items():
        match = pattern.search(text)
        if match:
            values[name] = int(match[1]) if name == "device" else _bytes(match)
    processes = tuple((int(match[1]), _bytes(match, 2)) for match in _PROCESS.finditer(text))
    unallocated, reserved = _UNALLOCATED.search(text), _RESERVED.search(text)
    if unallocated and "allocated_bytes" in values:
        values["reserved_bytes"] = values["allocated_bytes"] + _bytes(unallocated)
    elif reserved:
        cached = _bytes(reserved)  # before 1.4, "cached" was what lay unused
        values["reserved_bytes"] = cached + (values.get("allocated_bytes", 0) if "cached" in reserved[0] else 0)
    return replace(base, text=text, processes=processes, torch=_torch_of(text), **values)


_END = re.compile(
    r"cuda\.html#[\w-]+\)|and PYTORCH_(?:CUDA_|HIP_)?ALLOC_CONF\.?|but unallocated\.(?! If)|by PyTorch\)(?! If)"
)


def _without_what_follows(text: str) -> str:
    match = _END.search(text)
    return text[: match.end()] if match else text[:_MOST_TEXT]


def _other_figures(kind: str, text: str) -> dict[str, Any]:
    if kind == "host":
        match = _HOST.search(text)
        return {"tried_bytes": int(match[1])} if match else {}
    if kind == "rejected":
        match = _REJECTED.search(text)
        return {"tried_bytes": int(match[3]) if match[3] else _bytes(match)} if match else {}
    found = {name: re.search(f"{label} {_SIZE}", text) for name, label in _ASYNC.items()} if kind == "async" else {}
    return {name: _bytes(match) for name, match in found.items() if match}


def _bytes(match: re.Match[str] | None, first: int = 1) -> int:
    """The size in a match: the first pair of groups that took part."""
    assert match is not None
    groups = match.groups()[first - 1 :]
    number, unit = next(pair for pair in zip(groups[::2], groups[1::2], strict=True) if pair[0])
    return round(float(number) * _UNITS[unit])


def _torch_of(text: str) -> str:
    """Which torch writes such a text, by its wording."""
    if " cached" in text:
        return "0.4 to 1.3"
    if "reserved in total" in text or "already allocated" in text:
        return "1.10 to 2.0" if "max_split_size_mb" in text else "1.4 to 2.0"
    if "capacty" in text:
        return "2.1"
    if "PYTORCH_ALLOC_CONF" in text:
        return "2.9 or 2.10"
    return "2.2 or newer" if "expandable_segments" in text else ""
