"""Private pools beside torch's own, memory outside torch by when it came, and a peak that was not traced."""

from __future__ import annotations

from programs import told_by


def test_pools_outside_and_a_peak_before_the_session() -> None:
    told = told_by(
        """
import json, torch, vramprof
large = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
del large
model, x = torch.nn.Linear(512, 512).cuda(), torch.randn(64, 512).cuda()
with vramprof.profile() as prof, torch.no_grad():
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool): kept = torch.empty(4 << 20, dtype=torch.uint8, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()): model(x)
    with torch.cuda.graph(torch.cuda.CUDAGraph()): out = model(x)
    for _ in range(2): model(x)
report = prof.report()
print(json.dumps([report.as_dict()["devices"][0], "256 MiB" in report.text()]))
"""
    )
    device, is_told = told
    pools = {pool["owner"]: pool for pool in device["pools"]}
    assert set(pools) == {"program", "cuda graph"}
    assert pools["program"]["reserved_bytes"] >= pools["program"]["peak_allocated_bytes"] == 4 << 20
    assert sum(row["bytes"] for row in device["outside_torch"]) == device["outside_torch_bytes"] > 0
    assert device["counted_peak_allocated_bytes"] == 1 << 28
    assert device["peak"]["allocated_bytes"] < 1 << 28
    assert is_told


def test_no_pool_where_there_is_none() -> None:
    device = told_by(
        """
import json, torch, vramprof
with vramprof.profile() as prof: kept = torch.empty(4 << 20, dtype=torch.uint8, device="cuda")
print(json.dumps(prof.report().as_dict()["devices"][0]))
"""
    )
    assert device["pools"] == []
    assert device["counted_peak_allocated_bytes"] == device["peak"]["allocated_bytes"]
