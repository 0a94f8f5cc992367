"""Leaks outside torch's allocator: the process grows, torch's own figures do not."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from leakbench.registry import leak

MIB = 1024**2


def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


@leak(grows=8 * MIB, holder="outside torch", steps=24, outside=True)
def an_extension_that_never_frees() -> Iterator[None]:
    """https://github.com/cupy/cupy/issues/6756"""
    import time

    import torch

    model = torch.nn.Linear(256, 256).cuda()
    pointer = ctypes.c_uint64()
    while True:
        model(torch.randn(64, 256, device="cuda")).mean().backward()
        _driver().cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(8 * MIB))
        time.sleep(0.06)  # a step of real work: the sampler reads every 0.05 s
        yield


@leak(grows=32 * MIB, holder="outside torch", steps=24, outside=True)
def a_communicator_per_step() -> Iterator[None]:
    """https://github.com/NVIDIA/nccl/issues/1234"""
    import time

    import torch

    weight = torch.zeros(256, 256, device="cuda")
    pointer = ctypes.c_uint64()
    while True:
        weight += 1
        for _ in range(4):
            _driver().cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(8 * MIB))
        time.sleep(0.06)
        yield
