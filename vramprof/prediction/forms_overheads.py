"""Closed forms of what nobody asked for: workspaces, what the allocator rounds up, and the CUDA context."""

from __future__ import annotations

from vramprof.prediction.case import Case
from vramprof.prediction.forms import ALWAYS, BACKWARD, INFERENCE, Moment, form
from vramprof.prediction.parameters import matrices
from vramprof.units import KIB, MIB

_ALLOCATOR = "c10/cuda/CUDACachingAllocator.cpp: kMinBlockSize, kLargeBuffer, kRoundLarge, should_split; measured"


@form(
    "cuBLAS workspace",
    category="workspaces",
    alive=(Moment.LOSS, *BACKWARD, *INFERENCE),
    source="torch CublasHandlePool.cpp; released after each call from torch 2.15 on (pytorch#194311)",
    formula="before torch 2.15: 2 of 8.125 MiB, of 32 MiB from compute capability 9 on",
)
def _cublas(case: Case) -> float:
    if case.torch_version >= (2, 15):
        return 0
    one = 32 * MIB if case.gpu.compute_capability[0] in (9, 10, 12) else 8_519_680
    return one if case.load.inference else 2 * one


@form(
    "allocator rounding",
    category="unattributed",
    alive=(Moment.LOSS, *BACKWARD, *INFERENCE),
    source=_ALLOCATOR,
    formula="of weights and states: above 10 MiB what lacks to 2 MiB if below 1 MiB, from 1 MiB on 64 KiB, else 256 B",
)
def _rounding(case: Case) -> float:
    return _slack(case, case.load.plain_bytes, case.load.zero == 3) + _state_slack(case)


@form(
    "allocator rounding",
    category="unattributed",
    alive=(Moment.STEP,),
    source=_ALLOCATOR,
    formula="the same, of weights, states and gradients",
)
def _rounding_in_step(case: Case) -> float:
    load = case.load
    gradients = 0 if load.lora_rank else _slack(case, load.plain_bytes, load.zero >= 2)
    return _slack(case, load.plain_bytes, load.zero == 3) + _state_slack(case) + gradients


def _state_slack(case: Case) -> float:
    copies = {"momentum": 1, "lion": 1, "muon": 1, "adam": 2, "adamw": 2, "adamw-fused": 2}.get(case.load.optimizer, 0)
    if not case.trained or case.load.lora_rank or "optimizer" in case.load.offload:
        return 0
    return copies * _slack(case, 4 if case.load.mixed == "masters" else case.trained_bytes, case.load.zero > 0)


def _slack(case: Case, size: float, sharded: bool) -> float:
    """What blocks hold beyond one copy of all weights, of `size` bytes each, on this rank."""
    ways = case.load.tp * case.load.pp * (case.load.shards if sharded else 1)
    total = 0.0
    for matrix in matrices(case.model):
        stages = case.load.pp if matrix.count > 1 else 1
        one = matrix.elements * size / ways * stages
        rest = -one % (2 * MIB)
        slack = (rest if rest <= MIB else 0) if one >= 10 * MIB else 64 * KIB if one > MIB else 256
        total += slack * matrix.count / stages
    return total


@form(
    "CUDA context",
    category="outside",
    alive=ALWAYS,
    source="the catalog: `vramprof gpus NAME`",
    formula="context + modules of the card",
)
def _context(case: Case) -> float:
    context = case.gpu.context
    return context[max(context)] + case.gpu.modules
