"""Collects rows from the sources, in memory or as append-only Arrow streams that survive a killed process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from vramprof.recording.recording import Recording
from vramprof.recording.schema import NO_CONTEXT, OPTIONAL, TABLES
from vramprof.recording.stacks import Stacks
from vramprof.recording.storage import StreamFolder, recording_from_tables

_FLUSH_ROWS = 256
_MOST_BATCHES = 1024
_STREAMED = ("samples", "spans", "tensors", "gaps", "devices")


class Recorder:
    """Append-only and mutable; `freeze` gives the Recording. Safe to write to from several threads."""

    def __init__(self, *, origin: str, emulated: bool, folder: Path | None = None) -> None:
        self.origin = origin
        self.emulated = emulated
        self.metadata: dict[str, Any] = {}
        self.stacks = Stacks()
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
        self._batches: dict[str, list[pa.RecordBatch]] = {name: [] for name in TABLES}
        self._sources: list[Callable[[], None]] = []
        self._lock = threading.RLock()  # a signal's handler may end the session
        self._stream = None if folder is None else StreamFolder(folder)

    def add(self, table: str, *row: Any) -> None:
        """Append one row, its values in the order of the schema; the `OPTIONAL` ones may be left out."""
        rows = self._rows[table]
        rows.append(row + (NO_CONTEXT,) * len(OPTIONAL.get(table, ())) if len(row) < len(TABLES[table]) else row)
        if len(rows) >= _FLUSH_ROWS:
            self.flush(table)

    def extend(self, table: str, columns: Mapping[str, Any]) -> None:
        """Append whole columns at once; the `OPTIONAL` ones may be left out."""
        schema = TABLES[table]
        missing = [name for name in OPTIONAL.get(table, ()) if name not in columns]
        count = len(next(iter(columns.values()))) if missing else 0
        columns = {**columns, **dict.fromkeys(missing, [NO_CONTEXT] * count)}
        arrays = [pa.array(columns[field.name], type=field.type) for field in schema]
        self._append(table, pa.RecordBatch.from_arrays(arrays, schema=schema))

    def forget(self, table: str) -> None:
        """Drop the rows of a table that is not streamed: a newer state of the same takes their place."""
        with self._lock:
            self._rows[table], self._batches[table] = [], []

    def gap(self, source: str, reason: str, *, begin_ns: int = 0, end_ns: int = 0, lost_count: int = 0) -> None:
        """Say what was lost or failed."""
        self.add("gaps", source, begin_ns, end_ns, lost_count, reason)

    def flush(self, table: str | None = None) -> None:
        """Move pending rows to Arrow, and to disk where there is a folder."""
        for name in TABLES if table is None else (table,):
            with self._lock:
                rows, self._rows[name] = self._rows[name], []
            if rows:
                schema = TABLES[name]
                arrays = [
                    pa.array(column, type=field.type)
                    for column, field in zip(zip(*rows, strict=True), schema, strict=True)
                ]
                self._append(name, pa.RecordBatch.from_arrays(arrays, schema=schema))
        if table is None:
            self._to_disk(lambda stream: stream.write_metadata(self._head()))

    def _append(self, table: str, batch: pa.RecordBatch) -> None:
        with self._lock:
            batches = self._batches[table]
            batches.append(batch)
            if len(batches) >= _MOST_BATCHES:
                self._batches[table] = pa.Table.from_batches(batches).combine_chunks().to_batches()
            if table in _STREAMED:
                self._to_disk(lambda stream: stream.write(table, batch))

    def _to_disk(self, write: Callable[[StreamFolder], None]) -> None:
        """A full disk ends the stream, and nothing else: all rows are in memory too."""
        if self._stream is None:
            return
        try:
            write(self._stream)
        except OSError as error:
            self._stream = None
            reason = f"the recording could not be written while the program ran: {error.strerror or error}"
            self.gap("stream", reason, begin_ns=time.time_ns())

    def _head(self) -> dict[str, Any]:
        return {**self.metadata, "origin": self.origin, "emulated": self.emulated}

    def before_freeze(self, hand_over: Callable[[], None]) -> None:
        """A source keeps rows back: it is called for them whenever they are needed."""
        self._sources.append(hand_over)

    def collect(self) -> None:
        """Have every source hand over its rows, and flush them."""
        for hand_over in self._sources:
            hand_over()
        self.flush()

    def freeze(self) -> Recording:
        """Everything so far as a Recording."""
        self.collect()
        tables = {
            name: pa.Table.from_batches(self._batches[name], schema=schema)
            for name, schema in TABLES.items()
            if name not in ("frames", "stacks")
        }
        return recording_from_tables(self._head(), self.stacks, tables)

    def close(self) -> None:
        """Close the streams; the folder stays as it is."""
        self._to_disk(StreamFolder.close)
