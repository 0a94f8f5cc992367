"""Turns torch's own allocator recorder into events and blocks, with Python stacks: C++ ones take minutes to dump."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vramprof.recording import Recorder
from vramprof.sources.snapshot import collector_paused, record_snapshot

MAX_ENTRIES = 1_000_000


@contextmanager
def allocator_history(recorder: Recorder, *, max_entries: int = MAX_ENTRIES) -> Iterator[None]:
    """Record every allocation while the block runs. A recording that the user's program began is left running.

    Blind to: memory outside torch's allocator, and allocations made while a CUDA graph is replayed.
    """
    import torch

    torch.cuda.init()
    is_enabled = getattr(torch._C, "_cuda_isHistoryEnabled", None)
    users_own = bool(is_enabled and is_enabled())
    if users_own:
        recorder.gap("allocator history", "the program records its own history: stacks and length are as it chose")
    else:
        torch.cuda.memory._record_memory_history(context="alloc", stacks="python", max_entries=max_entries)
    try:
        yield
    finally:
        _drain(recorder, max_entries, still_on=is_enabled is None or bool(is_enabled()))
        if not users_own:
            torch.cuda.memory._record_memory_history(None)


def _drain(recorder: Recorder, max_entries: int, *, still_on: bool) -> None:
    import torch

    if not still_on:
        recorder.gap("allocator history", "the program switched torch's history off, and with it what was recorded")
    with collector_paused():
        snapshot = torch.cuda.memory._snapshot()
        record_snapshot(recorder, snapshot)
    for trace in snapshot["device_traces"]:
        if len(trace) >= max_entries:
            recorder.gap("allocator history", f"the ring of {max_entries} events was full: the oldest were overwritten")
