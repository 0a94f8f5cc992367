"""Turns NVML into the processes on each device, from outside: for processes that write no recording of ours."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from vramprof.errors import NoDeviceError
from vramprof.recording.feed import SAMPLE, UNKNOWN, Head, Row


class Usage(NamedTuple):
    """One process on one device."""

    pid: int
    name: str
    row: Row


class GpuProcesses:
    """Every process on every device that NVML shows, or one of them.

    Raises:
        NoDeviceError: there is no NVML, or no device.
    """

    def __init__(self, pid: int | None = None) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
        except Exception as error:  # no library, no driver, no permission
            raise NoDeviceError(f"no recording is being written here, and NVML cannot be read ({error})") from None
        self._nvml: Any = pynvml
        self._pid = pid
        self._names: dict[int, str] = {}
        self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        self.devices = [
            Head(index, _text(pynvml.nvmlDeviceGetName(handle)), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))
            for index, handle in enumerate(self._handles)
        ]

    def read(self) -> list[Usage]:
        """What each process has now; UNKNOWN bytes where NVML hides them (containers, WSL)."""
        found = []
        for index, handle in enumerate(self._handles):
            now, used = time.time_ns(), int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used)
            for process in self._processes(handle):
                if self._pid in (None, process.pid):
                    size = UNKNOWN if process.usedGpuMemory is None else int(process.usedGpuMemory)
                    row = Row(now, index, SAMPLE, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, used, size)
                    found.append(Usage(process.pid, self._name(process.pid), row))
        return found

    def _processes(self, handle: Any) -> list[Any]:
        """A process that computes and draws is listed twice."""
        seen: dict[int, Any] = {}
        for ask in (self._nvml.nvmlDeviceGetComputeRunningProcesses, self._nvml.nvmlDeviceGetGraphicsRunningProcesses):
            try:
                for process in ask(handle):
                    seen.setdefault(process.pid, process)
            except self._nvml.NVMLError:  # not supported on this card
                continue
        return list(seen.values())

    def _name(self, pid: int) -> str:
        if pid not in self._names:
            self._names[pid] = command_of(pid)
        return self._names[pid]

    def close(self) -> None:
        """Let NVML go."""
        self._nvml.nvmlShutdown()


def command_of(pid: int) -> str:
    """What a process was started as; empty where that may not be known."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return " ".join(word for word in words if word)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
