from __future__ import annotations

from programs import told_by

MIB = 1 << 20


def test_a_pool_grows_by_chunks_and_is_charged_for_them() -> None:
    told = told_by(
        """
import json, torch
def told():
    stats = torch.cuda.memory_stats()
    kinds = ("allocated_bytes.all.current", "allocated_bytes.all.peak", "reserved_bytes.all.current")
    free, total = torch.cuda.mem_get_info()
    return [stats[kind] for kind in kinds] + [total - free]
torch.cuda.init()
context = told()[-1]
kept = [torch.empty(20 << 20, dtype=torch.uint8, device="cuda") for _ in range(2)]
full = told()
kept.pop()
half = told()
torch.cuda.empty_cache()
print(json.dumps([context, full, half, told()]))
""",
        environment={"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
    )
    context, full, half, trimmed = told
    assert full == [40 * MIB, 40 * MIB, 64 * MIB, context + 64 * MIB]
    assert half == [20 * MIB, 40 * MIB, 64 * MIB, context + 64 * MIB]
    assert trimmed == [20 * MIB, 40 * MIB, 32 * MIB, context + 32 * MIB]


def test_a_pool_never_exceeds_the_card() -> None:
    told = told_by(
        """
import json, torch
kept = []
try:
    while True:
        kept.append(torch.empty(64 << 20, dtype=torch.uint8, device="cuda"))
except torch.OutOfMemoryError:
    free, total = torch.cuda.mem_get_info()
print(json.dumps([len(kept), free]))
""",
        gpu="t4:memory=2GiB",
        environment={"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
    )
    count, free = told
    assert count > 10
    assert 0 <= free < 64 * MIB
