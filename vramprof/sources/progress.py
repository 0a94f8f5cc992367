"""Tells whoever watches the run what the program holds by name at the ends of phases, each at most once a second.

It asks only what the program knows anyway: the parameters of the modules that were called, their gradients, and the
states of the optimizers that stepped. All of that happens in the program's own thread, between two phases, and takes
at most one part in 300 of its time.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramprof.recording import Recorder
from vramprof.recording.feed import STEP, UNKNOWN, FeedWriter, Head, Row
from vramprof.sources.counters import Counters
from vramprof.sources.names import storages

if TYPE_CHECKING:
    from vramprof.sources.program import Program, Watcher

_INTERVAL_NS = 1_000_000_000
_STEP_INTERVAL_NS = 250_000_000
_MOST_SHARE = 1000
_LOOK_AGAIN_NS = 10_000_000_000

Bytes = dict[int, int]
"""By device."""


class Progress:
    """Passes phases and steps on to another watcher, and writes to the feed what it sees then."""

    def __init__(self, recorder: Recorder, feed: FeedWriter) -> None:
        self._recorder = recorder
        self._feed: FeedWriter | None = feed
        self._watcher: Watcher | None = None
        self._held: Held | None = None
        self._counters = Counters()
        self._due_ns: dict[str, int] = {}
        self.step = 0

    def follow(self, watcher: Watcher) -> Watcher:
        """Pass phases and steps on to this one."""
        self._watcher = watcher
        return self

    def begin(self, program: Program) -> None:
        """The program is known."""
        self._held = Held(program)

    def phase_ends(self, phase: str) -> None:
        """A phase is over: what does the program hold?"""
        assert self._watcher is not None
        self._watcher.phase_ends(phase)
        now = time.monotonic_ns()
        if now >= self._due_ns.get(phase, 0):
            self._guarded(self._tell_held, phase)
            self._due_ns[phase] = now + max(_INTERVAL_NS, _MOST_SHARE * (time.monotonic_ns() - now))

    def _tell_held(self, phase: str) -> None:
        if self._held is None or self._feed is None:
            return
        held = self._held.count()
        for row in self._counters.read():
            named = (sizes.get(row.device, 0) for sizes in held)
            figures = (row.allocated, row.reserved, row.peak, UNKNOWN, UNKNOWN)
            self._feed.add(Row(row.time_ns, row.device, phase, self.step, *figures, *named))

    def step_ends(self, index: int) -> None:
        """A step is over: what is left?"""
        assert self._watcher is not None
        self.step = index + 1
        now = time.monotonic_ns()
        if now >= self._due_ns.get(STEP, 0):
            self._guarded(self._tell_step, index)
            self._due_ns[STEP] = now + _STEP_INTERVAL_NS
        self._watcher.step_ends(index)

    def _tell_step(self, index: int) -> None:
        for row in self._counters.read():
            self.add(Row(row.time_ns, row.device, STEP, index, row.allocated, row.reserved, row.peak))

    def add(self, row: Row) -> None:
        """A row for the next flush."""
        if self._feed is not None:
            self._feed.add(row)

    def flush(self) -> None:
        """Write what came since the last time, the recording's streams too: a kill then loses a second at most."""
        if self._feed is not None:
            self._guarded(self._feed.flush)
            self._guarded(self._recorder.collect)

    def close(self) -> None:
        """The session ends."""
        if self._feed is not None:
            self._guarded(self._feed.flush)
        if self._feed is not None:
            self._guarded(self._feed.close)
        self._feed = self._held = None

    def _guarded(self, act: Callable[..., None], *arguments: Any) -> None:
        """A failure of ours, or a full disk, ends the feed; the program and its recording go on."""
        try:
            act(*arguments)
        except Exception as error:
            self._feed = None
            reason = f"`vramprof live` could not follow any longer: {type(error).__name__}: {error}"
            self._recorder.gap("live", reason, begin_ns=time.time_ns())


@contextmanager
def progress_feed(recorder: Recorder, folder: Path | None) -> Iterator[Progress | None]:
    """What `vramprof live` reads, while the block runs; None where nothing is written to a folder."""
    if folder is None:
        yield None
        return
    progress = Progress(recorder, FeedWriter(folder, device_heads()))
    progress.flush()
    try:
        yield progress
    finally:
        progress.close()


class Held:
    """Weights, buffers, gradients and optimizer states that are alive now, each storage counted once.

    Gradients come and go within a step, and are counted each time. The others hardly change: they are counted anew when
    there are more modules, optimizers or states, and every ten seconds.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._parameters: list[weakref.ref[Any]] = []
        self._steady: tuple[Bytes, Bytes, Bytes] = ({}, {}, {})
        self._known: list[int] = []
        self._look_ns = 0

    def count(self) -> tuple[Bytes, Bytes, Bytes, Bytes]:
        """Bytes by device of weights, buffers, gradients and optimizer states."""
        roots, optimizers = list(self._program.roots), list(self._program.optimizers)
        now, known = time.monotonic_ns(), [len(roots), *(len(optimizer.state) for optimizer in optimizers)]
        if known != self._known or now >= self._look_ns:
            self._known, self._look_ns = known, now + _LOOK_AGAIN_NS
            self._look(roots, optimizers)
        parameters = (reference() for reference in self._parameters)
        gradients = _sum((parameter.grad for parameter in parameters if parameter is not None), set())
        weights, buffers, states = self._steady
        return weights, buffers, gradients, states

    def _look(self, roots: list[Any], optimizers: list[Any]) -> None:
        found = {id(parameter): parameter for root in roots for parameter in root.parameters()}
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                found.update((id(parameter), parameter) for parameter in group["params"])
        self._parameters = list(map(weakref.ref, found.values()))
        seen: set[tuple[int, int]] = set()
        buffers = (buffer for root in roots for buffer in root.buffers())
        self._steady = (_sum(found.values(), seen), _sum(buffers, seen), _sum(_states(optimizers), seen))


def _states(optimizers: Iterable[Any]) -> Iterator[Any]:
    for optimizer in optimizers:
        for state in optimizer.state.values():
            if isinstance(state, dict):
                yield from state.values()


def _sum(tensors: Iterable[Any], seen: set[tuple[int, int]]) -> Bytes:
    """Bytes on each device; a storage that was seen before counts nothing."""
    from torch import Tensor
    from torch.nn import Parameter

    total: Bytes = {}
    for tensor in tensors:
        if type(tensor) is Parameter or type(tensor) is Tensor:
            if not tensor.is_cuda:
                continue
            storage = tensor.untyped_storage()
            found: Iterable[tuple[str, int, int, int]] = (
                ("", tensor.get_device(), storage.data_ptr(), storage.nbytes()),
            )
        else:
            found = storages(tensor, "")
        for _, device, address, size_bytes in found:
            if address and (device, address) not in seen:
                seen.add((device, address))
                total[device] = total.get(device, 0) + size_bytes
    return total


def device_heads() -> list[Head]:
    """Every device that torch sees."""
    import torch

    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [Head(index, one.name, one.total_memory) for index, one in enumerate(properties)]
