"""The 3xx family: each code on a program made to show it, and silent on its twin; real torch on an emulated device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from programs import run_command, told_by
from vramprof import load

MIB = 1 << 20
HEAD = """
import json, torch, vramprof

def take(mib):
    return torch.empty(int(mib * 2**20), dtype=torch.uint8, device="cuda")

def findings(body):
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    with vramprof.profile(leaks="off") as prof:
        body()
    return {f.code: f.cost_bytes for f in prof.report().findings if f.code.startswith("VP3")}
"""

PAIRS = {
    "VP303": """
def bad():
    keep = [take(100) for _ in range(14)][::2]
    small = [take(60) for _ in range(7)]
    keep = None
    last = take(300)
def good():
    small = [take(60) for _ in range(7)]
    keep = [take(100) for _ in range(14)][::2]
    keep = None
    last = take(100)
""",
    "VP304": """
def on(stream):
    with torch.cuda.stream(stream):
        tall = [take(100) for _ in range(4)]
    tall = None
    mine = [take(100) for _ in range(4)]
def bad():
    on(torch.cuda.Stream())
def good():
    on(torch.cuda.current_stream())
""",
    "VP305": """
pool = torch.cuda.MemPool()
def bad():
    with torch.cuda.use_mem_pool(pool):
        mine = [take(100) for _ in range(4)]
    mine = None
    keep = [take(50) for _ in range(4)]
def good():
    mine = [take(100) for _ in range(4)]
    mine = None
    keep = [take(50) for _ in range(4)]
""",
    "VP306": """
def with_stream(record):
    side = torch.cuda.Stream()
    keep = []
    for _ in range(4):
        one = take(100)
        with torch.cuda.stream(side):
            keep.append(one[:1] + 1)
        if record:
            one.record_stream(side)
        else:
            torch.cuda.current_stream().wait_stream(side)
        one = None
    keep.append(take(120))
def bad():
    with_stream(True)
def good():
    with_stream(False)
""",
    "VP307": """
def bad():
    keep = [take(20.5) for _ in range(50)]
def good():
    keep = [take(24) for _ in range(50)]
""",
    "VP308": """
def steps(flush):
    for _ in range(6):
        work = take(200)
        work = None
        if flush:
            torch.cuda.empty_cache()
def bad():
    steps(True)
def good():
    steps(False)
""",
}
GPUS = {"VP306": "a100-80gb:lag=1000"}
SETTINGS = {"VP307": "roundup_power2_divisions:2"}


@pytest.mark.parametrize("code", PAIRS)
def test_each_cause_is_named_and_its_twin_is_not(code: str) -> None:
    good, bad = told_by(
        HEAD + PAIRS[code] + "print(json.dumps([findings(good), findings(bad)]))",
        gpu=GPUS.get(code, "a100-80gb"), environment={"PYTORCH_CUDA_ALLOC_CONF": SETTINGS.get(code, "")},
    )  # fmt: skip
    assert bad[code] >= 128 * MIB
    assert code not in good


def test_the_report_and_the_json_show_the_worst_moment(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(HEAD.partition("def findings")[0] + PAIRS["VP303"] + "bad()\n")
    result = run_command("run", "--emulate", "a100-80gb", "-o", "run.vram", "train.py", cwd=tmp_path)
    assert "held open by blocks of" in result.stderr, result.stderr[-2000:]
    assert "█████████░░░░" in result.stderr
    report = load(tmp_path / "run.vram")
    told: dict[str, Any] = json.loads(json.dumps(report.as_dict()))["devices"][0]["fragmentation"]
    free = told["free"]
    assert free["split"] == 7 * 40 * MIB
    assert free["whole"] == 7 * 100 * MIB
    assert told["reserved_bytes"] - told["allocated_bytes"] == free["split"] + free["whole"]
    assert told["pins"][0]["block_count"] == 7
    blocks = [block for segment in told["segments"] for block in segment["blocks"]]
    assert sum(size for size, state in blocks if state == "free") == free["split"] + free["whole"]
    assert max(point["reserved_bytes"] for point in told["over_time"]) == 1700 * MIB
