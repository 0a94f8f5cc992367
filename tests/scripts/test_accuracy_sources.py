"""The sources of whole trainings: what is drawn, what a row says, what counts as too small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from prediction_accuracy.rows import Result
from prediction_accuracy.sources import peft_l40s, xmem

GIB = 1 << 30


def write_result(root: Path, name: str, *, peak: int, failed: bool = False, enough: bool | None = None) -> None:
    folder = root / "plot" / "data" / "002-Monte Carlo" / "CNN" / "001" / name / "NVIDIA-GeForce-RTX-3060"
    folder.mkdir(parents=True)
    estimate = {
        "memory": 4 * GIB,
        "ground": peak,
        "real_oom": failed,
        "2nd verification": {"oom": None if enough is None else not enough},
    }
    training = {
        "model": "VGG16", "optimiser": "SGD", "batch_size": 8, "gpu_name": "NVIDIA GeForce RTX 3060",
        "total_gpu_memory": 12 * GIB,
    }  # fmt: skip
    told = {"train info": training, "solution": estimate, "LLmem": {**estimate, "memory": -1}}
    (folder / "evaluation_result.json").write_text(json.dumps(told))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(xmem, "CHECKOUT", tmp_path)
    monkeypatch.setattr(xmem, "DRAWN", 2)
    return tmp_path


def test_the_draw_does_not_depend_on_what_else_is_there(checkout: Path) -> None:
    for name in "abcdef":
        write_result(checkout, name, peak=GIB)
    drawn = [row.key for row in xmem.rows()]
    for name in "ghij":
        write_result(checkout, name, peak=GIB)
    again = [row.key for row in xmem.rows()]
    assert len(drawn) == len(again) == 2
    assert drawn == again or set(again) - set(drawn) <= {f"VGG16/SGD/batch=8/rtx3060/{name}" for name in "ghij"}


def test_too_few_results_are_missing_data(checkout: Path) -> None:
    write_result(checkout, "only", peak=GIB)
    with pytest.raises(FileNotFoundError, match="clone"):
        list(xmem.rows())


def test_a_row_holds_the_measured_peak_and_the_rivals(checkout: Path) -> None:
    write_result(checkout, "a", peak=3 * GIB, enough=True)
    write_result(checkout, "b", peak=11 * GIB, failed=True)
    measured, failed = sorted(xmem.rows(), key=lambda row: row.key)
    assert (measured.group, measured.measured_bytes) == (xmem.CONVOLUTIONS, 3 * GIB)
    assert measured.rivals == (("xMem", 4 * GIB),)
    assert measured.note == f"ran within {round(0.33 * 12 * GIB)}"
    assert (failed.group, failed.measured_bytes, failed.rivals) == (xmem.FULL, 12 * GIB, ())


def result(predicted: int, *, note: str = "") -> Result:
    return Result("xmem", xmem.CONVOLUTIONS, "key", "rtx3060", "process", 4 * GIB, predicted, note=note)


def test_an_estimate_is_short_where_no_run_within_it_is_known() -> None:
    assert xmem._would_not_fit([result(3 * GIB)]) == 1
    assert xmem._would_not_fit([result(3 * GIB, note=f"ran within {2 * GIB}")]) == 0
    assert xmem._would_not_fit([result(4 * GIB - xmem.DRIVER_BYTES), result(5 * GIB)]) == 0


def test_lengths_of_a_bucket_fall_and_keep_the_mean() -> None:
    lengths = peft_l40s._bucket()
    assert len(lengths) == peft_l40s.BUCKET // peft_l40s.BATCH
    assert list(lengths) == sorted(lengths, reverse=True)
    assert lengths[0] < peft_l40s.LONGEST_TOKENS
    assert lengths[-1] < peft_l40s.MEAN_TOKENS < lengths[0]
