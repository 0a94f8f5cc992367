"""What surprises in a measurement is named, and what does not is not: a few programs of tests/surprises, on real torch.

All of them are judged by scripts/measure_surprises.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import MIB, training

from programs import ENVIRONMENT, NEUTRAL_FOLDER, need_emulator
from vramprof.api import Report
from vramprof.findings.comparison import DRY_RUN, UNASKED_DNN_RATIO

SURPRISING = (
    "math_attention", "longer_sequences", "outputs_through_backward", "loss_of_the_last_step_with_its_graph",
    "checkpointing_switched_off", "gradients_filled_with_zeros", "large_blocks_after_small_ones",
)  # fmt: skip
EXPECTED = ("the_same_again", "evaluation_between_steps", "a_cache_by_length_that_fills", "gradient_accumulation")


def test_surprises_are_named(tmp_path: Path) -> None:
    need_emulator()
    told = tmp_path / "told.json"
    command = [sys.executable, "-W", "ignore", "-m", "surprises", "--json", str(told), *SURPRISING, *EXPECTED]
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(NEUTRAL_FOLDER), *sys.path])}
    subprocess.run(command, check=True, timeout=300, cwd=tmp_path, env=environment)
    rows = [json.loads(line) for line in told.read_text().splitlines()]
    assert [row["name"] for row in rows] == [*SURPRISING, *EXPECTED]
    assert not [row for row in rows if not row.get("right")]


def test_equal_recordings_do_not_surprise() -> None:
    reports = Report(training()).compare(Report(training()))
    assert reports.findings == ()
    assert all(not pair.bytes for device in reports.comparison for pair in device.comparison.pairs)


def test_residuals_sum_to_the_difference_at_every_moment() -> None:
    reports = Report(training(activation_mib=8)).compare(Report(training(activation_mib=12)))
    pairs = reports.comparison[0].comparison.pairs
    assert {pair.phase for pair in pairs} == {"forward", "backward", "end"}
    for pair in pairs:
        assert sum(one.bytes for one in pair.residuals) == pair.actual_bytes - pair.expected_bytes
    assert max(pair.bytes for pair in pairs) == 4 * MIB
    assert reports.findings[0].cost_bytes == 4 * MIB


def test_later_steps_are_compared_with_the_last_that_was_predicted() -> None:
    pairs = Report(training(steps=2)).compare(Report(training(steps=9))).comparison[0].comparison.pairs
    assert {pair.expected_step for pair in pairs} == {0, 1}
    assert max(pair.step for pair in pairs) == 8


@pytest.mark.parametrize(
    ("row", "tolerance"),
    [
        (r"litgpt_a10g \| 95th percentile .*?\| \d+ \| ([\d.]+)%", DRY_RUN.allocated_ratio),
        (r"adapters \| reserved \| \d+ \| \d+ \| [\d.]+% \| ([\d.]+)%", DRY_RUN.reserved_ratio),
        (r"language models \| process \| \d+ \| \d+ \| [\d.]+% \| ([\d.]+)%", DRY_RUN.process_ratio),
        (r"convolutional nets \| process \| \d+ \| \d+ \| [\d.]+% \| ([\d.]+)%", UNASKED_DNN_RATIO),
    ],
)
def test_tolerances_are_those_of_the_report(row: str, tolerance: float) -> None:
    report = Path(__file__).resolve().parents[1] / "reports" / "prediction_accuracy.md"
    found = re.search(row, report.read_text(encoding="utf-8"))
    assert found is not None
    assert float(found[1]) / 100 == pytest.approx(tolerance, abs=5e-5)
