from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from programs import ENVIRONMENT, need_emulator, run_command, run_program, told_by
from vramprof import load

TRAIN = """
import json, sys, threading, torch, vramprof
from torch import nn

def train(model, steps=3):
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        x = torch.randn(64, 1024).cuda()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

def build():
    return nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024), nn.LayerNorm(1024)).cuda()
"""


def test_a_training_run_closes_to_the_byte() -> None:
    told = told_by(
        TRAIN
        + """
with vramprof.profile() as prof:
    train(build())
stats = torch.cuda.memory_stats()
from torch.nn.modules import module
left = [len(module._global_forward_hooks), len(module._global_forward_pre_hooks)]
left.append(torch._C._cuda_isHistoryEnabled())
import gc, multiprocessing; left.append(not gc.isenabled())
left.append("__init__" in vars(torch.OutOfMemoryError) or "vramprof" in multiprocessing.current_process()._config)
left.append(sys.excepthook is not sys.__excepthook__ or threading.excepthook is not threading.__excepthook__)
print(json.dumps([prof.report().as_dict(), stats["allocated_bytes.all.peak"], stats["reserved_bytes.all.peak"], left]))
"""
    )
    report, allocated, reserved, left = told
    device = report["devices"][0]
    peak = device["peak"]
    assert report["emulated"] is True
    assert report["origin"] == "predicted"
    assert peak["allocated_bytes"] == allocated == sum(peak["by_category"].values())
    assert device["peak_reserved_bytes"] == reserved
    parameters = 4 * (2 * 4096 * 1024 + 4096 + 1024 + 2 * 1024)
    for category, copies in (("weights", 1), ("gradients", 1), ("optimizer", 2)):
        assert parameters * copies <= peak["by_category"][category] <= parameters * copies + 64 * 512, category
    assert len(device["steps"]) == 3
    assert device["outside_torch_bytes"] > 0
    assert "0" in {row["path"] for row in peak["by_module"]}
    assert left == [0, 0, False, False, False, False]


def test_exceptions_pass_and_the_recording_stays(tmp_path: Path) -> None:
    told = told_by(
        TRAIN
        + f"""
import threading
from torch.nn.modules import module
model = build()
class Bad(nn.Module):
    def forward(self, x): raise ValueError("mine")
try:
    with vramprof.profile(out={str(tmp_path / "r.vram")!r}) as prof:
        train(model, 1)
        nn.Sequential(model, Bad())(torch.randn(2, 1024).cuda())
except ValueError as error:
    caught = str(error)
left = len(module._global_forward_hooks) + len(module._global_forward_pre_hooks)
engine = torch.autograd._engine_run_backward.__module__
names = [t.name for t in threading.enumerate()]
print(json.dumps([caught, left, engine, names, len(vramprof.load({str(tmp_path / "r.vram")!r}).facts.devices)]))
"""
    )
    caught, left, engine, threads, devices = told
    assert caught == "mine"
    assert left == 0
    assert engine == "torch.autograd.graph"
    assert not [name for name in threads if name.startswith("vramprof")]
    assert devices == 1


def test_misuse_is_a_clear_error() -> None:
    told = told_by(
        TRAIN
        + """
said = []
def attempt(function):
    try: function()
    except vramprof.VramprofError as error: said.append(str(error))
prof = vramprof.profile()
attempt(prof.report)
with prof:
    attempt(lambda: vramprof.profile().__enter__())
attempt(prof.__enter__)
attempt(lambda: vramprof.emulate("t4"))
attempt(lambda: prof.report().save("x.gif"))
@vramprof.profile()
def decorated(model): return train(model, 1)
decorated(build()); decorated(build())
print(json.dumps([said, len(decorated.profiler.report().as_dict()["devices"])]))
"""
    )
    said, devices = told
    assert "not ended" in said[0]
    assert "one session" in said[1]
    assert "already run" in said[2]
    assert len(said) == 5
    assert devices == 1


def test_without_a_device_the_error_names_the_way_out() -> None:
    code = "import vramprof\nvramprof.profile().__enter__()"
    result = run_program(code, gpu=None, environment={"CUDA_VISIBLE_DEVICES": ""})
    assert "NoDeviceError" in result.stderr
    assert "--emulate" in result.stderr


def test_an_out_of_memory_error_is_torchs_own() -> None:
    told = told_by(
        """
import json, torch, vramprof
try:
    with vramprof.profile() as prof:
        kept = [torch.empty(256 * 1024**2, dtype=torch.uint8, device="cuda") for _ in range(8)]
except torch.OutOfMemoryError as error:
    text = str(error)
report = prof.report().as_dict()
print(json.dumps([text, report["origin"], report["devices"][0]["peak"]["allocated_bytes"]]))
""",
        gpu="t4:memory=1GiB",
    )
    text, origin, allocated = told
    assert "Tried to allocate 256.00 MiB" in text
    assert "this process has" in text
    assert origin == "oom"
    assert allocated in (2 * 256 * 1024**2, 3 * 256 * 1024**2)


RESNET = """
import torch, torchvision
model = torchvision.models.resnet50().cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for _ in range(3):
    loss = model(torch.randn(8, 3, 224, 224).cuda()).float().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""

LLAMA = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(
    hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8, vocab_size=8000
)
model = LlamaForCausalLM(config).cuda()
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(3):
    tokens = torch.randint(8000, (4, 256)).cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
"""

TELL = """
stats = torch.cuda.memory_stats()
print(stats["allocated_bytes.all.peak"], stats["reserved_bytes.all.peak"])
"""


@pytest.mark.parametrize("program", [RESNET, LLAMA], ids=["resnet50", "llama"])
def test_run_agrees_with_memory_stats(program: str, tmp_path: Path) -> None:
    need_emulator()
    (tmp_path / "train.py").write_text(program + TELL)
    result = run_command("run", "--emulate", "a100-80gb", "-o", "r.vram", "train.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    allocated, reserved = map(int, result.stdout.split())
    assert "EMULATED" in result.stderr
    assert run_command("report", "r.vram", "--json", "r.json", cwd=tmp_path).returncode == 0
    device = json.loads((tmp_path / "r.json").read_text())["devices"][0]
    by_category = device["peak"]["by_category"]
    assert sum(by_category.values()) == device["peak"]["allocated_bytes"] == allocated
    assert device["peak_reserved_bytes"] == reserved
    assert by_category["weights"] > 0
    assert by_category["activations"] > 0
    assert by_category["unattributed"] <= 0.01 * allocated


def test_a_script_that_raises_keeps_its_traceback_and_code(tmp_path: Path) -> None:
    need_emulator()
    (tmp_path / "bad.py").write_text("import torch\nkept = torch.ones(1000, device='cuda')\nraise KeyError('mine')\n")
    result = run_command("run", "--emulate", "t4", "-o", "r.vram", "bad.py", cwd=tmp_path)
    assert result.returncode == 1
    assert "KeyError: 'mine'" in result.stderr
    assert "runpy" not in result.stderr
    assert run_command("report", "r.vram", cwd=tmp_path).returncode == 0
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(7)\n")
    assert run_command("run", "--emulate", "t4", "exits.py", cwd=tmp_path).returncode == 7


def test_a_killed_run_leaves_a_recording_that_opens(tmp_path: Path) -> None:
    need_emulator()
    (tmp_path / "killed.py").write_text(
        "import os, signal, time, torch\nfrom torch import nn\nmodel = nn.Linear(64, 64).cuda()\n"
        "for _ in range(600):\n    model(torch.ones(1, 64, device='cuda'))\n"
        "time.sleep(2.5)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert run_command("run", "--emulate", "t4", "-o", "r.vram", "killed.py", cwd=tmp_path).returncode == -9
    result = run_command("report", "r.vram", cwd=tmp_path)
    assert result.returncode == 0
    assert "the run was killed" in result.stdout
    assert "EMULATED" in result.stdout
    spans = load(tmp_path / "r.vram").recording.spans
    assert (spans["kind"] == "forward").sum() == 600


def test_a_disk_that_is_full_ends_the_stream_alone(tmp_path: Path) -> None:
    need_emulator()
    (tmp_path / "full.py").write_text(
        "import resource, time, torch\nfrom torch import nn\nmodel = nn.Linear(64, 64).cuda()\n"
        "model(torch.ones(1, 64, device='cuda'))\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))\n"
        "for _ in range(600):\n    model(torch.ones(1, 64, device='cuda'))\n"
        "time.sleep(2.5)\nresource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\nprint('done')\n"
    )
    result = run_command("run", "--emulate", "t4", "-o", "r.vram", "full.py", cwd=tmp_path)
    assert (result.returncode, result.stdout.splitlines()[0]) == (0, "done")
    recording = load(tmp_path / "r.vram").recording
    assert (recording.spans["kind"] == "forward").sum() == 601
    assert "File too large" in recording.gaps.set_index("source").loc["stream", "reason"]


def test_each_rank_writes_its_own_recording(tmp_path: Path) -> None:
    need_emulator()
    (tmp_path / "train.py").write_text("import torch\nkept = torch.ones(1000, device='cuda')\n")
    command = ["-m", "vramprof", "run", "--emulate", "t4", "-o", "r.vram", "train.py"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *command]
    subprocess.run(torchrun, check=True, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=300)
    assert sorted(path.name for path in tmp_path.glob("*.vram")) == ["r-rank0.vram", "r-rank1.vram"]
    metadata = json.loads((tmp_path / "r-rank1.vram" / "metadata.json").read_text())
    assert (metadata["rank"], metadata["world_size"]) == (1, 2)


def test_demo_writes_page_json_picture_and_recording(tmp_path: Path) -> None:
    need_emulator()
    result = run_command("demo", "--out", "demo", "--emulate", "a100-80gb", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "EMULATED" in result.stdout
    for name in ("demo.html", "demo.json", "demo.png", "demo.vram"):
        assert (tmp_path / "demo" / name).exists()
    device = json.loads((tmp_path / "demo" / "demo.json").read_text())["devices"][0]
    assert len(device["steps"]) == 3
    assert device["peak"]["by_category"]["weights"] > 124_000_000 * 4 * 0.99


def test_an_out_of_memory_error_in_a_script_is_marked(tmp_path: Path) -> None:
    need_emulator()
    (tmp_path / "oom.py").write_text("import torch\nkept = torch.empty(8 << 30, dtype=torch.uint8, device='cuda')\n")
    (tmp_path / "r.vram").mkdir()
    (tmp_path / "r.vram" / "events.parquet").write_bytes(b"an older recording")
    (tmp_path / "r.vram" / "metadata.json").write_text("{}")
    result = run_command("run", "--emulate", "t4:memory=1GiB", "-o", "r.vram", "oom.py", cwd=tmp_path)
    assert result.returncode == 1
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate 8.00 GiB" in result.stderr
    assert json.loads((tmp_path / "r.vram" / "metadata.json").read_text())["origin"] == "oom"


def test_a_folder_that_is_no_recording_is_not_overwritten(tmp_path: Path) -> None:
    need_emulator()
    (tmp_path / "s.py").write_text("print('ran')\n")
    (tmp_path / "r.vram").mkdir()
    (tmp_path / "r.vram" / "thesis.tex").write_text("mine")
    result = run_command("run", "--emulate", "t4", "-o", "r.vram", "s.py", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "r.vram" / "thesis.tex").read_text() == "mine"
