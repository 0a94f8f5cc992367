"""What other tools read: each form holds the recording's own numbers, and says when it was emulated."""

from __future__ import annotations

import gzip
import importlib.util
import json
import pickletools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from recordings import MIB, training

from snapshots import BASE, block, entry, one_step, segment, write
from vramprof.api import Report, load
from vramprof.errors import VramprofError
from vramprof.renderers.forms import FORMS
from vramprof.report import Reports

HOSTILE = "</script><img src=x onerror=alert(1)>\n;$x$ &"


@pytest.fixture(scope="module")
def report() -> Report:
    return Report(training())


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol-buffer message: numbers, and bytes for what has a length."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        else:
            assert key & 7 == 2
            length = number()
            yield key >> 3, message[at : at + length]
            at += length


def packed(message: bytes) -> list[int]:
    return [value for _, value in fields(b"".join(b"\x08" + part for part in _varints(message)))]


def _varints(message: bytes) -> Iterator[bytes]:
    begin = 0
    for at, byte in enumerate(message):
        if byte < 0x80:
            yield message[begin : at + 1]
            begin = at + 1


def test_pprof_sums_to_the_peak(report: Report, tmp_path: Path) -> None:
    report.save_as("pprof", tmp_path / "peak.pb.gz")
    profile = list(fields(gzip.decompress((tmp_path / "peak.pb.gz").read_bytes())))
    strings = [text.decode() for field, text in profile if field == 6]
    types = [tuple(strings[value] for _, value in fields(body)) for field, body in profile if field == 1]
    assert types == [("inuse_objects", "count"), ("inuse_space", "bytes")]
    samples = [dict(fields(body)) for field, body in profile if field == 2]
    assert sum(packed(sample[2])[1] for sample in samples) == report.facts.devices[0].peak.allocated_bytes
    functions = {dict(fields(body))[1]: strings[dict(fields(body))[2]] for field, body in profile if field == 5}
    locations = {dict(fields(body))[1]: dict(fields(dict(fields(body))[4])) for field, body in profile if field == 4}
    leaves = {functions[locations[packed(sample[1])[0]][1]] for sample in samples}
    assert leaves == {"build", "forward", "<module>"}
    assert any("EMULATED" in strings[value] for field, value in profile if field == 13)


def test_folded_stacks_sum_to_the_peak(report: Report, tmp_path: Path) -> None:
    lines = report.save(tmp_path / "peak.folded").read_text().splitlines()
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == report.facts.devices[0].peak.allocated_bytes
    assert all(line.startswith("EMULATED GPU 0 Test GPU;") for line in lines)
    assert f"<module> (/me/train.py:1);build (/me/model.py:3);weights {4 * MIB}" in "\n".join(lines)


def test_perfetto_has_counters_slices_and_phases(report: Report, tmp_path: Path) -> None:
    trace = json.loads(gzip.decompress(report.save(tmp_path / "run.perfetto").read_bytes()))
    events = trace["traceEvents"]
    assert trace["otherData"]["emulated"] is True
    assert any("EMULATED" in event["args"]["name"] for event in events if event["ph"] == "M")
    allocated = [e["args"]["bytes"] for e in events if e["ph"] == "C" and e["name"] == "allocated (bytes)"]
    assert max(allocated) == report.facts.devices[0].peak.allocated_bytes
    begun = [event["id"] for event in events if event["ph"] == "b"]
    assert sorted(begun) == sorted(event["id"] for event in events if event["ph"] == "e")
    assert len(begun) == len(set(begun)) == len(report.facts.devices[0].allocations.address)
    assert {event["name"] for event in events if event["ph"] == "X"} >= {
        "step 0",
        "forward",
        "backward",
        "layers.0.mlp",
    }
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in events if event["ph"] == "X")


def test_a_snapshot_comes_back(report: Report, tmp_path: Path) -> None:
    path = report.save(tmp_path / "out.pickle")
    assert max(op.proto for op, _, _ in pickletools.genops(path.read_bytes())) <= 4
    again, before = load(path), report.recording
    columns = ["device", "action", "address", "size_bytes", "stream"]
    pd.testing.assert_frame_equal(again.recording.events[columns], before.events[columns])
    pd.testing.assert_frame_equal(again.recording.blocks.drop(columns="stack"), before.blocks.drop(columns="stack"))
    assert [again.recording.stacks.get(stack) for stack in again.recording.events["stack"]] == [
        before.stacks.get(stack) for stack in before.events["stack"]
    ]
    assert again.facts.devices[0].peak.allocated_bytes == report.facts.devices[0].peak.allocated_bytes
    assert again.recording.emulated
    assert "EMULATED" in again.text()
    assert again.save(tmp_path / "again.pickle").read_bytes().count(b"EMULATED") == 1


def test_torchs_own_viewer_opens_it(report: Report, tmp_path: Path) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    path, plot = report.save(tmp_path / "out.pickle"), tmp_path / "plot.html"
    command = [sys.executable, "-m", "torch.cuda._memory_viz", "trace_plot", str(path), "-o", str(plot)]
    subprocess.run(command, check=True, timeout=120, capture_output=True, cwd=tmp_path)
    assert plot.stat().st_size > 1000


def test_pictures_say_emulated_and_escape(tmp_path: Path) -> None:
    recording = training()
    recording.devices.loc[:, "name"] = HOSTILE
    picture = Report(recording).save(tmp_path / "run.svg").read_text()
    words = [text for element in ElementTree.fromstring(picture).iter() for text in element.itertext()]
    assert sum("EMULATED" in text for text in words) >= 3
    assert any("<img src=x onerror=alert(1)>" in text for text in words)
    assert "<img" not in picture
    alone = Report(recording).picture(tmp_path / "peak.svg", "peak").read_text()
    assert alone.count("EMULATED") == 1
    with pytest.raises(VramprofError, match="panels are"):
        Report(recording).picture(tmp_path / "x.svg", "pie")
    assert Report(training(emulated=False)).save(tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_every_form_is_written_for_a_snapshot_without_anything(tmp_path: Path) -> None:
    state_only = {"segments": [segment(BASE, 2 * MIB, [block(BASE, 2 * MIB, 1000)])]}
    no_blocks = {"segments": [], "device_traces": [[entry("segment_alloc", BASE, 2 * MIB, 1)]]}
    for number, snapshot in enumerate(({"segments": []}, state_only, no_blocks, one_step())):
        report = load(write(tmp_path / f"{number}.in.pickle", snapshot))
        for form in FORMS:
            assert report.save_as(form, tmp_path / f"{number}.{form}").exists()
    with pytest.raises(VramprofError, match=r"save as \.html"):
        report.save(tmp_path / "run.docx")


def test_hostile_names_reach_every_form_as_text(tmp_path: Path) -> None:
    report = Report(training(module=HOSTILE))
    assert HOSTILE not in report._repr_html_()
    assert report._repr_html_().count("<iframe") == 1
    assert "<script" not in report._repr_html_()
    names = json.loads(gzip.decompress(report.save(tmp_path / "x.perfetto").read_bytes()))["traceEvents"]
    assert HOSTILE in {event["name"] for event in names}
    for line in report.save(tmp_path / "x.folded").read_text().splitlines():
        assert line.rpartition(" ")[2].isdigit()


def test_a_difference_and_a_job_are_told(tmp_path: Path) -> None:
    both = Report(training()).compare(Report(training(activation_mib=12, emulated=False)), labels=("dry", "real"))
    text = str(both)
    assert "EMULATED: dry" in text
    assert "EMULATED: real" not in text
    assert "+4.00 MiB" in text
    ranks = Reports({f"rank{r}": Report(training(activation_mib=12 if r == 2 else 8)) for r in range(4)}, kind="ranks")
    odd = [line for line in str(ranks).splitlines() if line.endswith("odd one out")]
    assert len(odd) == 1
    assert odd[0].startswith("rank2")
