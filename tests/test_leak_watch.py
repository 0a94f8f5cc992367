"""Growth that is certain is said once, in the flow of the program, and the line and the holder are in the report."""

from __future__ import annotations

import pytest

from programs import run_program

PROGRAM = """
import json, torch, vramprof
from torch import nn
model = nn.Linear(64, 64).cuda()
optimizer = torch.optim.AdamW(model.parameters())
kept = []
def train(leak, steps=30):
    for _ in range(steps):
        loss = model(torch.randn(8, 64, device="cuda")).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if leak:
            kept.append(torch.zeros(1 << 18, device="cuda"))
"""


@pytest.mark.parametrize(("way", "leak", "lines"), [("warn", True, 1), ("warn", False, 0), ("off", True, 0)])
def test_one_line_when_growth_is_certain_and_not_before(way: str, leak: bool, lines: int) -> None:
    result = run_program(PROGRAM + f"with vramprof.profile(leaks={way!r}): train({leak})")
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr.count("vramprof: memory grows by 1.00 MiB in every step") == lines


def test_raise_ends_the_program_and_the_report_names_the_holder() -> None:
    code = """
try:
    with vramprof.profile(leaks="raise") as prof: train(True)
except vramprof.LeakError as error:
    found = [finding for finding in prof.report().findings if finding.code == "VP201"]
    print(json.dumps([str(error), len(kept), found[0].holder]))
"""
    result = run_program(PROGRAM + code)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "memory grows" in result.stdout
    assert "list 'kept'" in result.stdout
