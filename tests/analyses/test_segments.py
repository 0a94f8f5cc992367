from __future__ import annotations

from pathlib import Path

import numpy as np

from snapshots import BASE, MIB, block, entry, one_step, segment, write
from vramprof.analyses.allocations import find_allocations
from vramprof.analyses.segments import find_segments
from vramprof.analyses.timeline import make_timeline
from vramprof.api import load


def test_segments_of_a_whole_window(tmp_path: Path) -> None:
    recording = load(write(tmp_path / "s.pickle", one_step())).recording
    found = find_segments(recording, 0)
    rows = zip(found.address, found.size_bytes, found.begin_row, found.end_row, strict=True)
    assert [tuple(map(int, row)) for row in rows] == [(BASE, 20 * MIB, 0, 9), (BASE + 64 * MIB, 2 * MIB, 3, 9)]
    assert found.held(2)[1].sum() == 20 * MIB


def test_parts_of_an_expandable_segment_come_and_go(tmp_path: Path) -> None:
    """20 MiB mapped before the window; 20 more; the middle 10 are given back; the dump has what is left."""
    snapshot = {
        "segments": [
            segment(BASE, 15 * MIB, [block(BASE, 15 * MIB, 15 * MIB)], is_expandable=True),
            segment(BASE + 25 * MIB, 15 * MIB, [block(BASE + 25 * MIB, 15 * MIB, 15 * MIB)], is_expandable=True),
        ],
        "device_traces": [
            [
                entry("segment_map", BASE + 20 * MIB, 20 * MIB, 1),
                entry("segment_unmap", BASE + 15 * MIB, 10 * MIB, 2),
            ]
        ],
    }
    recording = load(write(tmp_path / "s.pickle", snapshot)).recording
    found = find_segments(recording, 0)
    held = [int(found.held(row)[1].sum()) // MIB for row in (-1, 0, 1)]
    assert held == [20, 40, 30]
    assert [len(found.held(row)[0]) for row in (-1, 0, 1)] == [1, 1, 2]
    assert (make_timeline(recording, find_allocations(recording, 0)).reserved_bytes // MIB).tolist() == held


def test_real_snapshots_have_every_block_in_a_segment(strangers_snapshots: Path) -> None:
    paths = [path for path in strangers_snapshots.glob("*.pickle") if "facebookresearch" not in path.name]  # synthetic
    for path in paths:
        recording = load(path).recording
        for device in recording.device_indices:
            found, allocations = find_segments(recording, device), find_allocations(recording, device)
            count, reserved = allocations.event_count, make_timeline(recording, allocations).reserved_bytes
            for moment in np.linspace(0, count, 7).astype(int).tolist() if count else ():
                starts, sizes = found.held(moment - 1)
                assert int(sizes.sum()) == int(reserved[moment]), (path.name, moment)
                alive = allocations.alive(moment - 1)
                home = np.searchsorted(starts, allocations.address[alive], side="right") - 1
                inside = allocations.address[alive] + allocations.size_bytes[alive] <= (starts + sizes)[home]
                assert (home >= 0).all(), (path.name, moment)
                assert inside.all(), (path.name, moment)
