from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from snapshots import BASE, MIB, block, entry, one_step, segment, write
from vramprof.analyses.segments import find_segments
from vramprof.api import load


def test_segments_of_a_whole_window(tmp_path: Path) -> None:
    recording = load(write(tmp_path / "s.pickle", one_step())).recording
    found = find_segments(recording, 0)
    rows = zip(found.address, found.size_bytes, found.begin_row, found.end_row, strict=True)
    assert [tuple(map(int, row)) for row in rows] == [(BASE, 20 * MIB, 0, 9), (BASE + 64 * MIB, 2 * MIB, 3, 9)]
    assert found.size_bytes[found.alive(2)].sum() == 20 * MIB


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
    report = load(write(tmp_path / "s.pickle", snapshot))
    found = find_segments(report.recording, 0)
    held = [int(found.size_bytes[found.alive(row)].sum()) // MIB for row in (-1, 0, 1)]
    assert held == [20, 40, 30]
    assert (report.facts.devices[0].timeline.reserved_bytes // MIB).tolist() == held


def test_real_snapshots_sum_to_reserved(strangers_snapshots: Path) -> None:
    for path in sorted(strangers_snapshots.glob("*.pickle"), key=lambda path: path.stat().st_size)[:30]:
        report = load(path)
        for device in report.facts.devices:
            found = find_segments(report.recording, device.index)
            if not device.allocations.event_count:
                continue
            for moment in np.linspace(0, device.allocations.event_count, 7).astype(int):
                held = int(found.size_bytes[found.alive(int(moment) - 1)].sum())
                assert held == pytest.approx(int(device.timeline.reserved_bytes[moment])), (path.name, moment)
