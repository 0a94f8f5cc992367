from __future__ import annotations

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
import json, pickle, random, torch
history = torch.cuda.memory._record_memory_history
random.seed({seed})
torch.cuda.set_per_process_memory_fraction({fraction})
live, side, failed = [], torch.cuda.Stream(), 0
def turn(number):
    global failed
    size = int(2 ** random.uniform(6, 27))
    stream = side if random.random() < {side} else torch.cuda.default_stream()
    try:
        with torch.cuda.stream(stream):
            live.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        failed += 1
        del live[: len(live) // 2]
    if random.random() < {used}:
        live[-1].record_stream(side)
    while len(live) > {most}:
        live.pop(random.randrange(len(live)))
    if number % 400 == 399:
        torch.cuda.empty_cache()
for number in range({before}):
    turn(number)
history(context=None)
for number in range({turns}):
    turn(number)
pickle.dump(torch.cuda.memory._snapshot(), open({path!r}, "wb"), protocol=4)
print(json.dumps(failed))
"""
NORMAL: dict[str, Any] = {
    "seed": 0, "fraction": 1.0, "side": 0.0, "used": 0.0, "most": 60, "before": 0, "turns": 1500, "gpu": "a100-80gb",
    "conf": "",
}  # fmt: skip


def recorded(path: Path, **changes: Any) -> tuple[Recording, int]:
    options = {**NORMAL, **changes, "path": str(path / "s.pickle")}
    gpu, conf = options.pop("gpu"), options.pop("conf")
    failed = told_by(PROGRAM.format(**options), gpu=gpu, environment={"PYTORCH_CUDA_ALLOC_CONF": conf})
    return load_file(path / "s.pickle"), failed


def played(recording: Recording, *settings: Setting) -> tuple[Tape, list[Outcome]]:
    tape = make_tape(recording, find_allocations(recording, 0))
    return tape, replay(tape, settings or (Setting("own"),), detail=9)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "expandable": {"conf": "expandable_segments:True"},
    "max split": {"conf": "max_split_size_mb:24"},
    "divisions": {"conf": "roundup_power2_divisions:4"},
    "divisions by size": {"conf": "roundup_power2_divisions:[1:2,8:8,>:1]"},
    "two streams": {"side": 0.4},
    "two streams, expandable": {"side": 0.4, "conf": "expandable_segments:True"},
    "split and divisions": {"conf": "max_split_size_mb:40,roundup_power2_divisions:8", "most": 90},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_whole_history_gives_its_own_segment_events(name: str, tmp_path: Path) -> None:
    recording, failed = recorded(tmp_path, **CONFIGURATIONS[name])
    assert failed == 0
    _, (outcome,) = played(recording)
    assert outcome.error == ""
    expected = recorded_segment_events(recording, 0)
    assert outcome.segment_events == expected
    assert len(expected) > 40
    timeline = make_timeline(recording, find_allocations(recording, 0))
    assert outcome.peak_reserved_bytes == timeline.reserved_bytes.max()
    assert outcome.peak_allocated_bytes == timeline.allocated_bytes.max()


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if "streams" not in name])
def test_a_truncated_history_begins_with_the_same_blocks_in_place(name: str, tmp_path: Path) -> None:
    recording, _ = recorded(tmp_path, before=777, turns=700, **CONFIGURATIONS[name])
    tape, (outcome,) = played(recording)
    assert outcome.error == ""
    assert len(tape.first) > (1 if "expandable" in name else 5)
    assert rebuilt_state(outcome) == expected_state(tape)
    assert outcome.fits


def test_an_out_of_memory_error_fails_again_and_fits_on_a_larger_card(tmp_path: Path) -> None:
    recording, failed = recorded(tmp_path, gpu="a100-80gb:memory=2GiB", most=300, turns=400)
    assert failed
    tape, (own, larger) = played(recording, Setting("own"), Setting("larger", available_bytes=40 << 30))
    assert tape.available_bytes is not None
    assert not own.fits
    assert own.failed_row == int(tape.row[-1])
    assert own.segment_events == recorded_segment_events(recording, 0)
    assert larger.fits
    assert larger.margin_bytes is not None
    assert 0 < (40 << 30) - larger.margin_bytes <= larger.peak_reserved_bytes


def test_one_setting_that_cannot_be_had_leaves_the_others(tmp_path: Path) -> None:
    recording, _ = recorded(tmp_path, turns=50)
    _, outcomes = played(recording, Setting("own"), Setting("bad", conf="no_such_key:1"), Setting("again"))
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, False]
    assert outcomes[0].segment_events == outcomes[2].segment_events


def test_every_strangers_complete_history(strangers_snapshots: Path) -> None:
    seen = 0
    for path in [*strangers_snapshots.glob("niuhuang*.pickle"), *strangers_snapshots.glob("constructor-sun*.pickle")]:
        recording = load_file(path)
        for device in recording.device_indices:
            tape = make_tape(recording, find_allocations(recording, device))
            assert tape.first == ()
            (outcome,) = replay(tape, [Setting("own")], detail=9)
            assert outcome.segment_events == recorded_segment_events(recording, device), (path, device)
            seen += 1
    assert seen == 11
