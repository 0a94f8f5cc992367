"""Turns requests and frees into blocks and segments as torch's caching allocator would, by its published rules.

The default settings on one stream: best fit in two pools, splitting, merging of neighbours, and cached segments given
back when the card is full. Source: c10/cuda/CUDACachingAllocator.cpp.

Blind to: streams, private pools, expandable segments, and every setting of PYTORCH_CUDA_ALLOC_CONF.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vramprof.units import MIB

_ROUNDING = 512
_SMALL, _SMALL_SEGMENT = MIB, 2 * MIB
_LARGE, _LARGE_SEGMENT = 10 * MIB, 20 * MIB
_BASE = 0x7F00_0000_0000

Log = Callable[[str, int, int], None]
"""action, address, bytes; torch's words for actions."""


class CardFullError(Exception):
    """Nothing was left, not even after cached segments were given back."""


@dataclass(eq=False)
class Block:
    """A range of a segment; `requested` is 0 while it is free."""

    segment: int
    address: int
    size: int
    small: bool
    requested: int = 0
    before: Block | None = None
    after: Block | None = None


class CachingAllocator:
    """Blocks of one device. `limit_bytes` is what may be reserved."""

    def __init__(self, limit_bytes: int, log: Log) -> None:
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        self._limit, self._log = limit_bytes, log
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # (size, address), best fit first
        self._idle: dict[int, Block] = {}
        self._segments: dict[int, Block] = {}
        self._next = _BASE

    def allocate(self, requested: int) -> Block:
        """A block for so many bytes, at least one.

        Raises:
            CardFullError: it does not fit.
        """
        size = -(-requested // _ROUNDING) * _ROUNDING
        small = size <= _SMALL
        block = self._best_fit(size, small) or self._new_segment(size, small)
        rest = block.size - size
        if rest >= _ROUNDING if small else rest > _SMALL:
            tail = Block(block.segment, block.address + size, rest, small, before=block, after=block.after)
            if block.after:
                block.after.before = tail
            block.after, block.size = tail, size
            self._put(tail)
        block.requested = requested
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        self._log("alloc", block.address, requested)
        return block

    def free(self, block: Block) -> None:
        """Give a block back; free neighbours become one."""
        self._log("free_requested", block.address, block.requested)
        self._log("free_completed", block.address, block.requested)
        self.allocated -= block.size
        block.requested = 0
        if block.before and not block.before.requested:
            block = self._merge(self._take(block.before), block)
        if block.after and not block.after.requested:
            block = self._merge(block, self._take(block.after))
        self._put(block)

    def empty_cache(self) -> None:
        """Give back every segment in which nothing is allocated."""
        for block in [one for one in self._idle.values() if one.before is None and one.after is None]:
            self._take(block)
            del self._segments[block.segment]
            self.reserved -= block.size
            self._log("segment_free", block.address, block.size)

    def segments(self) -> Iterator[tuple[int, list[Block]]]:
        """Address and blocks of each segment."""
        for address, block in self._segments.items():
            blocks, following = [], block
            while following:
                blocks.append(following)
                following = following.after  # type: ignore[assignment]
            yield address, blocks

    def _best_fit(self, size: int, small: bool) -> Block | None:
        free = self._free[small]
        place = bisect.bisect_left(free, (size, 0))
        return self._take(self._idle[free[place][1]]) if place < len(free) else None

    def _new_segment(self, size: int, small: bool) -> Block:
        whole = _SMALL_SEGMENT if small else _LARGE_SEGMENT if size < _LARGE else -(-size // (2 * MIB)) * 2 * MIB
        if self.reserved + whole > self._limit:
            self.empty_cache()
        if self.reserved + whole > self._limit:
            self._log("oom", 0, whole)
            raise CardFullError
        block = Block(self._next, self._next, whole, small)
        self._next += whole
        self._segments[block.address] = block
        self.reserved += whole
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        self._log("segment_alloc", block.address, whole)
        return block

    def _merge(self, first: Block, second: Block) -> Block:
        first.size += second.size
        first.after = second.after
        if second.after:
            second.after.before = first
        return first

    def _put(self, block: Block) -> None:
        bisect.insort(self._free[block.small], (block.size, block.address))
        self._idle[block.address] = block

    def _take(self, block: Block) -> Block:
        free = self._free[block.small]
        del free[bisect.bisect_left(free, (block.size, block.address))]
        return self._idle.pop(block.address)
