from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from programs import told_by
from snapshots import BASE, MIB, block, entry, one_step, segment, write
from vramprof import load
from vramprof.analyses.causes import CauseKind, OomFigures, rank_causes
from vramprof.cli import main
from vramprof.diagnosis import diagnose
from vramprof.errors import RecordingError
from vramprof.findings import OUT_OF_MEMORY_CODES
from vramprof.recording import Recorder
from vramprof.recording.scrub import scrub

GIB = 1 << 30
LOG = (
    "epoch 1\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
    " 79.26 GiB of which 1.00 GiB is free. Including non-PyTorch memory, this process has 78.14 GiB memory in use."
    " Of the allocated memory 70.00 GiB is allocated by PyTorch, and 7.00 GiB is reserved by PyTorch but unallocated.\n"
)


IDLE_CARD = {"free_bytes": 60 * GIB, "reserved_bytes": 19 * GIB, "held_bytes": 19 * GIB}


def kinds(figures: OomFigures) -> list[CauseKind]:
    return [cause.kind for cause in rank_causes(figures)]


def figures(**changes: int | None) -> OomFigures:
    """A full card: 70 of 80 GiB held, 9 idle nowhere, 1 outside torch."""
    normal: dict[str, int | None] = {
        "tried_bytes": 2 * GIB, "capacity_bytes": 80 * GIB, "free_bytes": GIB, "reserved_bytes": 78 * GIB,
        "held_bytes": 78 * GIB, "idle_bytes": 0, "others_bytes": 0, "outside_bytes": GIB // 2,
    }  # fmt: skip
    return OomFigures(**{**normal, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, CauseKind.CAPACITY),
        ({"held_bytes": 70 * GIB, "idle_bytes": 8 * GIB}, CauseKind.FRAGMENTATION),
        ({"held_bytes": 20 * GIB, "reserved_bytes": 20 * GIB, "others_bytes": 58 * GIB}, CauseKind.OTHER_PROCESSES),
        ({"held_bytes": 60 * GIB, "reserved_bytes": 60 * GIB, "outside_bytes": 19 * GIB}, CauseKind.OUTSIDE_TORCH),
        ({"held_bytes": 50 * GIB, "private_bytes": 28 * GIB}, CauseKind.PRIVATE_POOLS),
        ({"tried_bytes": 200 * GIB}, CauseKind.ABSURD_REQUEST),
        ({"tried_bytes": 60 * GIB, **IDLE_CARD, "free_bytes": 40 * GIB}, CauseKind.ABSURD_REQUEST),
        ({**IDLE_CARD, "allowed_bytes": 20 * GIB}, CauseKind.LIMIT),
        (IDLE_CARD, CauseKind.REFUSED),
    ],
)  # fmt: skip
def test_each_cause_by_its_figures(changes: dict[str, int], kind: CauseKind) -> None:
    assert kinds(figures(**changes))[0] is kind


def test_idle_bytes_too_few_for_the_request_are_no_cause() -> None:
    assert kinds(figures(held_bytes=78 * GIB - 10 * MIB, idle_bytes=10 * MIB)) == [CauseKind.CAPACITY]


def test_a_log_on_the_terminal_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.log"
    path.write_text(LOG)
    assert main(["diagnose", str(path)]) == 1
    output = capsys.readouterr().out
    assert "OUT OF MEMORY GPU 0, line 2" in output
    assert "fragmentation" in output
    assert "not proven" in output
    assert max(map(len, output.splitlines())) <= 80
    assert main(["diagnose", str(path), "--json"]) == 1
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["causes"][0] == {**case["causes"][0], "kind": "fragmentation", "bytes": 7 * GIB, "certain": True}


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.log", "all went well\n", "no out-of-memory error of torch"),
        ("b.log", "MPS backend out of memory (MPS allocated: 1 GiB). Tried to allocate 256.00 MiB on", "is of MPS"),
        ("c.json", "{}", "no traceEvents"),
    ],
)
def test_sources_without_an_error_are_one_line(name: str, content: str, word: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RecordingError, match=word):
        diagnose(tmp_path / name)


def test_without_a_path_the_newest_dump_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordingError, match="name a recording"):
        diagnose()
    write(tmp_path / "s.pickle", one_step())
    found = diagnose()
    assert (found.source, found.failed) == ("s.pickle", False)
    assert "no out-of-memory event is recorded" in str(found)
    assert main(["diagnose"]) == 0


def test_who_holds_the_segments_open(tmp_path: Path) -> None:
    """Two segments of 20 MiB, each with one live block in the middle of its free bytes."""
    frames = [{"filename": "/home/me/train.py", "line": 12, "name": "keep"}]
    other = BASE + (1 << 30)
    blocks = [block(BASE, 8 * MIB, 8 * MIB, "inactive"), block(BASE + 8 * MIB, 4 * MIB, 4 * MIB),
              block(BASE + 12 * MIB, 8 * MIB, 8 * MIB, "inactive")]  # fmt: skip
    more = [block(other, 4 * MIB, 4 * MIB), block(other + 4 * MIB, 16 * MIB, 16 * MIB, "inactive")]
    trace = [
        entry("segment_alloc", BASE, 20 * MIB),
        entry("alloc", BASE, 8 * MIB), entry("alloc", BASE + 8 * MIB, 4 * MIB, frames=frames),
        entry("free_requested", BASE, 8 * MIB), entry("free_completed", BASE, 8 * MIB),
        entry("segment_alloc", other, 20 * MIB), entry("alloc", other, 4 * MIB, frames=frames),
        {"action": "oom", "device_free": 2 * MIB, "size": 24 * MIB, "stream": 0, "time_us": 1},
    ]  # fmt: skip
    path = write(tmp_path / "s.pickle", {
        "segments": [segment(BASE, 20 * MIB, blocks), segment(other, 20 * MIB, more)], "device_traces": [trace],
    })  # fmt: skip
    (case,) = diagnose(path).cases
    assert [cause.kind for cause in case.causes] == [CauseKind.FRAGMENTATION]
    assert case.state is not None
    assert case.state.moment.free.split == case.state.moment.free.total == 32 * MIB
    assert case.state.moment.largest_hole_bytes == 16 * MIB
    (pin,) = case.state.moment.pins
    assert (pin.held_bytes, pin.block_count, pin.hole_bytes) == (8 * MIB, 2, 32 * MIB)
    assert pin.frames[0].line == 12
    (finding,) = [one for one in load(path).findings if one.code in OUT_OF_MEMORY_CODES]
    assert finding.code == "VP402"
    assert [e.value for e in finding.evidence] == [24 * MIB, 2 * MIB, 16 * MIB, 32 * MIB]


FRAGMENTED = """
import json, pickle, torch
torch.cuda.memory._record_memory_history(context="all", stacks="python")
keep = []
try:
    for turn in range(14):
        keep.append(torch.empty(200 << 20, dtype=torch.uint8, device="cuda"))
    keep = keep[::2]
    small = [torch.empty(110 << 20, dtype=torch.uint8, device="cuda") for _ in range(7)]
    keep = None
    large = torch.empty({last} << 20, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError as error:
    text = str(error)
    pickle.dump(torch.cuda.memory._snapshot(), open({path!r}, "wb"), protocol=4)
print(json.dumps(text))
"""


def test_what_if_proves_the_setting_that_saves_a_fragmented_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "s.pickle")
    text = told_by(FRAGMENTED.format(path=path, last=1900), gpu="a100-80gb:memory=3500MiB")
    found = diagnose(path, what_if=True)
    (case,) = found.cases
    assert case.causes[0].kind is CauseKind.FRAGMENTATION
    assert case.exact_replay is True
    assert case.cure is not None
    assert case.cure.setting.name == "expandable_segments:True"
    own = next(trial for trial in case.trials if trial.risk < 0)
    assert not own.outcome.fits
    assert main(["diagnose", path, "--what-if"]) == 3
    assert "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in capsys.readouterr().out
    (tmp_path / "train.log").write_text(text)
    assert diagnose(tmp_path / "train.log").cases[0].causes[0].kind is CauseKind.FRAGMENTATION


def test_a_scrubbed_recording_has_the_bytes_and_no_names(tmp_path: Path) -> None:
    path = write(tmp_path / "s.pickle", one_step())
    assert main(["diagnose", str(path), "--scrub", str(tmp_path / "out.vram")]) == 0
    before, after = load(path), load(tmp_path / "out.vram")
    assert after.facts.devices[0].peak.allocated_bytes == before.facts.devices[0].peak.allocated_bytes
    assert after.facts.devices[0].peak.by_stack[0].frames[0] == ("/file0.py", 12, "function0")
    tables = [pd.read_parquet(file).to_dict() for file in (tmp_path / "out.vram").glob("*.parquet")]
    written = str(tables) + (tmp_path / "out.vram" / "metadata.json").read_text()
    assert "file0" in written
    for word in ("train.py", "/home/me", "forward", str(tmp_path)):
        assert word not in written
    assert main(["diagnose", str(path), "--scrub", str(tmp_path / "out.vram")]) == 2


def test_what_an_exception_said_is_scrubbed_too() -> None:
    recorder = Recorder(origin="live", emulated=False)
    recorder.gap("spans", "stopped marking: KeyError: 'our_secret_model'")
    recorder.gap("samples", "NVML was not read")
    reasons = scrub(recorder.freeze()).gaps["reason"].tolist()
    assert reasons == ["stopped marking: KeyError", "NVML was not read"]


def test_the_strangers_out_of_memory_error(strangers_snapshots: Path) -> None:
    (case,) = diagnose(strangers_snapshots / "constructor-sun__memory_snapshot.pickle").cases
    assert case.causes[0].kind is CauseKind.CAPACITY
    assert case.figures is not None
    assert case.figures.requested_bytes == 5308694528
    assert case.figures.free_bytes == 95682560
    assert case.frames[0].name == "update_nodes"
