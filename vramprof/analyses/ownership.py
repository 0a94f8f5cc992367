"""Turns dumped segments and samples into who else owns memory: private pools of graphs and programs, and what lies
outside torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vramprof.analyses.allocations import Allocations
from vramprof.analyses.spans import innermost
from vramprof.recording import Recording

DEFAULT_POOL = "0,0"
_LEAST_RISE_BYTES = 1 << 20


@dataclass(frozen=True)
class Pool:
    """A pool beside torch's own: its id, whether the program made it (torch.cuda.MemPool, graph_pool_handle) or a CUDA
    graph's capture did, and its bytes: reserved at the end, allocated at the peak. Blind to pools gone by the end."""

    id: str
    owner: str
    reserved_bytes: int
    peak_allocated_bytes: int


@dataclass(frozen=True)
class OutsideBytes:
    """Bytes of the process that are not torch's, and when they came: measured as a sum, the owner inferred."""

    owner: str
    bytes: int


def find_pools(recording: Recording, allocations: Allocations, row: int) -> tuple[Pool, ...]:
    """The pools of one device but torch's own, the largest first; allocated right after event `row`."""
    blocks = recording.blocks[recording.blocks["device"] == allocations.device]
    private = blocks[blocks["pool_id"] != DEFAULT_POOL].drop_duplicates("segment_address")
    addresses = allocations.address[allocations.alive(row)]
    sizes = allocations.size_bytes[allocations.alive(row)]
    found = []
    for pool, segments in private.groupby("pool_id"):
        columns = (segments[name].tolist() for name in ("segment_address", "segment_size_bytes"))
        inside = np.zeros(len(addresses), dtype=np.bool_)
        for begin, size in zip(*columns, strict=True):
            inside |= (addresses >= begin) & (addresses < begin + size)
        reserved = int(segments["segment_size_bytes"].sum())
        found.append(Pool(str(pool), _owner(str(pool)), reserved, int(sizes[inside].sum())))
    return tuple(sorted(found, key=lambda pool: -pool.reserved_bytes))


def _owner(pool: str) -> str:
    """c10/cuda: the first number counts the pools of captures, the second those that a program asked for."""
    return "cuda graph" if pool.endswith(",0") else "program"


def find_outside(recording: Recording, device: int) -> tuple[OutsideBytes, ...]:
    """The process in NVML less reserved: what the first sample had, then each rise by the phase that it was seen in.

    The rows sum to the last sample's figure. Samples lie 50 ms apart in a trace: a rise may be seen in the phase after.
    """
    samples = recording.samples[recording.samples["device"] == device]
    both = samples[(samples["process_bytes"] >= 0) & (samples["reserved_bytes"] >= 0)].sort_values("time_ns")
    if both.empty:
        return ()
    levels = (both["process_bytes"] - both["reserved_bytes"]).to_numpy(dtype=np.int64)
    phases = recording.spans[recording.spans["kind"].isin(("forward", "recompute", "backward", "optimizer"))]
    phases = phases.reset_index(drop=True)
    where = innermost(phases, both["time_ns"].to_numpy(dtype=np.int64))
    total = {"at the first sample: CUDA context and what was loaded by then": int(levels[0])}
    rest = int(levels[-1] - levels[0])
    for rise, place in zip(np.diff(levels).tolist(), where[1:].tolist(), strict=True):
        if rise >= _LEAST_RISE_BYTES:
            phase = "outside every phase" if place < 0 else f"in {phases['kind'].iloc[place]}"
            total[f"came {phase}"] = total.get(f"came {phase}", 0) + rise
            rest -= rise
    if rest:
        total["small changes, and what was given back"] = rest
    return tuple(OutsideBytes(owner, size) for owner, size in total.items())
