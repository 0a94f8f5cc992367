from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from programs import told_by
from vramprof.analyses.allocations import find_allocations
from vramprof.analyses.replay_tape import expected_state, make_tape, rebuilt_state, recorded_segment_events
from vramprof.analyses.timeline import make_timeline
from vramprof.emulator.replay import replay
from vramprof.emulator.tape import Outcome, Setting, Tape
from vramprof.recording import Recording
from vramprof.sources.files import load_file

PROGRAM = """
import json, os, pickle, random, sys
import torch
def run(path, conf, *, side=0.0, most=60, before=0, turns=1500):
    set_conf = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    (set_conf or torch.cuda.memory._set_allocator_settings)(conf or "expandable_segments:False")
    random.seed(0)
    live, other, failed = [], torch.cuda.Stream(), False
    for number in range(before + turns):
        if number == before:
            torch.cuda.memory._record_memory_history(context=None)
        size = int(2 ** random.uniform(6, 27))
        try:
            with torch.cuda.stream(other if random.random() < side else torch.cuda.default_stream()):
                live.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            break
        while len(live) > most:
            live.pop(random.randrange(len(live)))
        if number % 400 == 399:
            torch.cuda.empty_cache()
    pickle.dump(torch.cuda.memory._snapshot(), open(path, "wb"), protocol=4)
for path, options in json.loads(JOBS).items():
    if not os.fork():  # torch is imported once; each child has a CUDA context and settings of its own
        run(path, **options)
        os._exit(0)
    assert os.wait()[1] == 0
print("null")
"""
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {"conf": ""},
    "expandable": {"conf": "expandable_segments:True"},
    "max split": {"conf": "max_split_size_mb:24"},
    "divisions": {"conf": "roundup_power2_divisions:4"},
    "divisions by size": {"conf": "roundup_power2_divisions:[1:2,8:8,>:1]"},
    "two streams": {"conf": "", "side": 0.4},
    "two streams, expandable": {"side": 0.4, "conf": "expandable_segments:True"},
    "split and divisions": {"conf": "max_split_size_mb:40,roundup_power2_divisions:8", "most": 90},
}
LATE = {name: {**CONFIGURATIONS[name], "before": 777, "turns": 700} for name in ("default", "expandable", "max split")}


def record(folder: Path, gpu: str, jobs: dict[str, dict[str, Any]]) -> dict[str, Recording]:
    paths = {name: folder / f"{number}.pickle" for number, name in enumerate(jobs)}
    told_by(PROGRAM.replace("JOBS", repr(json.dumps({str(paths[name]): jobs[name] for name in jobs}))), gpu=gpu)
    return {name: load_file(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recording]:
    return record(tmp_path_factory.mktemp("whole"), "a100-80gb", CONFIGURATIONS)


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recording]:
    return record(tmp_path_factory.mktemp("late"), "a100-80gb", LATE)


def played(recording: Recording, *settings: Setting) -> tuple[Tape, list[Outcome]]:
    tape = make_tape(recording, find_allocations(recording, 0))
    return tape, replay(tape, settings or (Setting("own"),), detail=9)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_whole_history_gives_its_own_segment_events(name: str, whole: dict[str, Recording]) -> None:
    recording = whole[name]
    _, (outcome,) = played(recording)
    assert outcome.error == ""
    expected = recorded_segment_events(recording, 0)
    assert outcome.segment_events == expected
    assert len(expected) > 40
    timeline = make_timeline(recording, find_allocations(recording, 0))
    assert outcome.peak_reserved_bytes == timeline.reserved_bytes.max()
    assert outcome.peak_allocated_bytes == timeline.allocated_bytes.max()


@pytest.mark.parametrize("name", LATE)
def test_a_history_that_begins_late_begins_with_the_same_blocks_in_place(name: str, late: dict[str, Recording]) -> None:
    tape, (outcome,) = played(late[name])
    assert outcome.error == ""
    assert len(tape.first) > (1 if "expandable" in name else 5)
    assert rebuilt_state(outcome) == expected_state(tape)
    assert outcome.fits


def test_an_out_of_memory_error_fails_again_and_fits_on_a_larger_card(tmp_path: Path) -> None:
    recording = record(tmp_path, "a100-80gb:memory=2GiB", {"full": {"conf": "", "most": 300, "turns": 400}})["full"]
    settings = (Setting("own"), Setting("larger", available_bytes=40 << 30), Setting("bad", conf="no_such_key:1"))
    tape, (own, larger, bad) = played(recording, *settings)
    assert tape.available_bytes is not None
    assert not own.fits
    assert own.failed_row == int(tape.row[-1])
    assert own.segment_events == recorded_segment_events(recording, 0)
    assert larger.fits
    assert larger.margin_bytes is not None
    assert 0 < (40 << 30) - larger.margin_bytes <= larger.peak_reserved_bytes
    assert bad.error


def test_a_strangers_complete_history(strangers_snapshots: Path) -> None:
    """scripts/measure_replay has all of them."""
    recording = load_file(strangers_snapshots / "constructor-sun__memory_snapshot.pickle")
    for device in (0, 1):
        tape = make_tape(recording, find_allocations(recording, device))
        assert tape.first == ()
        (outcome,) = replay(tape, [Setting("own")], detail=1)
        assert outcome.segment_events == recorded_segment_events(recording, device)
        assert outcome.fits is (device == 0)
