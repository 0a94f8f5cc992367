"""Turns the folder of a run in progress into its newest rows and its state, by reading files alone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vramprof.errors import RecordingError
from vramprof.recording.feed import FEED, SAMPLE, UNKNOWN, FeedReader, Head, Row

_METADATA = "metadata.json"
_SILENT_S = 5.0
_RANK = re.compile(r"(.+)-rank(\d+)")


class State(Enum):
    """Of a run."""

    RUNNING = "running"
    SILENT = "silent"
    GONE = "gone"
    ENDED = "ended"


class Run:
    """A `.vram` folder that is being written, or was.

    Raises:
        RecordingError: it is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata: dict[str, Any] = {}
        self._changed_ns = 0
        self._feed = FeedReader(folder)
        self._told_end = False
        self._read_metadata()
        if not self.metadata:
            raise RecordingError(f"{folder}: no recording, or not one of this version")

    @property
    def devices(self) -> list[Head]:
        """As far as they are known."""
        return self._feed.devices or self._final_devices()

    def read(self) -> list[Row]:
        """What was written since the last time; of a run that has ended, once, all that its recording tells."""
        rows = self._feed.read()
        if not rows and not self._feed.devices and self.state() is State.ENDED and not self._told_end:
            self._told_end = True
            return _final_rows(self.folder)
        return rows

    def state(self) -> State:
        """Whether it is still going on. A file that was written a moment ago counts more than a process id."""
        self._read_metadata()
        if "end_ns" in self.metadata:
            return State.ENDED
        if self.silent_s() < _SILENT_S:
            return State.RUNNING
        return State.SILENT if Path(f"/proc/{self.metadata.get('pid')}").exists() else State.GONE

    def silent_s(self) -> float:
        """Seconds since anything was written."""
        return time.time() - max(_changed_s(self.folder / FEED), _changed_s(self.folder / _METADATA))

    def final_peaks(self) -> dict[int, tuple[int, int]]:
        """Torch's own peaks by device, allocated and reserved, once the recording is whole."""
        rows = _table(self.folder, "devices")
        return {row["device"]: (row["peak_allocated_bytes"], row["peak_reserved_bytes"]) for row in rows}

    def _final_devices(self) -> list[Head]:
        return [Head(row["device"], row["name"], row["total_bytes"]) for row in _table(self.folder, "devices")]

    def _read_metadata(self) -> None:
        path = self.folder / _METADATA
        try:
            changed_ns = path.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                found = json.loads(path.read_text(encoding="utf-8"))
                self.metadata, self._changed_ns = (found, changed_ns) if "origin" in found else ({}, 0)
        except (OSError, ValueError, TypeError):  # being replaced, or none
            return

    def close(self) -> None:
        """Let go of its files."""
        self._feed.close()


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _table(folder: Path, name: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(folder / f"{name}.parquet").to_pylist()
    except (OSError, pa.ArrowException):  # not there yet
        return []
    return rows


def _final_rows(folder: Path) -> list[Row]:
    """The samples of a whole recording, oldest first."""
    names = ("time_ns", "device", "allocated_bytes", "reserved_bytes", "device_used_bytes", "process_bytes")
    rows = sorted(tuple(row[name] for name in names) for row in _table(folder, "samples"))
    return [
        Row(time_ns, device, SAMPLE, UNKNOWN, allocated, reserved, allocated, used, process)
        for time_ns, device, allocated, reserved, used, process in rows
    ]


def find_runs(folder: Path, *, pid: int | None = None) -> list[Path]:
    """The newest recording that is being written in a folder, with its other ranks; of one process, if asked."""
    running = []
    for path in folder.glob("*.vram"):
        try:
            run = Run(path)
        except RecordingError:
            continue
        if run.state() in (State.RUNNING, State.SILENT) and pid in (None, run.metadata.get("pid")):
            running.append((run.metadata.get("begin_ns", 0), path))
    if not running:
        return []
    newest = max(running)[1]
    return [newest] if pid else with_ranks(newest, [path for _, path in running])


def with_ranks(path: Path, others: list[Path]) -> list[Path]:
    """A recording, and those of the same job's other ranks, by rank."""
    match = _RANK.fullmatch(path.stem)
    if match is None:
        return [path]
    ranks = ((_RANK.fullmatch(other.stem), other) for other in others)
    return [other for _, other in sorted((int(m[2]), other) for m, other in ranks if m and m[1] == match[1])]


def ranks_of(path: Path) -> list[Path]:
    """The recordings of a job's ranks, by the name that the job was given: `job.vram` -> `job-rank*.vram`."""
    found = list(path.parent.glob(f"{path.stem}-rank*.vram"))
    return with_ranks(found[0], found) if found else []


def folder_of(pid: int) -> Iterator[Path]:
    """Where a process works, if that may be known."""
    try:
        yield Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return
