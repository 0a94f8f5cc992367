"""The in-process predictor, in a child process where CUDA is hidden and no device is emulated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from programs import NEUTRAL_FOLDER
from vramprof import fake
from vramprof.units import MIB

pytest.importorskip("torch")

CHILD = """
import json, sys
import torch
import vramprof
from torch.nn import functional

GIB = 1 << 30
told = {}
before = torch.cuda.is_available, torch.clear_autocast_cache, torch.compile

def say(name, function, *arguments, gpu="a100-80gb"):
    report = vramprof.predict(function, *arguments, gpu=gpu, method="fake")
    device = report.facts.devices[0]
    told[name] = {
        "peak": device.peak.allocated_bytes, "by_category": device.peak.by_category, "phase": device.peak.phase,
        "origin": report.recording.origin, "emulated": report.recording.emulated,
        "guesses": sum(guess.count for guess in device.guesses), "text": report.text(),
        "gaps": report.recording.gaps["reason"].tolist(),
    }

def train(steps=2):
    model = torch.nn.Linear(1024, 1024, bias=False).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.zeros(16, 1024, device="cuda")).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

def attention(dtype, mask):
    q = torch.zeros(2, 8, 1024, 64, device="cuda", dtype=dtype, requires_grad=True)
    mask = torch.zeros(1024, 1024, device="cuda", dtype=dtype) if mask else None
    seen.append(functional.scaled_dot_product_attention(q, q, q, attn_mask=mask).grad_fn.name())

def under_autocast():
    layer, norm = torch.nn.Linear(64, 64, device="cuda"), torch.nn.LayerNorm(64, device="cuda")
    x = torch.zeros(4, 64, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        out = layer(x)
        seen.append([str(out.dtype), str(norm(out).dtype), str((out + x).dtype), str(out.softmax(-1).dtype),
                     str(functional.dropout(out).grad_fn.name())])
        loss = functional.cross_entropy(out, torch.zeros(4, dtype=torch.long, device="cuda"))
    seen.append([str(loss.dtype), str(layer(x).dtype)])
    loss.backward()

def looks():
    x = torch.ones(3, device="cuda")
    seen.append([torch.cuda.is_available(), str(x.device), x.is_cuda, x.sum().item(), x.cpu().tolist(),
                 torch.cuda.get_device_properties(0).total_memory > GIB, torch.nonzero(x).shape[0]])

seen = []
say("train", train)
say("autocast", under_autocast)
say("looks", looks)
for dtype, mask in ((torch.bfloat16, False), (torch.float32, False), (torch.bfloat16, True)):
    say("attention", attention, dtype, mask)
say("full", lambda: [torch.zeros(GIB, device="cuda") for _ in range(40)], gpu="t4")
try:
    vramprof.predict(lambda: 1 / 0, gpu="l4", method="fake")
except vramprof.VramprofError as error:
    told["error"] = str(error)
told["seen"] = seen
told["restored"] = before == (torch.cuda.is_available, torch.clear_autocast_cache, torch.compile)
told["after"] = str(torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype), str(torch.zeros(1, device="meta").device)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    script = tmp_path_factory.mktemp("fake") / "child.py"
    script.write_text(CHILD)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=NEUTRAL_FOLDER,
        env=environment, timeout=200,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def test_a_training_step_to_the_byte(told: dict) -> None:  # type: ignore[type-arg]
    train = told["train"]
    assert (train["origin"], train["emulated"]) == ("predicted", False)
    assert train["text"].startswith("PREDICTED: no GPU was used")
    weight = 4 * MIB
    assert train["by_category"]["weights"] == train["by_category"]["gradients"] == weight
    assert train["by_category"]["optimizer"] == pytest.approx(2 * weight, abs=4096)
    assert train["phase"] == "optimizer"  # foreach AdamW holds a copy of the second moments inside step()
    assert sum(train["by_category"].values()) == train["peak"]
    assert any("workspaces" in gap for gap in train["gaps"])


def test_autocast_casts_as_on_a_card(told: dict) -> None:  # type: ignore[type-arg]
    inside, outside = told["seen"][:2]
    assert inside[:4] == ["torch.bfloat16", "torch.float32", "torch.float32", "torch.float32"]
    assert inside[4].startswith("NativeDropoutBackward")
    assert outside == ["torch.float32", "torch.float32"]


def test_a_program_finds_its_card(told: dict) -> None:  # type: ignore[type-arg]
    assert told["seen"][2] == [True, "cuda:0", True, 0.0, [0.0, 0.0, 0.0], True, 0]
    assert told["looks"]["guesses"] == 3


def test_attention_is_the_kernel_that_torch_would_choose(told: dict) -> None:  # type: ignore[type-arg]
    flash, efficient, masked = told["seen"][3:6]
    assert flash.startswith("ScaledDotProductFlashAttention")
    assert efficient.startswith("ScaledDotProductEfficientAttention")
    assert masked.startswith("ScaledDotProductEfficientAttention")


def test_a_full_card_is_a_result_and_an_error_is_one_line(told: dict) -> None:  # type: ignore[type-arg]
    assert told["full"]["origin"] == "oom"
    assert told["error"].endswith("failed: ZeroDivisionError: division by zero")


def test_nothing_stays_behind(told: dict) -> None:  # type: ignore[type-arg]
    assert told["restored"]
    assert told["after"] == ["torch.float32", "meta"]


def test_an_unknown_method() -> None:
    from vramprof import VramprofError, predict

    with pytest.raises(VramprofError, match="no method 'guess': choose from auto, device, fake"):
        predict("train.py", gpu="l4", method="guess")


def test_a_script_with_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "says.py"
    script.write_text("import sys\nseen = sys.argv[1:]\nassert seen == ['--batch', '8'], seen\n")
    argv = list(sys.argv)
    fake._call(script, ["--batch", 8])
    assert sys.argv == argv
