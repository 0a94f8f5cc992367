"""Turns a Recording into a `.vram` folder of Parquet and back; a folder left by a killed run opens too."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vramprof.errors import RecordingError
from vramprof.recording.feed import FEED
from vramprof.recording.recording import Recording
from vramprof.recording.schema import ORIGINS, SCHEMA_VERSION, TABLES
from vramprof.recording.stacks import Frame, Stacks

_METADATA = "metadata.json"


class StreamFolder:
    """A `.vram` folder while the run is on: one append-only Arrow IPC stream per table.

    An older recording there is replaced.

    Raises:
        RecordingError: the folder holds something else, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _clear(folder)
        except OSError as error:
            raise RecordingError(f"{folder}: {error.strerror or error}") from None
        self._folder = folder
        self._writers: dict[str, tuple[pa.OSFile, pa.RecordBatchStreamWriter]] = {}

    def write(self, table: str, batch: pa.RecordBatch) -> None:
        """Append a batch and hand it to the operating system, so that a kill loses nothing of it."""
        if table not in self._writers:
            sink = pa.OSFile(str(self._folder / f"{table}.arrows"), "wb")
            self._writers[table] = (sink, pa.ipc.new_stream(sink, TABLES[table]))
        sink, writer = self._writers[table]
        writer.write_batch(batch)
        sink.flush()

    def write_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace metadata.json."""
        _write_metadata(self._folder, metadata)

    def close(self) -> None:
        """End every stream."""
        for sink, writer in self._writers.values():
            writer.close()
            sink.close()
        self._writers.clear()


def _clear(folder: Path) -> None:
    """Remove an older recording, and nothing else."""
    if any(folder.iterdir()) and not open_folder(folder):
        raise RecordingError(f"{folder}: the folder is not empty and no recording: choose another with -o")
    for name in (*(f"{table}.{suffix}" for table in TABLES for suffix in ("parquet", "arrows")), FEED, _METADATA):
        (folder / name).unlink(missing_ok=True)


def _write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    text = json.dumps({"schema_version": SCHEMA_VERSION, **metadata}, indent=1, default=str)
    partial = folder / f"{_METADATA}.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / _METADATA)


def save_folder(recording: Recording, folder: Path) -> None:
    """Write the recording as Parquet (zstd), one file per table, replacing the streams of the live run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in TABLES.items():
        table = _stack_table(name, recording.stacks)
        if table is None:
            table = pa.Table.from_pandas(getattr(recording, name), schema=schema, preserve_index=False)
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    _write_metadata(folder, {**recording.metadata, "origin": recording.origin, "emulated": recording.emulated})
    for stream in folder.glob("*.arrows"):
        stream.unlink()


def _stack_table(name: str, stacks: Stacks) -> pa.Table | None:
    if name == "frames":
        columns = list(zip(*stacks.frames, strict=True)) or [(), (), ()]
        return pa.table(
            [pa.array(c, type=f.type) for c, f in zip(columns, TABLES[name], strict=True)], schema=TABLES[name]
        )
    if name == "stacks":
        return pa.table([pa.array(stacks.stacks, type=TABLES[name].field(0).type)], schema=TABLES[name])
    return None


def open_folder(folder: Path) -> bool:
    """Whether this is a `.vram` folder."""
    return folder.is_dir() and (folder / _METADATA).is_file()


def origin_of(folder: Path) -> str:
    """The origin of a recording, without reading it; "" where that cannot be told."""
    try:
        return str(json.loads((folder / _METADATA).read_text(encoding="utf-8")).get("origin", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def load_folder(folder: Path) -> Recording:
    """Read a `.vram` folder, finished or left by a killed run.

    Raises:
        RecordingError: it is none, or what it holds does not fit together.
    """
    try:
        metadata = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
        if not isinstance(metadata, dict) or metadata.get("origin") not in ORIGINS:
            raise RecordingError(f"{folder}: {_METADATA} is not a vramprof recording's")
        if metadata.get("schema_version") != SCHEMA_VERSION:
            raise RecordingError(f"{folder}: schema_version {metadata.get('schema_version')} is not {SCHEMA_VERSION}")
        tables = {name: _read_table(folder, name) for name in TABLES}
        missing = [name for name, table in tables.items() if table is None]
        whole = {name: TABLES[name].empty_table() if table is None else table for name, table in tables.items()}
        stacks = _read_stacks(whole.pop("frames"), whole.pop("stacks"))
        if missing and "events" in missing:
            whole["gaps"] = pa.concat_tables([whole["gaps"], _unfinished_gap()])
        return recording_from_tables(metadata, stacks, whole)
    except RecordingError:
        raise
    except FileNotFoundError as error:
        raise RecordingError(f"{folder}: not a recording (no {_METADATA})") from error
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise RecordingError(f"{folder}: damaged recording ({str(error).splitlines()[0]})") from error


def _unfinished_gap() -> pa.Table:
    reason = "the run was killed before its allocator history was saved; samples, spans and names up to then are here"
    row = {"source": "recorder", "begin_ns": 0, "end_ns": 0, "lost_count": 0, "reason": reason}
    return pa.Table.from_pylist([row], schema=TABLES["gaps"])


def _read_table(folder: Path, name: str) -> pa.Table | None:
    parquet = folder / f"{name}.parquet"
    if parquet.is_file():
        return pq.read_table(parquet).cast(TABLES[name])
    stream = folder / f"{name}.arrows"
    if not stream.is_file():
        return None
    batches: list[pa.RecordBatch] = []
    with pa.OSFile(str(stream), "rb") as source, contextlib.suppress(pa.ArrowInvalid, OSError, EOFError):
        for batch in pa.ipc.open_stream(source):  # the last batch of a killed run may be cut: keep the whole ones
            batches.append(batch)
    return pa.Table.from_batches(batches, schema=TABLES[name])


def _read_stacks(frames: pa.Table, stacks: pa.Table) -> Stacks:
    columns = frames.to_pydict()
    rows = zip(columns["filename"], columns["line"], columns["name"], strict=True)
    return Stacks((Frame(*row) for row in rows), stacks.to_pydict()["frames"])


def recording_from_tables(head: Mapping[str, Any], stacks: Stacks, tables: Mapping[str, pa.Table]) -> Recording:
    """A Recording from Arrow tables."""
    frames: dict[str, pd.DataFrame] = {name: table.to_pandas() for name, table in tables.items()}
    metadata = {key: value for key, value in head.items() if key not in ("origin", "emulated", "schema_version")}
    return Recording(
        origin=str(head["origin"]), emulated=bool(head["emulated"]), metadata=metadata, stacks=stacks, **frames
    )
