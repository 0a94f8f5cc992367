from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recordings import training

from programs import need_emulator, run_command, run_program
from vramprof import diagnose, load
from vramprof.analyses.causes import CauseKind
from vramprof.diagnosis import newest_dump
from vramprof.oom_watch import OomWatch
from vramprof.sources import oom_signals

HEAD = """
import sys; sys.argv = ["train.py"]
import vramprof; vramprof.install(folder={folder!r}, max_entries={entries})
vramprof.emulate("a100-80gb:memory=2GiB")
import json, os, threading, torch

def take(mib):
    return torch.empty(mib << 20, dtype=torch.uint8, device="cuda")

def caught(function, *arguments):
    try:
        function(*arguments)
    except torch.OutOfMemoryError as error:
        trace, names = error.__traceback__, []
        while trace is not None:
            names.append(trace.tb_frame.f_code.co_name)
            trace = trace.tb_next
        return [type(error) is torch.OutOfMemoryError, str(error)[:40], names, getattr(error, "__notes__", [])]
"""


def told(
    code: str, folder: Path, *, entries: int = 100_000, tell: str = "found", environment: dict[str, str] | None = None
) -> tuple[Any, str]:
    """What a program with `install()` found, and its stderr."""
    need_emulator()
    code = f"{HEAD.format(folder=str(folder), entries=entries)}{code}\nprint(json.dumps({tell}))"
    result = run_program(code, gpu=None, environment=environment)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


def test_caught_and_tried_again_in_any_thread(tmp_path: Path) -> None:
    """Three dumps and the latest; torch's own error and traceback; what the program raises itself is left alone."""
    code = """
vramprof.install()  # again: nothing more happens
child = os.fork()
if child == 0:  # CUDA is not initialised yet: a fork may use it
    keep = [take(100) for _ in range(3)]
    found = caught(take, 3000)
    os._exit(0)
os.waitpid(child, 0)
keep = [take(100) for _ in range(10)]
model = torch.nn.Linear(1024, 1024, bias=False).cuda()  # named in the dump, though nobody watched it
optimizer = torch.optim.Adam(model.parameters())
model(torch.ones(1, 1024, device="cuda")).sum().backward()
optimizer.step()
found = [caught(take, 3000)]

class Grows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x * 2
    @staticmethod
    def backward(ctx, g): return g + take(3000)

loss = Grows.apply(torch.ones(8, device="cuda", requires_grad=True)).sum()
found.append(caught(loss.backward))
threads = [threading.Thread(target=lambda: found.append(caught(take, 3001)))]
for thread in threads:
    thread.start(); thread.join()
def again(): raise torch.OutOfMemoryError("Caught in replica 1 on device 0.\\n" + found[0][1])
def own(): raise torch.OutOfMemoryError("my own limit")
remade, own = caught(again), caught(own)
found += [caught(take, 3002), caught(take, 3003), remade, own]
thread = threading.Thread(target=take, args=(3004,)); thread.start(); thread.join()
"""
    (pid, found), errors = told(code, tmp_path, tell="[os.getpid(), found]")
    *failed, remade, own = found
    assert all(is_torchs and text.startswith("CUDA out of memory. Tried to") for is_torchs, text, _, _ in failed)
    assert failed[0][2] == ["caught", "take"]
    assert failed[1][2][0] == "caught"
    assert failed[1][2][-2:] == ["backward", "take"]
    assert own[3] == []
    assert remade[3] == failed[-1][3] or remade[3] == []
    for notes in (one[3] for one in failed):
        (note,) = notes
        assert note.startswith("vramprof")
        assert note.splitlines()[-1].strip().startswith("vramprof diagnose ")
    assert "absurd request" in failed[0][3][0]
    assert "<string>:8 take" in failed[0][3][0]
    names = sorted(path.name for path in tmp_path.iterdir())
    mine = [name for name in names if f"-{pid}-" in name]
    assert [name.split("-oom")[1] for name in mine] == ["-latest.vram", "1.vram", "2.vram", "3.vram"]
    assert len(names) == 5
    assert "caught 5 times" in errors  # the sixth ended its thread
    assert f"{mine[0]}" in errors
    dump = load(tmp_path / mine[1])
    assert (dump.recording.origin, dump.recording.emulated) == ("oom", True)
    (device,) = dump.facts.devices
    held = device.peak.by_category
    assert {name: held[name] >> 20 for name in ("weights", "gradients", "optimizer")} == {
        "weights": 4, "gradients": 4, "optimizer": 8,
    }  # fmt: skip
    assert diagnose(tmp_path / mine[2]).cases[0].frames[0].name == "take"
    assert newest_dump(tmp_path).name == mine[0]


STAGES = {
    "no room on the host": "import vramprof.sources.oom_evidence as m; m.available_bytes = lambda: 1000",
    "the disk is full": "import vramprof.oom_dump as m; m.save_folder = fails(OSError(28, 'No space left on device'))",
    "the state cannot be taken": "import vramprof.sources.oom_evidence as m; m.record_snapshot = fails(MemoryError())",
    "no finding": "import vramprof.oom_dump as m; m.gather_facts = fails(KeyError('odd'))",
    "no counters": "import vramprof.oom_watch as m; m.count_failures = fails(RuntimeError('gone'))",
    "no frames": "import vramprof.sources.oom_signals as m; m._callers_frames = fails(SystemExit(3))",
    "stderr is closed": "import vramprof.oom_dump as m; m.save_folder = fails(OSError(28, 'full')); sys.stderr.close()",
}


def test_no_failure_of_ours_hides_the_users_error(tmp_path: Path) -> None:
    code = f"""
def fails(error):
    def call(*arguments, **options): raise error
    return call
keep = [take(100) for _ in range(10)]
import vramprof.oom_dump, vramprof.sources.oom_evidence, vramprof.sources.oom_signals, vramprof.oom_watch as watch
import importlib
found = {{}}
sys.stderr.flush()
for name, break_it in {STAGES!r}.items():
    modules = [sys.modules["vramprof." + one] for one in
               ("oom_dump", "sources.oom_evidence", "sources.oom_signals", "oom_watch")]
    before = [dict(vars(module)) for module in modules]
    stderr = sys.stderr; sys.stderr = os.fdopen(os.dup(2), "w")
    exec(break_it)
    found[name] = caught(take, 3000)
    sys.stderr = stderr
    for module, names in zip(modules, before):
        vars(module).update(names)
"""
    found, errors = told(code, tmp_path)
    for name in STAGES:
        is_torchs, text, frames, _ = found[name]
        assert (is_torchs, text, frames) == (True, "CUDA out of memory. Tried to allocate 2.", ["caught", "take"]), name
    assert "No space left on device" in found["the disk is full"][3][0]
    assert "absurd request" in errors  # the evidence went to the log
    assert "<string>:8 take" in errors
    assert not list(tmp_path.glob(".*"))
    short = load(sorted(tmp_path.iterdir())[0])
    (case,) = diagnose(short.recording).cases
    assert (case.causes[0].kind, case.frames[0].name) == (CauseKind.ABSURD_REQUEST, "take")
    assert short.recording.gaps["reason"].str.contains("history was not taken").any()


def test_errors_that_are_not_of_torchs_allocator(tmp_path: Path) -> None:
    """Turned down before the driver was asked, of the host, of the driver: told when nobody caught them."""
    code = """
keep = [take(100) for _ in range(3)]
found = [caught(take, 3000)]
def host(): torch.empty(1 << 50)
def driver(): raise RuntimeError("CUDA error: out of memory")
for function in (host, driver):
    thread = threading.Thread(target=function); thread.start(); thread.join()
"""
    found, errors = told(code, tmp_path, environment={"PYTORCH_CUDA_ALLOC_CONF": "throw_on_cudamalloc_oom:True"})
    assert "preemptively" in errors or found[0][1].startswith("CUDA out of memory. Allocation was preem")
    kinds = [diagnose(path).cases[0].causes[0].kind for path in sorted(tmp_path.iterdir())]
    assert kinds == [CauseKind.ABSURD_REQUEST, CauseKind.HOST_MEMORY, CauseKind.OUTSIDE_ALLOCATOR]
    assert errors.count("vramprof diagnose") == 3


def test_a_session_within_install_and_the_programs_own_history(tmp_path: Path) -> None:
    code = f"""
def enabled(): return torch._C._cuda_isHistoryEnabled()
take(1)
found = [enabled()]
with vramprof.profile(out={str(tmp_path / "r.vram")!r}) as prof:
    with torch.no_grad():
        torch.nn.Linear(1000, 1000).cuda()(torch.ones(9, 1000, device="cuda"))
    found.append(caught(take, 3000)[3][0].splitlines()[-1])
found += [enabled(), caught(take, 3000)[3][0].splitlines()[-1]]
torch.cuda.memory._record_memory_history(None)
torch.cuda.memory._record_memory_history(context="all", stacks="python", max_entries=50)
keep = [take(1) for _ in range(30)]
caught(take, 3000)
entries = torch.cuda.memory._snapshot()["device_traces"][0]
found += [enabled(), len(entries), prof.recording.origin]
"""
    found, _ = told(code, tmp_path, entries=1000)
    assert [found[0], found[2], found[4]] == [True, True, True]
    assert found[1].endswith("/r-oom1.vram")
    assert "train-" in found[3]
    assert found[5] == 30 + 15 + 2  # the program's own ring went on: blocks, segments, the error, our snapshot
    recording = load(tmp_path / "r-oom1.vram").recording
    assert set(recording.tensors["category"]) >= {"weights", "inputs"}


def test_run_with_children_and_a_sigterm(tmp_path: Path) -> None:
    need_emulator()
    (tmp_path / "train.py").write_text(
        """
import os, signal, torch
import torch.multiprocessing as mp

def work(rank):
    os.environ["RANK"] = str(rank)
    keep = [torch.empty(100 << 20, dtype=torch.uint8, device="cuda") for _ in range(10 if rank else 1)]
    if rank:
        torch.empty(3000 << 20, dtype=torch.uint8, device="cuda")

if __name__ == "__main__":
    kept = torch.ones(1000, 1000, device="cuda")
    try:
        mp.spawn(work, nprocs=2)
    except mp.ProcessRaisedException as error:
        print(str(error)[-300:], flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached")
"""
    )
    result = run_command("run", "--emulate", "a100-80gb:memory=2GiB", "-o", "r.vram", "train.py", cwd=tmp_path)
    assert result.returncode == -15, result.stderr[-3000:]
    (child,) = tmp_path.glob("r-*.vram")
    assert child.name.endswith("-rank1-oom1.vram")
    assert f"vramprof diagnose {child.name}" in result.stdout
    assert "not reached" not in result.stdout
    whole = load(tmp_path / "r.vram").facts.devices[0]
    assert whole.peak.allocated_bytes >= 4_000_000
    assert run_command("diagnose", cwd=tmp_path).returncode in (0, 1)


def test_what_torch_puts_up_with_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed request without an error: its dump makes room for the next, and goes when the program ends."""

    def names() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    failure = oom_signals.Failure((), "MainThread", device=0, tried_bytes=1 << 30)
    watch = OomWatch(tmp_path, lambda: "x", lambda failure: training())
    watch.struck(failure)
    watch.struck(failure)
    assert names() == ["x-oom1.vram"]
    watch.born(RuntimeError("CUDA out of memory"))
    watch.struck(failure)
    assert names() == ["x-oom1.vram", "x-oom2.vram"]
    watch.close()
    assert names() == ["x-oom1.vram"]
    assert "x-oom1.vram" in capsys.readouterr().err
    (tmp_path / "y-oom1.vram").mkdir()
    (tmp_path / "y-oom1.vram" / "thesis.tex").touch()
    other = OomWatch(tmp_path, lambda: "y", lambda failure: training())
    for _ in range(5):
        other.struck(failure)
    assert capsys.readouterr().err.count("is no recording") == 3  # and is then told once in twenty times its own time
    assert [path.name for path in (tmp_path / "y-oom1.vram").iterdir()] == ["thesis.tex"]


def test_without_notes_a_line_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    watch = OomWatch(Path(), lambda: "x", lambda failure: pytest.fail("not asked for"))
    watch._note = "vramprof: capacity"

    class OldError(RuntimeError):
        add_note = property(lambda self: (_ for _ in ()).throw(AttributeError()))

    for _ in range(2):
        watch._tell(OldError())
    assert capsys.readouterr().err == "vramprof: capacity\n"
    assert oom_signals.count_failures() == 0
