"""What would save a program: computed from what was held, and proven by dry runs of the program itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from programs import run_command
from vramprof import load
from vramprof.analyses.causes import OomFigures
from vramprof.analyses.held import Held, Layer
from vramprof.cli import main
from vramprof.diagnosis import diagnose
from vramprof.errors import RecordingError
from vramprof.findings.levers import ROUNDED, SAME, SMALLER, Case, Lever, find_levers
from vramprof.reruns import find_program, with_argument

MIB = 1 << 20
PROGRAM = """
import sys, torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(256, 2048), nn.Linear(2048, 256)

    def forward(self, x):
        return x + self.narrow(torch.relu(self.wide(x)))

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(8))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

batch = int(sys.argv[sys.argv.index("--batch") + 1])
model = Model().cuda()
optimizer = torch.optim.AdamW(model.parameters())
for step in range(2):
    model(torch.randn(batch, 256, device="cuda")).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
"""
HELD = Held(
    scaling_bytes=600 * MIB, constant_bytes=400 * MIB, unknown_bytes=0, activation_bytes=500 * MIB,
    weight_bytes=100 * MIB, gradient_bytes=100 * MIB, optimizer_bytes=200 * MIB, narrowable_bytes=200 * MIB,
    loss_bytes=80 * MIB, layers=(Layer("layers.0", 200 * MIB, 20 * MIB), Layer("layers.1", 200 * MIB, 20 * MIB)),
    request="scaling", request_in_loss=False,
)  # fmt: skip
FIGURES = OomFigures(
    tried_bytes=100 * MIB, requested_bytes=100 * MIB, capacity_bytes=1100 * MIB, free_bytes=0,
    reserved_bytes=1100 * MIB, held_bytes=1000 * MIB, idle_bytes=100 * MIB,
)  # fmt: skip


def levers(figures: OomFigures | None = FIGURES, command: str = "train.py --batch 32") -> dict[str, Lever]:
    return {lever.name: lever for lever in find_levers(Case(HELD, figures, command.split(), 0, 0, 0, 1))}


def test_each_lever_saves_what_was_held_for_it() -> None:
    found = levers()
    assert found["checkpointing"].saving_bytes == (400 - 40 - 200) * MIB
    assert found["checkpointing"].modules == ("layers",)
    assert found["loss"].saving_bytes == 70 * MIB
    assert found["optimizer-cpu"].saving_bytes == 200 * MIB
    assert found["8bit"].saving_bytes == 150 * MIB - 200 * MIB // 256
    assert found["accumulation"].saving_bytes == 350 * MIB  # half of 600 and of the request's 100
    assert found["batch"].argument == ("--batch", 27)  # 1 - 100 / 700 of 32
    assert [found[name].numerics for name in ("loss", "batch", "8bit")] == [SAME, SMALLER, ROUNDED]


def test_a_margin_counts_idle_bytes_as_lost_and_says_what_they_would_give() -> None:
    found = levers()
    assert (found["checkpointing"].margin_bytes, found["checkpointing"].fits) == (60 * MIB, True)
    assert (found["loss"].margin_bytes, found["loss"].most_margin_bytes) == (-30 * MIB, 70 * MIB)
    assert found["loss"].fits is None
    assert [lever.fits for lever in levers(None).values()] == [None] * len(levers(None))


def test_the_order_is_what_fits_then_what_keeps_the_results() -> None:
    names = list(levers())
    assert names.index("checkpointing") < names.index("batch") < names.index("8bit")
    assert names[-1] == "loss"


@pytest.mark.parametrize(
    ("command", "argument"),
    [("t.py --batch-size=8", ("--batch-size", 6)), ("t.py train.micro_batch=8", ("train.micro_batch", 6)),
     ("t.py --eval-batch 8", None), ("t.py --epochs 8", None)],
)  # fmt: skip
def test_the_batch_is_found_in_the_command(command: str, argument: tuple[str, int] | None) -> None:
    assert levers(command=command)["batch"].argument == argument


def test_an_argument_is_exchanged_however_it_is_written() -> None:
    assert with_argument(["t.py", "--batch", "8", "x"], "batch", "2") == ("t.py", "--batch", "2", "x")
    assert with_argument(["t.py", "--batch_size=8"], "batch-size", "2") == ("t.py", "--batch_size=2")
    assert with_argument(["t.py", "batch=8"], "batch", "2") == ("t.py", "batch=2")
    with pytest.raises(RecordingError, match="no argument lr"):
        with_argument(["t.py", "--batch", "8"], "lr", "1")


def test_what_cannot_be_run_again_is_said() -> None:
    with pytest.raises(RecordingError, match="name it after --"):
        find_program(None)
    with pytest.raises(RecordingError, match=r"gone\.py is not here"):
        find_program(None, command=["gone.py"], gpu="t4")


def test_dry_runs_prove_and_refute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(PROGRAM)
    card = "a100-80gb:memory=2GiB"
    command = ("run", "--no-oom-dump", "--emulate", card, "-o", "run.vram", "train.py", "--batch", "24576")
    assert run_command(*command, cwd=tmp_path).returncode == 1
    (case,) = diagnose("run.vram").cases
    found = {lever.name: lever for lever in case.levers}
    assert found["checkpointing"].modules == ("layers",)
    assert found["checkpointing"].fits
    assert main(["diagnose", "run.vram", "--json", "--try", "batch=16", "--try", "batch=24000"]) == 3
    (told,) = json.loads(capsys.readouterr().out)["cases"]
    assert [run["fits"] for run in told["dry_runs"]] == [False, True, False]
    (best,) = [one for one in told["remedies"] if one["proof"] == "dry run" and one["fits"]]
    assert best["action"] == "batch 16"


def test_checkpointing_is_put_around_layers_in_the_child_alone(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    (tmp_path / "paths.json").write_text(json.dumps(["layers"]))
    plain = ("train.py", "--batch", "4096")
    wrapped = ("-m", "vramprof.prediction.checkpointed", "paths.json", *plain)
    peaks = []
    for number, program in enumerate((plain, wrapped)):
        out = tmp_path / f"{number}.vram"
        result = run_command("run", "--emulate", "a100-80gb", "-o", str(out), *program, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-2000:]
        peaks.append(load(out).facts.devices[0].peak.allocated_bytes)
    saved = peaks[0] - peaks[1]
    assert 6 * 32 * MIB <= saved <= 8 * 2 * 32 * MIB  # relu's output, 32 MiB a layer, is what each saves
