"""The child process of a replay: imports torch on an emulated device once, then forks for each setting.

torch.cuda.caching_allocator_alloc with a stream takes the same way through the allocator as a tensor does. A block is
freed when its recorded free was completed, so that one that waited for another stream is held as long.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vramprof.emulator.loader import ENVIRONMENT_VARIABLE, DeviceSpec, encode, start
from vramprof.emulator.replay import write_outcome
from vramprof.emulator.tape import HOLE, UNMAPPED, FirstSegment, Op, Outcome, Setting, Tape
from vramprof.emulator.torch_build import find_torch

_UNKNOWN_CARD_BYTES = 1 << 40
_SMALL_BYTES = 1 << 20
_MIB = 1 << 20


def main() -> None:
    """Read the task that the parent wrote, and write an outcome beside it for each setting."""
    path = Path(sys.argv[1])
    tape, settings, detail, jobs = pickle.loads(path.read_bytes())  # noqa: S301 - our own parent's
    start(_card(tape, settings[0]))
    import torch  # noqa: F401 - once for all forks; no CUDA call yet, so that each has a card of its own

    columns = (tape.op, tape.slot, tape.size_bytes, tape.stream, tape.pool)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    running: set[int] = set()
    for index, setting in enumerate(settings):
        if len(running) >= jobs:
            running.discard(os.wait()[0])
        child = os.fork()
        if child:
            running.add(child)
            continue
        try:
            _answer(path.with_name(f"{index}.json"), tape, rows, setting, index < detail)
        finally:
            os._exit(0)
    for _ in running:
        os.wait()


def _answer(path: Path, tape: Tape, rows: list[tuple[int, ...]], setting: Setting, detail: bool) -> None:
    begin = time.perf_counter()
    os.environ[ENVIRONMENT_VARIABLE] = encode(_card(tape, setting), 1, find_torch())
    try:
        outcome = _Player(tape, setting).play(rows, detail=detail)
    except Exception as error:  # whatever it is, the parent shall know, and the other settings go on
        outcome = Outcome(error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    write_outcome(path, replace(outcome, seconds=time.perf_counter() - begin))


def _card(tape: Tape, setting: Setting) -> DeviceSpec:
    """A card that has for torch what the setting says; the rest is as if the context held it."""
    available = setting.available_bytes or tape.available_bytes
    total = setting.total_bytes or tape.total_bytes or (available or _UNKNOWN_CARD_BYTES) + 512 * _MIB
    return DeviceSpec(name="replay", total_bytes=total, context_bytes=max(total - available, 0) if available else 0)


class _Player:
    """One setting's allocator while its requests are made."""

    def __init__(self, tape: Tape, setting: Setting) -> None:
        import torch

        self.torch = torch
        self.tape, self.setting = tape, setting
        self.alloc: Callable[[int, int], int] = torch._C._cuda_cudaCachingAllocator_raw_alloc
        self.free: Callable[[int], None] = torch._C._cuda_cudaCachingAllocator_raw_delete
        self.blocks = [0] * tape.slot_count
        torch.cuda.init()
        self.pools = [torch.cuda.MemPool() for _ in range(tape.pool_count - 1)]
        self.streams = [0, *self._streams(tape.stream_count - 1)]

    def _streams(self, count: int) -> list[int]:
        """torch's own have 32 of each priority; no recording was seen with more than ten."""
        made: list[int] = []
        while len(made) < count:
            stream = self.torch.cuda.Stream(priority=-(len(made) // 32)).cuda_stream
            if stream in made:
                raise RuntimeError(f"{count} streams are more than torch has")
            made.append(stream)
        return made

    def _configure(self, conf: str) -> None:
        text = conf if "expandable_segments" in conf else ",".join(filter(None, [conf, "expandable_segments:False"]))
        setter = getattr(self.torch._C, "_accelerator_setAllocatorSettings", None)
        (setter or self.torch.cuda.memory._set_allocator_settings)(text)

    @contextlib.contextmanager
    def _in_pool(self, pool: int) -> Iterator[None]:
        if pool == 0:
            yield
            return
        with self.torch.cuda.use_mem_pool(self.pools[pool - 1]):
            yield

    def play(self, rows: list[tuple[int, ...]], *, detail: bool) -> Outcome:
        """The whole tape, or what there is of it until a request fails."""
        cuda, setting = self.torch.cuda, self.setting
        if setting.in_place:
            self._rebuild()
        self._configure(self.tape.own if setting.conf is None else setting.conf)
        if setting.fraction is not None:
            cuda.set_per_process_memory_fraction(setting.fraction)
        if not setting.in_place:
            self._pack()
        first_state = _state(cuda.memory_snapshot()) if detail else ()
        cuda.reset_peak_memory_stats()
        if detail:
            cuda.memory._record_memory_history(enabled="all", context=None)
        failed = self._play_rows(rows)
        stats = cuda.memory_stats()
        events = _segment_events(cuda.memory._snapshot()["device_traces"][0]) if detail else ()
        cuda.empty_cache()
        known = (setting.available_bytes or self.tape.available_bytes) is not None
        return Outcome(
            fits=failed is None,
            peak_reserved_bytes=stats["reserved_bytes.all.peak"],
            peak_allocated_bytes=stats["allocated_bytes.all.peak"],
            margin_bytes=cuda.mem_get_info()[0] if known and failed is None else None,
            retry_count=stats["num_alloc_retries"],
            failed_row=None if failed is None else int(self.tape.row[failed]),
            failed_bytes=0 if failed is None else int(self.tape.size_bytes[failed]),
            segment_events=events,
            first_state=first_state,
        )

    def _play_rows(self, rows: list[tuple[int, ...]]) -> int | None:
        """The number of the request that failed, if one did."""
        blocks, streams, alloc, free = self.blocks, self.streams, self.alloc, self.free
        flush_at = self.setting.empty_cache_at
        number = 0
        try:
            for number, (op, slot, size, stream, pool) in enumerate(rows):
                if number == flush_at:
                    self.torch.cuda.empty_cache()
                if op == Op.FREE:
                    free(blocks[slot])
                elif op == Op.EMPTY_CACHE:
                    self.torch.cuda.empty_cache()
                elif pool:
                    with self._in_pool(pool):
                        blocks[slot] = alloc(size, streams[stream])
                else:
                    blocks[slot] = alloc(size, streams[stream])
        except self.torch.cuda.OutOfMemoryError:
            return number
        return None

    def _rebuild(self) -> None:
        """The first state in place: every segment filled from its front, then the holes let go."""
        holes: list[int] = []
        unmapped: list[int] = []
        for expandable in (False, True):
            self._configure(f"expandable_segments:{expandable}")
            for segment in self.tape.first:
                if segment.is_expandable == expandable:
                    with self._in_pool(segment.pool):
                        self._fill(segment, holes, unmapped)
        if unmapped:
            for block in unmapped:
                self.free(block)
            self.torch.cuda.empty_cache()
        for block in holes:
            self.free(block)

    def _fill(self, segment: FirstSegment, holes: list[int], unmapped: list[int]) -> None:
        stream = self.streams[segment.stream]
        if not (segment.is_small or segment.is_expandable):
            self.free(self.alloc(sum(size for _, size in segment.blocks), stream))
        expected = 0
        crowded: list[tuple[int, int, int]] = []
        for slot, size, short_hole in _pieces(segment):
            block = self.alloc(size + short_hole, stream)
            if expected and block != expected:
                raise RuntimeError("the first state cannot be put back in place")
            expected = block + size + short_hole
            if short_hole:
                crowded.append((slot, block, size))
            else:
                self._keep(slot, block, holes, unmapped)
        for slot, block, size in crowded:  # with every neighbour in place, the block alone takes the front again
            self.free(block)
            self._keep(slot, self.alloc(size, stream), holes, unmapped)

    def _keep(self, slot: int, block: int, holes: list[int], unmapped: list[int]) -> None:
        if slot == HOLE:
            holes.append(block)
        elif slot == UNMAPPED:
            unmapped.append(block)
        else:
            self.blocks[slot] = block

    def _pack(self) -> None:
        for segment in self.tape.first:
            with self._in_pool(segment.pool):
                for slot, size in segment.blocks:
                    if slot >= 0:
                        self.blocks[slot] = self.alloc(size, self.streams[segment.stream])


def _pieces(segment: FirstSegment) -> Iterator[tuple[int, int, int]]:
    """(slot, bytes, hole behind it) to ask for in order; only a hole too short for its pool comes with a block."""
    blocks = list(segment.blocks)
    if segment.is_small:
        for slot, size in blocks:
            step = size if slot >= 0 else _SMALL_BYTES
            yield from ((slot, min(step, size - done), 0) for done in range(0, size, step))
        return
    if segment.is_expandable and blocks[0][0] == HOLE and blocks[0][1] <= _SMALL_BYTES:
        blocks.insert(0, (UNMAPPED, 20 * _MIB))  # such a hole is what a page before it left when it was unmapped
    for (slot, size), (after, after_bytes) in zip(blocks, [*blocks[1:], (UNMAPPED, 0)], strict=True):
        if slot != HOLE or size > _SMALL_BYTES:
            yield slot, size, after_bytes if after == HOLE and after_bytes <= _SMALL_BYTES else 0


def _state(segments: list[dict[str, Any]]) -> tuple[tuple[int, int, int, str], ...]:
    """Every block as (number of its segment, offset, bytes, state), segments in the order of their addresses."""
    rows = []
    for number, segment in enumerate(sorted(segments, key=lambda one: one["address"])):
        for block in segment["blocks"]:
            rows.append((number, block["address"] - segment["address"], block["size"], block["state"]))
    return tuple(rows)


def _segment_events(trace: list[dict[str, Any]]) -> tuple[tuple[str, int], ...]:
    return tuple((entry["action"], entry["size"]) for entry in trace if entry["action"].startswith("segment_"))
