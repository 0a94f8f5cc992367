"""Turns torch's own allocator recorder into events and blocks, with Python stacks: C++ ones take minutes to dump."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vramprof.recording import Recorder
from vramprof.sources.compiled import describe_compiled
from vramprof.sources.live_snapshot import take_snapshot
from vramprof.sources.snapshot import collector_paused, record_snapshot

MAX_ENTRIES = 1_000_000
_SOURCE = "allocator history"

_windows: list[AllocatorHistory] = []
"""Those of ours that are open, the one that records last."""


class AllocatorHistory:
    """A window in which torch records every allocation. A recording that the user's program began is left running.

    Blind to: memory outside torch's allocator, and allocations made while a CUDA graph is replayed.
    """

    def __init__(self, recorder: Recorder, *, max_entries: int = MAX_ENTRIES) -> None:
        import torch

        torch.cuda.init()
        self._recorder = recorder
        self._max_entries = max_entries
        self._is_enabled = getattr(torch._C, "_cuda_isHistoryEnabled", None)
        self._users_own = False
        self.is_open = False

    def open(self, *, beneath: bool = False) -> None:
        """Begin a window; what an older one recorded is forgotten.

        Windows of ours may lie one in the other: the inner one records, and the outer one begins again after it.
        `beneath`: where one is open already, this becomes the outermost.
        """
        self._users_own = not _windows and bool(self._is_enabled and self._is_enabled())
        if beneath and _windows:
            _windows.insert(0, self)
        else:
            if _windows:
                _switch_off()
            self._record()
            _windows.append(self)
        self.is_open = True

    def _record(self) -> None:
        import torch

        if not self._users_own:
            record = torch.cuda.memory._record_memory_history
            record(context="alloc", stacks="python", max_entries=self._max_entries)

    def close(self) -> None:
        """End the window: its events, and the allocator's state now, replace those of an older one."""
        for table in ("events", "blocks"):
            self._recorder.forget(table)
        with collector_paused():
            record_snapshot(self._recorder, self.snapshot(self._recorder))
        describe_compiled(self._recorder)
        self.drop()

    def drop(self) -> None:
        """End the window and keep nothing of it."""
        _windows.remove(self)
        if not self._users_own:
            _switch_off()
        if _windows:
            _windows[-1]._record()
        self.is_open = False

    def snapshot(self, recorder: Recorder) -> dict[str, Any]:
        """What torch recorded until now and the allocator's state, as torch gives it; the recorder learns of gaps."""
        if self._users_own:
            recorder.gap(_SOURCE, "the program records its own history: stacks and length are as it chose")
        if self._is_enabled is not None and not self._is_enabled():
            recorder.gap(_SOURCE, "the program switched torch's history off, and with it what was recorded")
        snapshot = take_snapshot()
        for trace in snapshot["device_traces"]:
            if len(trace) >= self._max_entries:
                recorder.gap(_SOURCE, f"the ring of {self._max_entries} events was full: the oldest were overwritten")
        return snapshot

    def most_events(self) -> int:
        """No more events than this are in the ring now, on all devices."""
        import torch

        counts = (torch.cuda.memory_stats(device) for device in range(torch.cuda.device_count()))
        blocks = sum(int(stats.get("allocation.all.allocated", 0)) for stats in counts)
        return min(4 * blocks, self._max_entries * int(torch.cuda.device_count()))

    def record_state(self) -> None:
        """The allocator's blocks now, where no window was ever open."""
        record_snapshot(self._recorder, take_snapshot())


def _switch_off() -> None:
    import torch

    torch.cuda.memory._record_memory_history(None)


@contextmanager
def allocator_history(recorder: Recorder, *, max_entries: int = MAX_ENTRIES) -> Iterator[None]:
    """One window, for as long as the block runs."""
    history = AllocatorHistory(recorder, max_entries=max_entries)
    history.open()
    try:
        yield
    finally:
        history.close()
