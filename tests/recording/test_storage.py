from __future__ import annotations

import json
from pathlib import Path

import pytest

from snapshots import one_step, write
from vramprof.errors import RecordingError
from vramprof.recording import Frame, Recorder, Stacks, load_folder, save_folder
from vramprof.report import Report
from vramprof.sources.files import load_file


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    recording = load_file(write(tmp_path / "s.pickle", one_step()))
    save_folder(recording, tmp_path / "r.vram")
    again = load_folder(tmp_path / "r.vram")
    assert Report(again).as_dict() == Report(recording).as_dict()


def test_a_killed_run_opens(tmp_path: Path) -> None:
    recorder = Recorder(origin="live", emulated=True, folder=tmp_path / "r.vram")
    for index in range(300):
        recorder.add("spans", "step", f"step {index}", index, index + 1, 0, index)
    recorder.flush()
    with (tmp_path / "r.vram" / "spans.arrows").open("ab") as stream:
        stream.write(b"\xff\xff\xff\xff\x10")  # cut in the middle of a batch; the streams were never closed
    recording = load_folder(tmp_path / "r.vram")
    assert len(recording.spans) == 300
    assert recording.emulated
    assert "killed" in recording.gaps["reason"].iloc[0]


@pytest.mark.parametrize("metadata", ["", "[]", "{}", json.dumps({"origin": "live", "schema_version": 99})])
def test_foreign_folders_are_refused(tmp_path: Path, metadata: str) -> None:
    (tmp_path / "metadata.json").write_text(metadata)
    with pytest.raises(RecordingError):
        load_folder(tmp_path)


def test_a_cut_parquet_is_refused(tmp_path: Path) -> None:
    save_folder(load_file(write(tmp_path / "s.pickle", one_step())), tmp_path / "r.vram")
    events = tmp_path / "r.vram" / "events.parquet"
    events.write_bytes(events.read_bytes()[:100])
    with pytest.raises(RecordingError, match="damaged"):
        load_folder(tmp_path / "r.vram")


def test_stacks_are_stored_once() -> None:
    stacks = Stacks()
    frames = [Frame("a.py", 1, "f"), Frame("b.py", 2, "g")]
    assert stacks.add(frames) == stacks.add(list(frames)) == 0
    assert stacks.add(frames[:1]) == 1
    assert stacks.add([]) == -1
    assert (len(stacks.frames), stacks.get(0), stacks.get(-1)) == (2, tuple(frames), ())


def test_a_run_that_allocated_nothing_is_saved(tmp_path: Path) -> None:
    recording = Recorder(origin="live", emulated=False).freeze()
    save_folder(recording, tmp_path / "r.vram")
    assert load_folder(tmp_path / "r.vram").stacks.frames == []
