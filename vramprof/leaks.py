"""Leaks in the flow of a program: who holds what leaked, and blocks of code that must leave nothing behind."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from vramprof.analyses.allocations import find_allocations
from vramprof.analyses.attribution import attribute
from vramprof.analyses.leaks import Leaks, find_leaks
from vramprof.analyses.survivors import Survivor, find_survivors
from vramprof.errors import LeakError
from vramprof.recording import Recorder, Recording
from vramprof.sources.allocator_history import allocator_history
from vramprof.sources.devices import require_device
from vramprof.sources.history_so_far import recording_so_far
from vramprof.sources.holders import BUDGET_S, Holder, find_holders, record_holders
from vramprof.units import format_bytes

_MOST_TOLD = 8
_EACH = 3
"""Of how many tensors of one group the holder is looked for."""


def suspects(recording: Recording) -> list[tuple[int, int]]:
    """(device, address) of a few tensors of every leak that are still alive: neither the oldest nor the newest."""
    return [
        (device, address)
        for device in recording.device_indices
        for growth in _leaks(recording, device).leaking
        for address in _middle(growth.addresses)
    ]


def look(recorder: Recorder, *, budget_s: float = BUDGET_S) -> bool:
    """Ask, in the middle of a live session, whether something leaks, and record who holds it; says whether it does.

    For a session to call once `certain_growth` says that its allocated bytes grow: before the program's end frees what
    leaked, and with it the answer. Costs a snapshot of torch's history, and the walk if something does leak.
    """
    found = suspects(recording_so_far(recorder))
    if found:
        record_holders(recorder, found, budget_s=budget_s)
    return bool(found)


def _leaks(recording: Recording, device: int) -> Leaks:
    allocations = find_allocations(recording, device)
    return find_leaks(recording, allocations, attribute(recording, allocations))


def _middle(addresses: tuple[int, ...]) -> tuple[int, ...]:
    inner = addresses[1:-1] if len(addresses) > 2 else addresses
    stride = max(len(inner) // _EACH, 1)
    return inner[::stride][:_EACH]


def with_holders(recording: Recording, *, budget_s: float = BUDGET_S) -> Recording:
    """The recording and who holds what leaked in it: to be called by the process that recorded it, while it lives."""
    found = suspects(recording)
    if not found:
        return recording
    recorder = Recorder(origin=recording.origin, emulated=recording.emulated)
    record_holders(recorder, found, budget_s=budget_s)
    return replace(recording, holders=recorder.freeze().holders)


@contextmanager
def check(*, collect: bool = True, allow_bytes: int = 0) -> Iterator[None]:
    """Nothing that is allocated on a GPU in this block may survive it.

    `with vramprof.leaks.check(): train_one_step()`; what must stay, as lazy optimizer states, belongs before the block.
    One-off workspaces of cuBLAS and cuDNN are no leak. If torch's history is off, it is on during the block only.

    Args:
        collect: run the garbage collector before looking, so that reference cycles are no leak.
        allow_bytes: how much may survive.

    Raises:
        LeakError: more survived; the message has the lines that allocated and who holds the tensors.
        NoDeviceError: there is no CUDA device.
    """
    require_device()
    recorder = Recorder(origin="live", emulated=False)
    with allocator_history(recorder):
        begin_ns = time.time_ns() // 1000 * 1000  # torch counts microseconds
        yield
        if collect:
            gc.collect()
    survivors = find_survivors(recorder.freeze(), since_ns=begin_ns)
    if sum(survivor.size_bytes for survivor in survivors) <= allow_bytes:
        return
    found = find_holders([key for survivor in survivors for key in survivor.storages])
    raise LeakError(_told(survivors, found))


def _told(survivors: Sequence[Survivor], found: Sequence[Holder]) -> str:
    holders = {(holder.device, holder.address): holder for holder in found}
    total = sum(survivor.size_bytes for survivor in survivors)
    lines = [f"{format_bytes(total)} allocated in this block survived it:"]
    for survivor in survivors[:_MOST_TOLD]:
        frame = survivor.line
        where = "(no Python frames)" if frame is None else f"{frame.filename}:{frame.line} {frame.name}()"
        lines.append(f"  {format_bytes(survivor.size_bytes)} in {survivor.count} tensors from {where}")
        lines += [f"    held by {holders[key].path}" for key in survivor.storages[:1] if key in holders]
    if len(survivors) > _MOST_TOLD:
        lines.append(f"  and {len(survivors) - _MOST_TOLD} lines more")
    return "\n".join(lines)
