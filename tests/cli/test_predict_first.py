from __future__ import annotations

import json
from pathlib import Path

import pytest
from recordings import training

from programs import need_emulator, run_command
from vramprof.api import Report, load

SCRIPT = """
import sys, torch
model = torch.nn.Linear(1024, 1024).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(6):
    optimizer.zero_grad()
    model(torch.randn(4096 if step == 5 else 1024, 1024, device="cuda")).square().mean().backward()
    optimizer.step()
    open("steps.txt", "a").write(f"{step}\\n")
sys.exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    need_emulator()
    (tmp_path / "train.py").write_text(SCRIPT)
    return tmp_path


def test_the_first_steps_are_predicted_and_the_run_compared(folder: Path) -> None:
    result = run_command("run", "--emulate", "l4", "--predict", "-o", "r.vram", "train.py", cwd=folder)
    assert result.returncode == 3
    assert "VP503" in result.stderr
    assert "against the dry run (EMULATED)" in result.stderr
    done = [int(line) for line in (folder / "steps.txt").read_text().split()]
    assert done == [0, 1, 2, 0, 1, 2, 3, 4, 5]  # the dry run ends where its third step does
    report = load(folder / "r.vram")
    told = json.loads(report.save(folder / "r.json").read_text())
    assert "VP503" in [finding["code"] for finding in told["findings"]]
    device = told["prediction"]["devices"][0]
    assert device["expected_step_count"] == 3
    largest = max(device["moments"], key=lambda moment: moment["actual_bytes"] - moment["expected_bytes"])
    assert (largest["step"], largest["expected_step"]) == (5, 2)


def test_a_prediction_that_fails_stops_nothing(folder: Path) -> None:
    arguments = ("--emulate", "l4", "--predict-on", "nosuchcard", "--stop-after", "2", "-o", "r.vram", "train.py")
    result = run_command("run", *arguments, cwd=folder)
    assert result.returncode == 0
    assert "vramprof: no prediction: no GPU 'nosuchcard'" in result.stderr
    assert (folder / "steps.txt").read_text().split() == ["0", "1"]
    assert load(folder / "r.vram").prediction is None


def test_a_recording_is_compared_with_a_plan(tmp_path: Path) -> None:
    Report(training()).save(tmp_path / "r.vram")
    arguments = ("compare", "r.vram", "--plan", "gpt2", "--gpu", "a100-80gb", "--batch", "4")
    result = run_command(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("PREDICTED: gpt2 by closed forms")
    assert any(
        line.startswith("weights") and "beyond what plans are off by" in line for line in result.stdout.splitlines()
    )
    refused = run_command("compare", "r.vram", cwd=tmp_path)
    assert refused.returncode == 2
    assert "compare two recordings, or one with a plan" in refused.stderr
