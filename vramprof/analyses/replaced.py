"""Tells a tensor that each step replaces by a larger one from batches that happen to grow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vramprof.analyses.allocations import Allocations, IntArray
from vramprof.analyses.trend import find_trend

_MOST_STEPS_RATIO = 0.8
_UNLIKELY = 0.05


def replaced_by_larger(
    level: npt.NDArray[np.float64], rows: IntArray, allocations: Allocations, birth: IntArray, death: IntArray
) -> bool:
    """Whether a series of sizes grows as `torch.cat([buffer, new])` does.

    The growth of a step is the size of another tensor (what was appended), or the same in every step, while the
    steps' own work does not grow, as it would with longer batches.
    """
    rises = np.diff(level)
    if len(rises) == 0 or (rises > 0).mean() < _MOST_STEPS_RATIO:
        return False
    blocks = max(round(len(rows) / max(len(np.unique(birth[rows])), 1)), 1)
    others = np.delete(allocations.requested_bytes, rows)
    appended = float(np.isin(rises / blocks, others).mean())
    same = float((rises == np.median(rises)).mean()) >= _MOST_STEPS_RATIO
    return (same or appended >= _MOST_STEPS_RATIO) and not _work_grows(allocations, birth, death, len(level))


def _work_grows(allocations: Allocations, birth: IntArray, death: IntArray, count: int) -> bool:
    """Whether the temporaries of a step grow over the steps."""
    within = (birth >= 0) & (birth == death) & (birth < count)
    work = np.bincount(birth[within], weights=allocations.requested_bytes[within], minlength=count)
    return find_trend(work).p_value < _UNLIKELY
