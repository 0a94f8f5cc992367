"""Turns nested spans of time into the innermost one that holds each moment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from vramprof.analyses.allocations import IntArray

NOWHERE = -1


def innermost(spans: pd.DataFrame, times_ns: IntArray) -> IntArray:
    """For each moment, the position in `spans` of the shortest-begun span that holds it; NOWHERE for none.

    Spans that touch belong to the later one; spans of several threads may overlap, then the later begun wins.
    """
    if spans.empty:
        return np.full(len(times_ns), NOWHERE, dtype=np.int64)
    begins = spans["begin_ns"].to_numpy(dtype=np.int64)
    ends = spans["end_ns"].to_numpy(dtype=np.int64)
    edges, owners = _sweep(begins, ends)
    where = np.searchsorted(edges, times_ns, side="right") - 1
    found = owners[np.clip(where, 0, None)]
    return np.where(where < 0, NOWHERE, found)


def _sweep(begins: IntArray, ends: IntArray) -> tuple[IntArray, IntArray]:
    """Every moment at which the innermost span changes, and which it is from then on."""
    order = sorted([(int(t), 1, i) for i, t in enumerate(begins)] + [(int(t), 0, i) for i, t in enumerate(ends)])
    stack: list[int] = []
    closed: set[int] = set()
    edges: list[int] = []
    owners: list[int] = []
    for time, opens, index in order:
        if opens:
            stack.append(index)
        else:
            closed.add(index)
            while stack and stack[-1] in closed:
                stack.pop()
        edges.append(time)
        owners.append(stack[-1] if stack else NOWHERE)
    return np.array(edges, dtype=np.int64), np.array(owners, dtype=np.int64)


def of_kind(spans: pd.DataFrame, *kinds: str) -> pd.DataFrame:
    """The spans of these kinds in order of their begin."""
    return spans[spans["kind"].isin(kinds)].sort_values("begin_ns", kind="stable").reset_index(drop=True)


def names_of(spans: pd.DataFrame, positions: IntArray) -> npt.NDArray[np.object_]:
    """The span names at these positions; "" for NOWHERE."""
    names = np.array([*spans["name"].tolist(), ""], dtype=object)
    return names[positions]
