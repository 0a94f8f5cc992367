"""A frozen recording: tables, stacks and metadata, the same whatever source they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vramprof.recording.stacks import Stacks


@dataclass(frozen=True, eq=False)
class Recording:
    """What happened to GPU memory; `vramprof.recording.schema.TABLES` names each table's columns.

    `origin` is "live", "oom", "snapshot" or "predicted"; `emulated` says that no real GPU was involved.
    """

    origin: str
    emulated: bool
    metadata: Mapping[str, Any]
    stacks: Stacks
    events: pd.DataFrame
    blocks: pd.DataFrame
    samples: pd.DataFrame
    spans: pd.DataFrame
    tensors: pd.DataFrame
    devices: pd.DataFrame
    guessed_reads: pd.DataFrame
    holders: pd.DataFrame
    compiled: pd.DataFrame
    gaps: pd.DataFrame

    @property
    def device_indices(self) -> list[int]:
        """Every device with anything to tell, ascending."""
        found: set[int] = set()
        for table in (self.devices, self.events, self.blocks):
            found.update(int(index) for index in table["device"].unique())
        return sorted(found)
