"""What a replay plays: one device's requests in order, the state that they begin in, and the settings to try."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class Op(IntEnum):
    """One request to the allocator. FAIL is a request that the recording says failed."""

    FREE = 0
    ALLOC = 1
    EMPTY_CACHE = 2
    FAIL = 3


HOLE, UNMAPPED = -1, -2
"""Slots of a first state's free bytes, and of addresses without memory inside an expandable segment."""


@dataclass(frozen=True)
class FirstSegment:
    """A segment before the first request: its blocks as (slot, bytes), in place and without gaps.

    An expandable one spans every run mapped for its stream, pool and size class, with UNMAPPED between them.
    """

    stream: int
    pool: int
    is_small: bool
    is_expandable: bool
    blocks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Tape:
    """Columns of equal length, one row per request; `row` is its row among the device's recorded events.

    `slot` numbers blocks, `stream` and `pool` are numbers from 0, the default ones. Without first segments
    (`first`) the replay begins with nothing. `own` is the recording's own allocator configuration, and
    `available_bytes` what the device had for torch, None where the recording does not tell.
    """

    op: IntArray
    slot: IntArray
    size_bytes: IntArray
    stream: IntArray
    pool: IntArray
    row: IntArray
    slot_count: int
    stream_count: int
    pool_count: int
    first: tuple[FirstSegment, ...]
    own: str
    total_bytes: int
    available_bytes: int | None


@dataclass(frozen=True)
class Setting:
    """One thing to try. `conf` replaces the tape's own PYTORCH_CUDA_ALLOC_CONF, where it is not None.

    `in_place` False allocates the first state's live blocks afresh, as if the setting had always held.
    """

    name: str
    conf: str | None = None
    fraction: float | None = None
    total_bytes: int | None = None
    available_bytes: int | None = None
    empty_cache_at: int | None = None
    in_place: bool = True


@dataclass(frozen=True)
class Outcome:
    """What torch's allocator did under a setting.

    `fits` says that no request failed, the one that failed in the recording included. `margin_bytes` is what the
    driver still had then, after the cache was emptied; None where the card's size is not known. `failed_row` is the
    recorded event that failed. `error` is why the replay could not be done at all, and empty if it could.
    """

    fits: bool = False
    peak_reserved_bytes: int = 0
    peak_allocated_bytes: int = 0
    margin_bytes: int | None = None
    retry_count: int = 0
    failed_row: int | None = None
    failed_bytes: int = 0
    error: str = ""
    segment_events: tuple[tuple[str, int], ...] = ()
    first_state: tuple[tuple[int, int, int, str], ...] = ()
    seconds: float = 0.0
