from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from vramprof.errors import RecordingError
from vramprof.findings import gather_facts
from vramprof.sources.files import load_file


def memory(ts: float, address: int, size: int, allocated: int, reserved: int, **more: Any) -> dict[str, Any]:
    args = {"Device Type": 1, "Device Id": 0, "Addr": address, "Bytes": size, "Total Allocated": allocated}
    return {"ph": "i", "name": "[memory]", "ts": ts, "args": {**args, "Total Reserved": reserved, **more}}


def write(path: Path, events: list[dict[str, Any]], **more: Any) -> Path:
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": events, **more}).encode()))
    return path


def test_what_was_alive_before_the_trace_counts(tmp_path: Path) -> None:
    events = [
        memory(2.5, 4096, 1024, 12288, 1 << 21),
        memory(1.5, 8192, 1024, 11264, 1 << 20),
        memory(3.5, 12288, -4096, 8192, 1 << 21),
        memory(4.5, 99, 8, 8, 0, **{"Device Type": 0, "Device Id": -1}),
    ]
    recording = load_file(write(tmp_path / "t.json.gz", events, baseTimeNanoseconds=10**18))
    (device,) = gather_facts(recording).devices
    assert device.timeline.allocated_bytes.max() == 12288
    assert device.timeline.reserved_bytes.tolist()[-1] == 1 << 21
    assert device.timeline.reserved_bytes.tolist()[0] == 1 << 20
    assert int(recording.events["time_ns"].iloc[0]) == 10**18 + 1500
    assert "neither segments" in recording.gaps["reason"].iloc[0]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"{}", "no traceEvents"),
        (b"[[1, 2]]", "no traceEvents"),
        (b'{"traceEvents": []}', "profile_memory=True"),
        (b'{"traceEvents": [', "not a readable trace"),
        (b"\x1f\x8bnonsense", "not a readable trace"),
        (b'{"traceEvents": [{"name": "[memory]", "args": {"Device Type": 1, "Device Id": 0}}]}', "no addresses"),
    ],
)  # fmt: skip
def test_other_json_is_one_clear_line(content: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=word) as caught:
        load_file(path)
    assert "\n" not in str(caught.value)


def test_every_strangers_trace_peaks_as_its_own_totals_say(strangers_data: Path) -> None:
    read = 0
    for path in sorted((strangers_data / "traces").glob("*.json.gz")):
        if path.name in ("hta_memory_timeline_raw.json.gz", "kineto_resnet50_v100_2021.json.gz"):
            continue
        recording = load_file(path)
        (device,) = gather_facts(recording).devices
        card = recording.devices.iloc[0]
        assert device.timeline.allocated_bytes.max() == card["peak_allocated_bytes"], path
        assert device.timeline.reserved_bytes.max() == card["peak_reserved_bytes"], path
        assert device.allocations.error_bytes == 0
        read += 1
    assert read == 7
