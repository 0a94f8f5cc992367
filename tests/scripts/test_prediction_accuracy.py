from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from programs import need_emulator

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from prediction_accuracy import driver, events, report
from prediction_accuracy.rows import Explanation, Goal, Program, Result, Row, read_results, write_results

NOWHERE = driver.Interpreters({})


def result(measured: int, predicted: int | None, **more: object) -> Result:
    return Result("s", "g", "key", "t4", "allocated", measured, predicted, **more)  # type: ignore[arg-type]


def row(program: Program, point: str = "", quantity: str = "allocated") -> Row:
    return Row("s", "g", "key", "t4", quantity, 1 << 20, program, point)


@pytest.mark.parametrize(
    ("predicted", "median", "highest", "exact"),
    [
        ([100, 100, 100], 0.0, 0.0, 1.0),
        ([100, 102, 90], 0.02, 0.1, 1.0),
        ([100, None, None], 1.0, 1.0, 1 / 3),
    ],
)
def test_a_row_that_failed_counts_as_wrong(
    predicted: list[int | None], median: float, highest: float, exact: float
) -> None:
    rows = [result(100, one) for one in predicted]
    assert report.median_error(rows) == pytest.approx(median)
    assert report.error_95(rows) == pytest.approx(highest)
    assert report.exact_share(rows) == pytest.approx(exact)


def test_results_survive_the_csv(tmp_path: Path) -> None:
    rows = [result(100, 90, rivals={"Other": 120}, torch_used="2.6.0"), result(100, None, failure="it, broke")]
    write_results(tmp_path / "r.csv", rows)
    assert sorted(read_results(tmp_path / "r.csv"), key=lambda one: one.failure) == rows


def test_an_outlier_without_a_reason_is_called_so() -> None:
    source = ModuleType("s", "What it is.")
    source.EXPLANATIONS = (Explanation("g/known*", "the reason"),)  # type: ignore[attr-defined]
    source.GOALS = (Goal("half", lambda one: True, report.exact_share, 0.5, at_least=True),)  # type: ignore[attr-defined]
    rows = [result(100, 200), Result("s", "g", "known", "t4", "allocated", 100, 50)]
    rows.append(result(2**30, 2**30, rivals={"Other": 2**29}))
    page = report.render(rows, [], {"s": source})
    assert f"| g | allocated | 1 | +100.0% | key | {report.UNEXPLAINED} |" in page
    assert "| g | allocated | 1 | -50.0% | known | the reason |" in page
    assert "| s | half | 3 | 100.00% | >= 50.0% | yes |" in page
    assert "| Other | 1 | 50.00% | 0.00% | 100% | 0% |" in page


def test_events_are_aligned_in_order() -> None:
    measured = [("alloc", 1), ("alloc", 2), ("free_completed", 2), ("alloc", 3)]
    predicted = [("alloc", 1), ("free_completed", 2), ("alloc", 2), ("alloc", 3)]
    equal, where = events.align(measured, predicted, list("abcd"))
    assert equal == 3
    assert sum(where.values()) == 2
    assert events.align(measured, measured, list("abcd")) == (4, Counter())
    assert events.peaks(measured) == {"allocated": 4, "reserved": 0}


def test_programs_run_once_and_what_fails_says_why(tmp_path: Path) -> None:
    need_emulator()
    broken = Program.of("no_such_program", "t4")
    good = Program.of("liger_kernels", "t4", kernel="cross_entropy", settings=((("B", 1), ("T", 8)),), asked=ASKED)
    told: list[str] = []
    rows = [row(good, "0/huggingface/full/512"), row(good, "0/huggingface/full/1024"), row(broken)]
    done = list(driver.measure(rows, interpreters=NOWHERE, timeout_s=120, tell=told.append))
    first, second, third = (one for _, _, results in done for one in results)
    assert second.predicted_bytes > first.predicted_bytes >= 5 * 8 * 512 * 4  # type: ignore[operator]
    assert third.predicted_bytes is None
    assert "no_such_program" in third.failure
    assert len(told) == len(done) == 2


ASKED = ((0, "huggingface", "full", 512), (0, "huggingface", "full", 1024))
