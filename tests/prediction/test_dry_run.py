from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from programs import NEUTRAL_FOLDER, need_emulator
from vramprof import VramprofError, predict
from vramprof.errors import DryRunError, UnknownGpuError

PROGRAM = """
import json, sys, torch, vramprof

def train(batch):
    model = torch.nn.Linear(1024, 1024, device="cuda")
    model(torch.zeros(batch, 1024, device="cuda")).sum().backward()

def fail():
    raise KeyError("nothing here")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    need_emulator()
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def test_a_script_with_arguments(script: Path) -> None:
    script.write_text(PROGRAM + "train(int(sys.argv[1]))\n")
    small, large = (predict(script, batch, gpu="l4").as_dict() for batch in (64, 4096))
    assert small["origin"] == large["origin"] == "predicted"
    assert small["emulated"]
    more = large["devices"][0]["peak_allocated_bytes"] - small["devices"][0]["peak_allocated_bytes"]
    assert more == 2 * 4032 * 1024 * 4  # input and output; the weight's gradient needs the input alone


def test_running_out_of_memory_is_a_result(script: Path) -> None:
    script.write_text(PROGRAM + "train(1 << 24)\n")
    report = predict(script, gpu="t4", out=script.parent / "kept.vram")
    assert report.recording.origin == "oom"
    assert (script.parent / "kept.vram" / "metadata.json").is_file()


def test_a_function_of_a_script(script: Path) -> None:
    script.write_text(
        PROGRAM
        + """
if __name__ == "__main__":
    device = vramprof.predict(train, 64, gpu="l4").as_dict()["devices"][0]
    said = []
    for function in (fail, lambda: None):
        try:
            vramprof.predict(function, gpu="l4")
        except vramprof.VramprofError as error:
            said.append(str(error))
    print(json.dumps([device["name"], torch.cuda.is_initialized(), said]))
"""
    )
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=300, cwd=NEUTRAL_FOLDER
    )
    name, was_touched, said = json.loads(ran.stdout)
    assert (name, was_touched) == ("NVIDIA L4", False)
    assert "KeyError: 'nothing here'" in said[0]
    assert "top of a module" in said[1]


def test_what_can_not_run_is_one_clear_line(script: Path) -> None:
    with pytest.raises(DryRunError, match="no such script"):
        predict("/nowhere.py", gpu="l4")
    with pytest.raises(UnknownGpuError, match="l4"):
        predict(script, gpu="l44")
    with pytest.raises(DryRunError, match=r"longer than 0\.1 s"):
        predict(script, gpu="l4", timeout_s=0.1)
    script.write_text("import nowhere_to_be_found\n")
    with pytest.raises(VramprofError, match="nowhere_to_be_found"):
        predict(script, gpu="l4")
