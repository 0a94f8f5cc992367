"""Two histories side by side: what is the same is found, and what isn't is named, counted and placed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from programs import need_emulator
from vramprof.prediction.catalog import find_gpu

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.append(str(SCRIPTS))

from card_check import report  # noqa: E402
from card_check.history import Event, align, read_histories, read_history  # noqa: E402

MIB = 1 << 20


def trace(*events: tuple[str, int, int], stream: int = 0) -> list[dict[str, Any]]:
    return [{"action": action, "addr": at, "size": size, "stream": stream} for action, at, size in events]


BASE = trace(
    ("segment_alloc", 0x1000000, 20 * MIB),
    ("alloc", 0x1000000, 1000),
    ("alloc", 0x1000200, 2000),
    ("free_requested", 0x1000000, 1000),
    ("free_completed", 0x1000000, 1000),
)


def moved(events: list[dict[str, Any]], by: int) -> list[dict[str, Any]]:
    return [{**event, "addr": event["addr"] + by, "stream": event["stream"] + 7} for event in events]


def test_addresses_and_stream_numbers_do_not_matter() -> None:
    alignment = align(read_history(BASE, 0), read_history(moved(BASE, 0x7F0000000), 0))
    assert not alignment.differences
    assert (alignment.common, alignment.moved) == (5, 0)


def test_another_size_is_one_difference_at_its_place() -> None:
    other = [*BASE]
    other[2] = {**BASE[2], "size": 4000}
    (difference,) = align(read_history(BASE, 0), read_history(other, 0)).differences
    assert difference.at == (2, 2)
    assert difference.real == (Event("alloc", 2000, 0),)
    assert difference.emulated == (Event("alloc", 4000, 0),)


def test_what_one_side_has_more_shifts_nothing_else() -> None:
    other = [*BASE[:2], *trace(("alloc", 0x1004000, 8_519_680)), *BASE[2:]]
    alignment = align(read_history(BASE, 0), read_history(other, 0))
    assert alignment.common == 5
    assert alignment.only_real() == {}
    assert alignment.only_emulated() == {Event("alloc", 8_519_680, 0): 1}


def test_a_block_elsewhere_in_its_segment_is_moved() -> None:
    other = [*BASE]
    other[2] = {**BASE[2], "addr": 0x1000800}
    alignment = align(read_history(BASE, 0), read_history(other, 0))
    assert (len(alignment.differences), alignment.moved) == (0, 1)


def test_the_order_of_frees_in_a_row_does_not_matter() -> None:
    frees = [
        trace((f"free_{part}", at, size)) for at, size in ((1, 10), (2, 20)) for part in ("requested", "completed")
    ]
    here, there = [event for (event,) in frees], [event for (event,) in frees[2:] + frees[:2]]
    alloc = trace(("alloc", 3, 30))
    assert not align(read_history([*here, *alloc], 0), read_history([*there, *alloc], 0)).differences
    late = read_history([*here[:2], *alloc, *here[2:]], 0)
    assert align(read_history([*here, *alloc], 0), late).differences


def test_another_stream_is_a_difference() -> None:
    two = [*BASE, *trace(("alloc", 0x1004000, 500), stream=3)]
    one = [*BASE, *trace(("alloc", 0x1004000, 500))]
    (difference,) = align(read_history(two, 0), read_history(one, 0)).differences
    assert difference.real == (Event("alloc", 500, 1),)


def test_mapped_pages_that_touch_are_one_segment_and_allocated_ones_are_not() -> None:
    at = 0x2000000
    mapped = trace(("segment_map", at, MIB), ("segment_map", at + MIB, MIB), ("alloc", at + MIB + 512, 100))
    assert read_history(mapped, 0).places[-1] == (0, MIB + 512)
    allocated = trace(("segment_alloc", at, MIB), ("segment_alloc", at + MIB, MIB), ("alloc", at + MIB + 512, 100))
    assert read_history(allocated, 0).places[-1] == (1, 512)


def test_a_snapshot_has_a_history_for_each_device() -> None:
    segments = [{"device": 1, "total_size": 3}, {"device": 1, "total_size": 4}]
    histories = read_histories({"segments": segments, "device_traces": [[], [{"action": "snapshot"}, *BASE]]})
    assert [len(history.events) for history in histories] == [0, 5]
    assert [history.reserved_bytes for history in histories] == [0, 7]


def outcome(**figures: int) -> dict[str, Any]:
    keys = ("peak_allocated_bytes", "peak_reserved_bytes", "outside_torch_bytes")
    return {"outcome": "ran", **dict.fromkeys(keys, 100 * MIB), **figures}


@pytest.mark.parametrize(
    ("other", "figures", "verdict"),
    [
        (BASE, {}, "same"),
        (BASE, {"outside_torch_bytes": 1}, "same events, other figures"),
        ([*BASE[:2], {**BASE[2], "addr": 0x1000800}, *BASE[3:]], {}, "same events, other addresses"),
        (BASE[:-1], {}, "differs in 1 place"),
    ],
)
def test_the_verdict(other: list[dict[str, Any]], figures: dict[str, int], verdict: str) -> None:
    alignment = align(read_history(BASE, 0), read_history(other, 0))
    assert report.Compared("mlp", outcome(), outcome(**figures), (alignment,), "0").verdict() == verdict


def test_a_program_that_ran_on_one_side_alone_is_no_agreement() -> None:
    failed = {"outcome": "killed by SIGSEGV", "reason": "at the first kernel"}
    program = report.Compared("mlp", outcome(), failed, (), "0")
    text = report.page("T", "A.", {"name": "card"}, [program])
    assert "## 0 of 1 programs are the same" in text
    assert "real ran, emulated killed by SIGSEGV" in text
    assert "- emulated: killed by SIGSEGV: at the first kernel" in text


def test_the_page_names_workspaces_sizes_segments_and_places() -> None:
    workspace = trace(("segment_alloc", 0x9000000, 20 * MIB), ("alloc", 0x9000000, 8_519_680))
    alignment = align(read_history(BASE, 0), read_history([*BASE, *workspace], 0))
    text = report.page("T", "A.", {"name": "card"}, [report.Compared("mlp", outcome(), outcome(), (alignment,), "0")])
    assert "| alloc | 8519680 | 0 | 1 | the cuBLAS workspace of compute capabilities below 9.0 |" in text
    assert "the emulated device lacks none and has 1 of 20.00 MiB more" in text
    assert "- event 5 / 5: real nothing; emulated segment_alloc 20971520, alloc 8519680" in text


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "gpu_check"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_card_checked_against_its_own_description_is_the_same() -> None:
    need_emulator()
    result = gpu_check("--emulated-as-real", "l4", "--only", "streams")
    assert result.returncode == 0, result.stderr
    assert "No card was used: an EMULATED l4 stands for the real one." in result.stdout
    assert "| `streams` | same | 0 | " in result.stdout
    assert f"| total | {find_gpu('l4').total} |" in result.stdout


def test_two_cards_part_at_the_workspaces_of_cublas() -> None:
    need_emulator()
    result = gpu_check("--emulated-as-real", "a100-80gb", "--against", "h100-80gb", "--only", "mlp")
    assert result.returncode == 1, result.stderr
    assert "the cuBLAS workspace of compute capabilities below 9.0" in result.stdout
    assert "the cuBLAS workspace from compute capability 9.0 on" in result.stdout


def test_without_a_card_it_says_so() -> None:
    probe = subprocess.run(
        [sys.executable, "-c", "import torch, json; print(json.dumps(torch.cuda.is_available()))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    if json.loads(probe.stdout.splitlines()[-1]):
        pytest.skip("there is a card here")
    result = gpu_check()
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "no card to check: torch sees no CUDA device" in result.stderr
