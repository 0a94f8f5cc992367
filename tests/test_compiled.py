"""Compiled code: an allocation belongs to the module, and the user's line, that the generated code was traced from."""

from __future__ import annotations

from pathlib import Path

import pytest

from programs import run_program, told_by
from vramprof.recording import Frame, Stacks
from vramprof.recording.stacks import is_generated

NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    def forward(self, x):
        h = self.up(x)
        h = torch.relu(h) * 2
        return x + self.down(h)

class Net(nn.Module):
    def __init__(self, width=256):
        super().__init__()
        self.layers, self.head = nn.ModuleList(Block(width) for _ in range(3)), nn.Linear(width, 100)
    def forward(self, x):
        for layer in self.layers: x = layer(x)
        return self.head(x)
"""

TRAIN = """
import json, sys, torch, vramprof
sys.path.insert(0, FOLDER)
from a_net import Net
def train(model, compiled, whole=False):
    x = torch.randn(1024, 256).cuda()
    def loss(): return compiled(x).sum()
    with vramprof.profile() as prof:
        for _ in range(2):
            loss().backward()
            model.zero_grad()
    told = prof.report().facts.devices[0]
    rows, stacks = {}, prof.recording.stacks
    for index in range(len(told.allocations.address)):
        frames = stacks.get(int(told.attribution.stack[index]))
        if int(told.allocations.requested_bytes[index]) >= 1 << 20:
            users = [frame.line for frame in frames if frame.filename.endswith("a_net.py")]
            key = ("outside", "forward", "recompute", "backward", "optimizer")[int(told.attribution.phase[index])]
            rows.setdefault(key, {}).setdefault(told.attribution.module[index], []).append((users or [0])[0])
    return rows
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "a_net.py").write_text(NET)
    return TRAIN.replace("FOLDER", repr(str(tmp_path)))


PARTS = {f"layers.{index}{part}" for index in range(3) for part in (".up", "", ".down")}


def test_graphs_that_are_run_and_layers_that_share_one(net: str) -> None:
    whole, by_layer = told_by(
        net
        + """
model, other = Net().cuda(), Net().cuda()
whole = train(model, torch.compile(model, backend="aot_eager"))
for layer in other.layers: layer.compile(backend="aot_eager")
print(json.dumps([whole, train(other, other)]))
"""
    )
    assert set(whole["forward"]["layers.2.up"]) == {10}
    for rows in (whole, by_layer):
        assert set(rows["forward"]) >= {f"layers.{index}.up" for index in range(3)}
        assert set(rows["forward"]) <= PARTS | {"head"}
        assert set(rows["backward"]) >= {f"layers.{index}.down" for index in range(3)}


def test_inductors_code(net: str, tmp_path: Path) -> None:
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    code = net + "model = Net().cuda()\nprint(json.dumps(train(model, torch.compile(model))))"
    probe = run_program("import triton", gpu=None)
    if probe.returncode:
        pytest.skip("Triton is not installed")
    rows = told_by(code, environment=cache)
    assert set(rows["forward"]) >= {f"layers.{index}.up" for index in range(3)}
    assert set(rows["backward"]) >= {f"layers.{index}.down" for index in range(3)}
    assert 10 in rows["forward"]["layers.2.up"]
    assert not any(name.startswith(("Graph", "Optimized", "_orig")) for part in rows.values() for name in part)


def test_which_files_are_generated() -> None:
    key = "dou3hbyljiv7fbl3wz7h7xfxkhz6zfe5yc2nnev36fjnsqcwz6z"
    assert is_generated(f"/tmp/torchinductor_me/do/c{key}.py")
    assert is_generated("<eval_with_key>.12")
    assert not is_generated(f"/home/me/xx/c{key}.py")
    assert not is_generated("/home/me/train.py")


def test_frames_are_put_behind_a_frame_once() -> None:
    stacks, inner, outer, user = (
        Stacks(),
        Frame("<eval_with_key>.1", 3, "f"),
        Frame("a.py", 1, "g"),
        Frame("b.py", 2, "h"),
    )
    index = stacks.add((inner, outer))
    for _ in range(2):
        stacks.insert_behind(inner, (user,))
    assert stacks.get(index) == (inner, user, outer)
