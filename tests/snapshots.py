"""Small torch snapshots, built by hand as torch's snapshot format says."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

MIB = 1024**2
BASE = 0x7F00_0000_0000


def entry(action: str, addr: int, size: int, time_us: int = 0, **more: Any) -> dict[str, Any]:
    return {"action": action, "addr": addr, "size": size, "stream": 0, "time_us": time_us, **more}


def block(address: int, size: int, requested: int, state: str = "active_allocated") -> dict[str, Any]:
    return {"address": address, "size": size, "requested_size": requested, "state": state}


def segment(address: int, size: int, blocks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    kind = "small" if size == 2 * MIB else "large"
    head = {"device": 0, "address": address, "total_size": size, "stream": 0, "segment_type": kind}
    return {**head, "blocks": blocks, **more}


def write(path: Path, snapshot: Any) -> Path:
    path.write_bytes(pickle.dumps(snapshot, protocol=4))
    return path


def one_step() -> dict[str, Any]:
    """An 8 MiB weight stays; a 3 MiB activation and a 1,000-byte temporary come and go."""
    weight, activation, temporary = BASE, BASE + 8 * MIB, BASE + 64 * MIB
    frames = [
        {"filename": "/home/me/train.py", "line": 12, "name": "forward"},
        {"filename": "/usr/lib/python3/site-packages/torch/nn/modules/module.py", "line": 1, "name": "_call_impl"},
    ]
    return {
        "segments": [
            segment(
                weight,
                20 * MIB,
                [block(weight, 8 * MIB, 8 * MIB), block(activation, 12 * MIB, 3 * MIB, "inactive")],
            ),
            segment(temporary, 2 * MIB, [block(temporary, 2 * MIB, 1000, "inactive")]),
        ],
        "device_traces": [
            [
                entry("segment_alloc", weight, 20 * MIB, 1),
                entry("alloc", weight, 8 * MIB, 2, frames=frames),
                entry("alloc", activation, 3 * MIB, 3, frames=frames),
                entry("segment_alloc", temporary, 2 * MIB, 4),
                entry("alloc", temporary, 1000, 5, frames=frames),
                entry("free_requested", temporary, 1000, 6),
                entry("free_completed", temporary, 1000, 6),
                entry("free_requested", activation, 3 * MIB, 7),
                entry("free_completed", activation, 3 * MIB, 8),
            ]
        ],
    }
