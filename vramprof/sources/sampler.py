"""Turns torch's memory_stats and NVML into samples, read by one daemon thread; others may watch them as they come."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from vramprof.recording.feed import SAMPLE, Row

if TYPE_CHECKING:
    from vramprof.sources.progress import Progress

INTERVAL_S = 0.05
UNREAD = -1
_FEED_S = 1.0

ReadProcess = Callable[[int], tuple[int, int]]
"""device index -> (device used bytes, this process's bytes); UNREAD where NVML does not say."""


class Sink(Protocol):
    """What rows are written to: a Recorder, or a ring of the newest."""

    def add(self, table: str, *row: Any) -> None:
        """Append one row."""

    def gap(self, source: str, reason: str, *, begin_ns: int = 0, end_ns: int = 0, lost_count: int = 0) -> None:
        """Say what was lost."""


@contextmanager
def memory_samples(
    recorder: Sink, *, interval_s: float = INTERVAL_S, progress: Progress | None = None
) -> Iterator[Callable[[], None]]:
    """Sample every touched device at the begin, at each interval, at the end, and when what this gives is called.

    With `progress`, samples go there too, at least one a second, and it is flushed as often.
    """
    read_process, close = _open_nvml(recorder)
    stop = threading.Event()
    pause_s = interval_s if progress is None else min(interval_s, _FEED_S)

    def work() -> None:
        sampled = flushed = time.monotonic()
        while not stop.wait(pause_s):
            now = time.monotonic()
            is_due = now - sampled >= interval_s - pause_s / 2
            _sample(recorder, read_process, is_kept=is_due, progress=progress)
            sampled = now if is_due else sampled
            if progress is not None and now - flushed >= _FEED_S - pause_s / 2:
                progress.flush()
                flushed = now

    _sample(recorder, read_process, progress=progress)
    thread = threading.Thread(target=work, name="vramprof-sampler", daemon=True)
    thread.start()
    try:
        yield lambda: _sample(recorder, read_process)
    finally:
        stop.set()
        thread.join()
        _sample(recorder, read_process)
        close()


def _sample(
    recorder: Sink, read_process: ReadProcess, *, is_kept: bool = True, progress: Progress | None = None
) -> None:
    import torch

    now = time.time_ns()
    try:
        for device in range(torch.cuda.device_count()):
            stats = torch.cuda.memory_stats(device)
            if stats.get("reserved_bytes.all.peak"):
                names = ("allocated_bytes", "active_bytes", "requested_bytes", "reserved_bytes")
                current = [stats[f"{name}.all.current"] for name in names]
                seen = read_process(device)
                if is_kept:
                    recorder.add("samples", now, device, "memory_stats", *current, *seen)
                if progress is not None:
                    peak = stats["allocated_bytes.all.peak"]
                    progress.add(Row(now, device, SAMPLE, progress.step, current[0], current[3], peak, *seen))
    except Exception as error:  # a sample that fails is a gap; the user's program goes on
        recorder.gap("sampler", f"{type(error).__name__}: {error}", begin_ns=now, end_ns=now, lost_count=1)


def _open_nvml(recorder: Sink) -> tuple[ReadProcess, Callable[[], None]]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # no library, no driver, no permission: NVML is optional
        recorder.gap("nvml", f"NVML cannot be read ({error}): memory outside torch is unknown")
        return lambda device: (UNREAD, UNREAD), lambda: None
    handles: dict[int, Any] = {}

    def read(device: int) -> tuple[int, int]:
        if device not in handles:
            handles[device] = _handle(pynvml, device)
        return _used_bytes(pynvml, handles[device]), _process_bytes(pynvml, handles[device])

    return read, pynvml.nvmlShutdown


def _handle(pynvml: Any, device: int) -> Any:
    """NVML's handle of torch's device, by UUID: CUDA_VISIBLE_DEVICES renumbers torch's devices, not NVML's."""
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return pynvml.nvmlDeviceGetHandleByIndex(device)


def _used_bytes(pynvml: Any, handle: Any) -> int:
    """What processes hold of the device; drivers before 510 count in what they keep for themselves."""
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2).used)
    except pynvml.NVMLError_FunctionNotFound:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def _process_bytes(pynvml: Any, handle: Any) -> int:
    """This process's bytes; UNREAD in containers that hide process ids, under WSL, and in some MIG set-ups."""
    for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
        if process.pid == os.getpid() and process.usedGpuMemory is not None:
            return int(process.usedGpuMemory)
    return UNREAD
