"""Rows of whole numbers and numbered texts, kept as bytes until the recorder asks for them as columns of a table.

Not objects: what a recorder keeps must not make Python's garbage collector run oftener, nor longer.
"""

from __future__ import annotations

import struct
import threading

import numpy as np
import pyarrow as pa

from vramprof.recording import Recorder

_FLUSH_BYTES = 1 << 19


class PackedRows:
    """Rows of one table. Safe to append to from several threads.

    Args:
        columns: in the order of the rows; those in `texts` hold what `number` gave for a text.
    """

    def __init__(self, recorder: Recorder, table: str, columns: tuple[str, ...], *, texts: tuple[str, ...]) -> None:
        self._recorder = recorder
        self._table = table
        self._columns = columns
        self._texts = texts
        self._words: dict[str, int] = {}
        self._pack = struct.Struct(f"{len(columns)}q").pack
        self._rows = bytearray()
        self._lock = threading.RLock()  # a signal's handler may end the session
        recorder.before_freeze(self.flush)

    def number(self, text: str) -> int:
        """The number that stands for a text in a row."""
        words = self._words
        return words.setdefault(text, len(words))

    def append(self, *row: int) -> None:
        """Add a row."""
        packed = self._pack(*row)
        self._rows.extend(packed)  # not +=: between its load and its store another thread may flush
        if len(self._rows) >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand the rows to the recorder."""
        with self._lock:
            rows, self._rows = self._rows, bytearray()
        if not rows:
            return
        numbers = np.frombuffer(rows, dtype=np.int64).reshape(-1, len(self._columns)).T
        columns = dict(zip(self._columns, numbers, strict=True))
        words = pa.array(list(self._words))
        self._recorder.extend(
            self._table, {**columns, **{name: words.take(pa.array(columns[name])) for name in self._texts}}
        )
