"""What the emulated device leaves behind, and what it says where it can't run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from programs import ENVIRONMENT, need_emulator
from vramprof.emulator.torch_build import read_version
from vramprof.errors import EmulatorError, UnsupportedPlatformError

TRAIN = """
import torch
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 4)).cuda()
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(2):
    model(torch.randn(4, 3, 8, 8).cuda()).sum().backward()
    optimizer.step()
"""


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    need_emulator()
    folders = {name: tmp_path / name for name in ("home", "tmp", "work")}
    for folder in folders.values():
        folder.mkdir()
    (folders["work"] / "train.py").write_text(TRAIN)
    environment = {
        **ENVIRONMENT,
        "HOME": str(folders["home"]),
        "TMPDIR": str(folders["tmp"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-m", "vramprof", "run", "--emulate", "t4", "-o", "out.vram", "train.py"]
    with subprocess.Popen(
        command, cwd=folders["work"], env=environment, stderr=subprocess.PIPE, start_new_session=True
    ) as child:
        _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)  # its process group is empty: nobody is left
    left = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*")}
    left = {parts for parts in left if not parts[-1].startswith("torchinductor_")}  # torch's own, without us too
    expected = {("home",), ("tmp",), ("work",), ("work", "train.py"), ("work", "out.vram"), ("home", ".cache")}
    assert left <= expected


def test_a_torch_without_cuda_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text("__version__ = '2.8.0+cpu'\ncuda: Optional[str] = None\n")
    with pytest.raises(UnsupportedPlatformError, match=r"torch 2\.8\.0\+cpu is not a CUDA build: install one"):
        read_version(tmp_path)


def test_a_torch_that_does_not_say_which_it_is(tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text("# damaged\n")
    with pytest.raises(EmulatorError, match="reinstall torch"):
        read_version(tmp_path)
