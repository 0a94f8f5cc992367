"""Turns torch's memory_stats and NVML into samples, read by one daemon thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vramprof.recording import Recorder

INTERVAL_S = 0.05
UNREAD = -1

ReadProcess = Callable[[int], tuple[int, int]]
"""device index -> (device used bytes, this process's bytes); UNREAD where NVML does not say."""


@contextmanager
def memory_samples(recorder: Recorder, *, interval_s: float = INTERVAL_S) -> Iterator[None]:
    """Sample every touched device at the begin, at each interval, and at the end."""
    read_process, close = _open_nvml(recorder)
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(interval_s):
            _sample(recorder, read_process)

    _sample(recorder, read_process)
    thread = threading.Thread(target=work, name="vramprof-sampler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _sample(recorder, read_process)
        close()


def _sample(recorder: Recorder, read_process: ReadProcess) -> None:
    import torch

    now = time.time_ns()
    try:
        for device in range(torch.cuda.device_count()):
            stats = torch.cuda.memory_stats(device)
            if stats.get("reserved_bytes.all.peak"):
                names = ("allocated_bytes", "active_bytes", "requested_bytes", "reserved_bytes")
                current = (stats[f"{name}.all.current"] for name in names)
                recorder.add("samples", now, device, "memory_stats", *current, *read_process(device))
    except Exception as error:  # a sample that fails is a gap; the user's program goes on
        recorder.gap("sampler", f"{type(error).__name__}: {error}", begin_ns=now, end_ns=now, lost_count=1)


def _open_nvml(recorder: Recorder) -> tuple[ReadProcess, Callable[[], None]]:
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
