"""The smoke programs themselves are run by scripts/smoke_models; here, that what comes of them is told truly."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from programs import need_emulator

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

from smoke import registry, runner


def test_the_core_needs_torch_alone() -> None:
    core = registry.programs(core=True)
    assert 10 <= len(core) <= 16
    assert not any(program.needs or program.devices > 1 for program in core.values())


def test_a_second_program_of_the_same_name_is_refused() -> None:
    def mlp():  # type: ignore[no-untyped-def]
        yield

    with pytest.raises(ValueError, match="mlp"):
        registry.program(subject="training")(mlp)


def test_two_runs_allocate_the_same(tmp_path: Path) -> None:
    need_emulator()
    told = []
    for run in range(2):
        history = tmp_path / f"{run}.pickle"
        result = runner.run("checkpointing", gpu="t4", history=history)
        assert result["outcome"] == "ran", result
        assert result["emulated"]
        assert result["device"] == "Tesla T4"
        assert len(result["step_seconds"]) == 3
        assert 0 < result["peak_allocated_bytes"] < result["peak_reserved_bytes"] < result["device_used_bytes"]
        with history.open("rb") as file:
            events = pickle.load(file)["device_traces"][0]
        told.append([(event["action"], event["size"]) for event in events])
    assert told[0] == told[1]
    assert len(told[0]) > 500


def test_no_card_is_a_failure_with_its_reason() -> None:
    result = runner.run("mlp", real=True, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert result["outcome"] == "failed"
    assert not result["emulated"]
    assert "Error" in result["reason"]


def test_a_program_that_takes_too_long_is_ended() -> None:
    assert runner.run("mlp", timeout_s=0.05)["outcome"] == "timed out"


def test_a_death_by_a_signal_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -SEGV $$\n")
    python.chmod(0o755)
    assert runner.run("mlp", python=str(python))["outcome"] == "killed by SIGSEGV"
