"""Carries the figures of a run to whoever watches it from another process, while it runs: an Arrow stream of its own.

It is written about each second, kept in no memory, and gone when the recording is whole. A row is what one device held
at a moment: a sample, the end of a phase (with what the program holds by name), or the end of a step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

FEED = "live.arrows"
UNKNOWN = -1
SAMPLE, STEP = "sample", "step"
_MOST_BYTES = 64 * 1024**2
_END = b"\xff\xff\xff\xff\0\0\0\0"
_HEADS = b"devices"


class Row(NamedTuple):
    """One device at a moment, in bytes; UNKNOWN where it was not asked. `moment` is SAMPLE, STEP or a phase's name.

    `peak_bytes` is the most that torch has ever had allocated there. Weights, buffers, gradients and optimizer states
    are told at the ends of phases only.
    """

    time_ns: int
    device: int
    moment: str
    step: int
    allocated_bytes: int
    reserved_bytes: int
    peak_bytes: int
    device_used_bytes: int = UNKNOWN
    process_bytes: int = UNKNOWN
    weights_bytes: int = UNKNOWN
    buffers_bytes: int = UNKNOWN
    gradients_bytes: int = UNKNOWN
    optimizer_bytes: int = UNKNOWN


class Head(NamedTuple):
    """A device of the run."""

    device: int
    name: str
    total_bytes: int


_TYPES = {"device": pa.int32(), "moment": pa.string(), "step": pa.int32()}
_SCHEMA = pa.schema([pa.field(name, _TYPES.get(name, pa.int64())) for name in Row._fields])


class FeedWriter:
    """Appends rows for others to read. `add` may be called from any thread; one thread alone calls `flush`.

    Raises:
        OSError: from `flush`, if the file cannot be written.
    """

    def __init__(self, folder: Path, devices: Sequence[Head], *, most_bytes: int = _MOST_BYTES) -> None:
        self._path = folder / FEED
        self._schema = _SCHEMA.with_metadata({_HEADS: json.dumps(devices)})
        self._rows: list[Row] = []
        self._most_bytes = most_bytes
        self._sink: pa.OSFile | None = None
        self._stream: pa.RecordBatchStreamWriter | None = None

    def add(self, row: Row) -> None:
        """Keep a row until the next flush."""
        self._rows.append(row)

    def flush(self) -> None:
        """Write what was added since the last one; a file that has grown large begins anew."""
        rows, self._rows = self._rows, []
        if self._stream is None:
            self._sink = pa.OSFile(str(self._path), "wb")
            self._stream = pa.ipc.new_stream(self._sink, self._schema)
        if rows:
            columns = zip(zip(*rows, strict=True), self._schema, strict=True)
            arrays = [pa.array(column, type=field.type) for column, field in columns]
            self._stream.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        assert self._sink is not None
        self._sink.flush()
        if self._sink.tell() > self._most_bytes:
            self.close()

    def close(self) -> None:
        """End the stream."""
        if self._stream is not None and self._sink is not None:
            self._stream.close()
            self._sink.close()
        self._stream = self._sink = None


class FeedReader:
    """Reads what was appended since the last time, and nothing twice; the writer never notices."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FEED
        self._file: int | None = None
        self._at = 0
        self._rest = b""
        self._schema: pa.Schema | None = None
        self.devices: list[Head] = []

    def read(self) -> list[Row]:
        """The rows since the last call, oldest first; none while there is no such file."""
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDONLY)
            except OSError:
                return []
        size = os.fstat(self._file).st_size
        if size < self._at:  # it began anew
            self._at, self._rest, self._schema = 0, b"", None
        if size == self._at:
            return []
        data = os.pread(self._file, size - self._at, self._at)
        self._at += len(data)
        return list(self._rows(self._rest + data))

    def _rows(self, data: bytes) -> Iterable[Row]:
        """Of every whole message; what is cut is kept for the next time."""
        source = pa.BufferReader(data)
        at = 0
        while at < len(data) and not data.startswith(_END, at):
            try:
                message = pa.ipc.read_message(source)
            except (pa.ArrowInvalid, EOFError, OSError):
                break
            at = source.tell()
            if self._schema is None:
                self._schema = pa.ipc.read_schema(message)
                self.devices = [Head(*head) for head in json.loads((self._schema.metadata or {}).get(_HEADS, b"[]"))]
            else:
                columns: dict[str, list[Any]] = pa.ipc.read_record_batch(message, self._schema).to_pydict()
                yield from map(Row._make, zip(*(columns[name] for name in Row._fields), strict=True))
        self._rest = data[at:]

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
