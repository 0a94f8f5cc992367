from __future__ import annotations

import csv
import os
import pickle
from pathlib import Path

import pytest

from snapshots import BASE, MIB, block, one_step, segment, write
from vramprof.analyses.allocations import find_allocations
from vramprof.analyses.timeline import make_timeline
from vramprof.errors import RecordingError, UnsafeFileError
from vramprof.findings import gather_facts
from vramprof.recording import Recording
from vramprof.recording.schema import Action
from vramprof.sources.files import load_file


def test_one_step(tmp_path: Path) -> None:
    facts = gather_facts(load_file(write(tmp_path / "s.pickle", one_step())))
    peak = facts.devices[0].peak
    assert peak.allocated_bytes == 11 * MIB + 1024
    assert peak.requested_bytes == 11 * MIB + 1000
    assert peak.reserved_bytes == 22 * MIB
    assert peak.by_stack[0].frames[0].filename == "/home/me/train.py"


@pytest.mark.parametrize("state", ["active_pending_free", "active_awaiting_free"])
def test_both_spellings_of_pending_free(tmp_path: Path, state: str) -> None:
    snapshot = [segment(BASE, 2 * MIB, [block(BASE, 512, 100), block(BASE + 512, 1024, 1000, state)])]
    allocations = find_allocations(load_file(write(tmp_path / "s.pickle", snapshot)), 0)
    timeline = make_timeline(load_file(write(tmp_path / "s.pickle", snapshot)), allocations)
    assert timeline.allocated_bytes.tolist() == [512]
    assert timeline.reserved_bytes.tolist() == [2 * MIB]


def test_a_bare_list_says_what_it_lacks(tmp_path: Path) -> None:
    recording = load_file(write(tmp_path / "s.pickle", one_step()["segments"]))
    assert "no trace" in recording.gaps["reason"].iloc[0]


def test_legacy_blocks_and_unknown_keys(tmp_path: Path) -> None:
    old = {"size": 512, "state": "active_allocated", "history": [{"addr": BASE, "real_size": 77, "frames": []}]}
    rest = {"size": 2 * MIB - 512, "state": "inactive", "lifetime": {"forked": 1}}
    recording = load_file(write(tmp_path / "s.pickle", {"segments": [segment(BASE, 2 * MIB, [old, rest], tag="x")]}))
    assert recording.blocks["requested_bytes"].tolist() == [77, 2 * MIB - 512]
    assert recording.blocks["address"].tolist() == [BASE, BASE + 512]


def test_frames_are_known_by_what_they_say_shared_or_not(tmp_path: Path) -> None:
    shared = {"filename": "a.py", "line": 1, "name": "f"}
    stacks = [[shared], [shared], [dict(shared)], [shared, shared], [{**shared, "line": 2}], []]
    trace = [
        {"action": "alloc", "addr": BASE + 512 * i, "size": 512, "stream": 0, "frames": frames}
        for i, frames in enumerate(stacks)
    ]
    recording = load_file(write(tmp_path / "s.pickle", {"segments": [], "device_traces": [trace]}))
    assert recording.events["stack"].tolist() == [0, 0, 0, 1, 2, -1]


def test_a_long_trace_keeps_its_order(tmp_path: Path) -> None:
    trace = [{"action": "alloc", "addr": 512 * i, "size": 512, "stream": 0} for i in range(150_000)]
    recording = load_file(write(tmp_path / "s.pickle", {"segments": [], "device_traces": [[], trace]}))
    assert recording.events["address"].tolist() == [512 * i for i in range(150_000)]
    assert set(recording.events["device"]) == {1}


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)


def test_a_malicious_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.pickle").write_bytes(pickle.dumps({"segments": [_Attack()]}))
    with pytest.raises(UnsafeFileError, match="nothing was executed"):
        load_file(tmp_path / "s.pickle")
    assert not (tmp_path / "hacked").exists()


def _damaged() -> dict[str, bytes]:
    whole = pickle.dumps(one_step(), protocol=4)
    return {
        "empty": b"",
        "text": b"not a pickle at all",
        "cut off": whole[: len(whole) // 2],
        "a number": pickle.dumps(7),
        "no segments": pickle.dumps({"device_traces": []}),
        "segments of strings": pickle.dumps({"segments": ["x"]}),
        "events of strings": pickle.dumps({"segments": [], "device_traces": [["alloc"]]}),
        "size no number": pickle.dumps({"segments": [{**one_step()["segments"][0], "total_size": "big"}]}),
        "address beyond 64 bits": pickle.dumps({"segments": [{**one_step()["segments"][0], "address": 2**70}]}),
    }


@pytest.mark.parametrize("name", list(_damaged()))
def test_damaged_files_are_one_clear_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.pickle"
    path.write_bytes(_damaged()[name])
    with pytest.raises(RecordingError) as caught:
        load_file(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def _walked_backward_mib(recording: Recording, device: int) -> int:
    """The index's own arithmetic: requested sizes, backward from the dumped state."""
    blocks = recording.blocks[recording.blocks["device"] == device]
    held = int(blocks.loc[blocks["state"].str.startswith("active"), "size_bytes"].sum())
    peak = held
    events = recording.events[recording.events["device"] == device]
    for action, size in zip(events["action"].tolist()[::-1], events["size_bytes"].tolist()[::-1], strict=True):
        held += {Action.ALLOC: -size, Action.FREE_COMPLETED: size}.get(action, 0)
        peak = max(peak, held)
    return peak // MIB


# Synthetic (sizes that do not match its own blocks), and one whose trace has a single event.
_NO_FORWARD_HISTORY = ("facebookresearch__output.pickle", "muduard__dump_snapshot_3.pickle")


def test_every_strangers_snapshot_reports_its_peak(strangers_snapshots: Path) -> None:
    with (strangers_snapshots / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 49
    compared = 0
    for row in rows:
        recording = load_file(strangers_snapshots / row["file"])
        facts = gather_facts(recording)
        if not row["peak_reserved_mib_by_backward_replay"]:
            assert recording.gaps["reason"].str.contains("state only").any(), row["file"]
            continue
        reserved = [int(mib) for mib in row["peak_reserved_mib_by_backward_replay"].split(";")]
        assert [int(d.timeline.reserved_bytes.max()) // MIB for d in facts.devices] == reserved, row["file"]
        assert all(device.allocations.error_bytes == 0 for device in facts.devices), row["file"]
        if row["file"] in _NO_FORWARD_HISTORY:
            continue
        walked = [_walked_backward_mib(recording, device.index) for device in facts.devices]
        expected = [int(mib) for mib in row["peak_allocated_mib_by_backward_replay"].split(";")]
        assert all(abs(a - b) <= 1 for a, b in zip(walked, expected, strict=True)), row["file"]
        compared += 1
        for device, mib in zip(facts.devices, expected, strict=True):
            # The index adds requested sizes to dumped blocks; the report adds blocks. What lies between is rounding.
            peak = device.peak
            rounding = (peak.allocated_bytes - peak.requested_bytes) / MIB
            dumped = recording.blocks[
                (recording.blocks["device"] == device.index) & recording.blocks["state"].str.startswith("active")
            ]
            bias = float((dumped["size_bytes"] - dumped["requested_bytes"]).sum()) / MIB
            assert mib - bias - 1 <= peak.allocated_bytes / MIB <= mib + rounding + 1, row["file"]
    assert compared == 40
