"""Turns torch's own allocator recorder into events and blocks, with Python stacks: C++ ones take minutes to dump."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vramprof.recording import Recorder
from vramprof.sources.snapshot import collector_paused, record_snapshot

MAX_ENTRIES = 1_000_000
_SOURCE = "allocator history"


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

    def open(self) -> None:
        """Begin a window; what an older one recorded is forgotten."""
        import torch

        self._users_own = bool(self._is_enabled and self._is_enabled())
        if not self._users_own:
            record = torch.cuda.memory._record_memory_history
            record(context="alloc", stacks="python", max_entries=self._max_entries)
        self.is_open = True

    def close(self) -> None:
        """End the window: its events, and the allocator's state now, replace those of an older one."""
        import torch

        for table in ("events", "blocks"):
            self._recorder.forget(table)
        self._drain()
        if not self._users_own:
            torch.cuda.memory._record_memory_history(None)
        self.is_open = False

    def drop(self) -> None:
        """End the window and keep nothing of it."""
        import torch

        if not self._users_own:
            torch.cuda.memory._record_memory_history(None)
        self.is_open = False

    def _drain(self) -> None:
        import torch

        if self._users_own:
            self._recorder.gap(_SOURCE, "the program records its own history: stacks and length are as it chose")
        if self._is_enabled is not None and not self._is_enabled():
            self._recorder.gap(_SOURCE, "the program switched torch's history off, and with it what was recorded")
        with collector_paused():
            snapshot = torch.cuda.memory._snapshot()
            record_snapshot(self._recorder, snapshot)
        for trace in snapshot["device_traces"]:
            if len(trace) >= self._max_entries:
                self._recorder.gap(
                    _SOURCE, f"the ring of {self._max_entries} events was full: the oldest were overwritten"
                )

    def record_state(self) -> None:
        """The allocator's blocks now, where no window was ever open."""
        import torch

        record_snapshot(self._recorder, torch.cuda.memory._snapshot())


@contextmanager
def allocator_history(recorder: Recorder, *, max_entries: int = MAX_ENTRIES) -> Iterator[None]:
    """One window, for as long as the block runs."""
    history = AllocatorHistory(recorder, max_entries=max_entries)
    history.open()
    try:
        yield
    finally:
        history.close()
