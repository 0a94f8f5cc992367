"""Turns a recording into one that can be shown to strangers: no path, no name and no command of the user's."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from vramprof.recording.recording import Recording
from vramprof.recording.schema import NO_STACK
from vramprof.recording.stacks import Frame, Stacks

_KEPT_METADATA = (
    "torch_version",
    "cuda_version",
    "python_version",
    "allocator_settings",
    "segments",
    "memory_fractions",
)
_OPEN = ("/torch/", "/triton/")


def scrub(recording: Recording) -> Recording:
    """The same events and bytes. Files, functions, modules and tensors become numbers, except torch's own files.

    Who held what leaked, and where compiled code came from, are dropped, because they are all names.
    """
    names = _Names()
    stacks = Stacks()
    ids = [stacks.add(map(names.frame, recording.stacks.get(index))) for index in range(len(recording.stacks.stacks))]
    lookup = np.array([*ids, NO_STACK])  # the last one is what -1 finds
    tables: dict[str, Any] = {
        name: _with_stacks(getattr(recording, name), lookup) for name in ("events", "blocks", "guessed_reads")
    }
    for table, kind in (("tensors", "tensor"), ("spans", "span")):
        rows: pd.DataFrame = getattr(recording, table)
        tables[table] = rows.assign(name=[names.word(kind, str(name)) for name in rows["name"]])
    reasons = [_reason(str(reason)) for reason in recording.gaps["reason"]]
    tables["gaps"] = recording.gaps.assign(reason=reasons)
    tables["holders"], tables["compiled"] = recording.holders.iloc[:0], recording.compiled.iloc[:0]
    metadata: dict[str, Any] = {key: value for key, value in recording.metadata.items() if key in _KEPT_METADATA}
    return replace(recording, stacks=stacks, metadata={**metadata, "scrubbed": True}, **tables)


def _with_stacks(rows: pd.DataFrame, lookup: np.ndarray[Any, np.dtype[np.int64]]) -> pd.DataFrame:
    return rows.assign(stack=lookup[rows["stack"].to_numpy(dtype=np.int64)].astype(np.int32))


def _reason(reason: str) -> str:
    """Our own words stay; paths, and what an exception said, go."""
    if "/" in reason or "\\" in reason:
        return "scrubbed"
    return re.sub(r"(\w+(?:Error|Exception|Warning)): .*", r"\1", reason, flags=re.DOTALL)


class _Names:
    """Gives each name a number of its kind, the same each time."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        self._count: Counter[str] = Counter()

    def word(self, kind: str, name: str) -> str:
        if name and (kind, name) not in self._known:
            self._known[kind, name] = f"{kind}{self._count[kind]}"
            self._count[kind] += 1
        return self._known.get((kind, name), "")

    def frame(self, frame: Frame) -> Frame:
        path = frame.filename.replace("\\", "/")
        for part in _OPEN:
            if part in path:
                return Frame(path[path.index(part) :], frame.line, frame.name)
        if path.endswith(".py") or path.startswith("<"):
            return Frame(f"/{self.word('file', path)}.py", frame.line, self.word("function", frame.name))
        return Frame("", 0, frame.name if "::" in frame.name else self.word("function", frame.name))
