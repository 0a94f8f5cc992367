"""Turns torch's allocator counters into rows at the ends of phases: a fixed number of rows, however long the run is."""

from __future__ import annotations

import time
from typing import NamedTuple

from vramprof.recording import Recorder
from vramprof.sources.sampler import UNREAD

_CAPACITY = 4096


class Row(NamedTuple):
    """One device's counters at a moment, in bytes."""

    time_ns: int
    device: int
    allocated: int
    active: int
    requested: int
    reserved: int
    peak: int


class Counters:
    """The newest counters of every device that torch has touched. Reading takes about ten microseconds."""

    def __init__(self) -> None:
        import torch

        self._stats = torch._C._cuda_memoryStats
        self._devices = range(torch.cuda.device_count())
        self._totals = [torch.cuda.get_device_properties(device).total_memory for device in self._devices]
        self._rows: dict[int, Row] = {}
        self.retry_count = 0
        self.window_peak_bytes = 0

    def read(self) -> list[Row]:
        """Read now. Device memory that torch never touched is left out."""
        rows = []
        retries = 0
        for device in self._devices:
            stats = self._stats(device)
            reserved = stats["reserved_bytes"]["all"]
            if not reserved["peak"]:
                continue
            retries += stats["num_alloc_retries"]
            allocated = stats["allocated_bytes"]["all"]
            row = Row(
                time.time_ns(), device, allocated["current"], stats["active_bytes"]["all"]["current"],
                stats["requested_bytes"]["all"]["current"], reserved["current"], allocated["peak"],
            )  # fmt: skip
            self._rows[device] = row
            rows.append(row)
        self.retry_count = retries
        self.window_peak_bytes = max(self.window_peak_bytes, self.allocated_bytes)
        return rows

    def begin_window(self) -> None:
        """Forget the window's peak."""
        self.window_peak_bytes = 0

    @property
    def allocated_bytes(self) -> int:
        """Of all devices."""
        return sum(row.allocated for row in self._rows.values())

    @property
    def peak_bytes(self) -> int:
        """Sum of every device's own peak, as torch counts it."""
        return sum(row.peak for row in self._rows.values())

    @property
    def fullest_ratio(self) -> float:
        """Reserved bytes of the fullest device over its total."""
        return max((row.reserved / self._totals[row.device] for row in self._rows.values()), default=0.0)


class Thinned:
    """At most a fixed number of rows: when they are full, of every two neighbours the one that held more stays."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, Row]] = []

    def add(self, source: str, row: Row) -> None:
        """Keep a row."""
        self._rows.append((source, row))
        if len(self._rows) >= _CAPACITY:
            pairs = zip(self._rows[::2], self._rows[1::2], strict=True)
            self._rows = [max(pair, key=lambda item: item[1].allocated) for pair in pairs]

    def write(self, recorder: Recorder) -> None:
        """Hand the rows to the recorder, as samples."""
        for source, row in self._rows:
            recorder.add("samples", row.time_ns, row.device, source, *row[2:6], UNREAD, UNREAD)
        self._rows = []
