"""Turns a device's timeline into rows of coloured half blocks for the terminal, stacked by category."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vramprof.analyses.allocations import IntArray
from vramprof.findings import DeviceFacts
from vramprof.renderers.series import make_series

EMPTY = -1


def skyline(device: DeviceFacts, *, width: int, height: int) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Names of categories, and for each half row from the top and each column the category there, or EMPTY.

    A column is the highest moment of its share of the events; the highest column fills `2 * height` half rows.
    """
    series = make_series(device, 4 * width)
    names = list(series.by_category)
    held = np.array([series.by_category[name] for name in names], dtype=np.int64).reshape(len(names), -1)
    chosen = _highest(series.event, series.allocated_bytes, width)
    tops = np.cumsum(held[:, chosen], axis=0)
    levels = np.rint(tops * (2 * height) / max(int(series.allocated_bytes.max()), 1)).astype(np.int64)
    rows = np.arange(2 * height, 0, -1)
    found = (levels[:, None, :] < rows[None, :, None]).sum(axis=0)
    return names, np.where(found == len(names), EMPTY, found)


def _highest(event: IntArray, allocated: IntArray, width: int) -> IntArray:
    """For each column the position of its highest moment; a column without one has that of the column before."""
    column = np.minimum(event * width // (int(event[-1]) + 1), width - 1)
    order = np.lexsort((allocated, column))
    best = np.full(width, EMPTY, dtype=np.int64)
    best[column[order]] = order  # the last one wins, and it is the highest
    return best[np.maximum.accumulate(np.where(best == EMPTY, 0, np.arange(width)))]
