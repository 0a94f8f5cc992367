"""Surprises of what is around: growth, fragmentation, other processes, and memory outside torch."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

from surprises.models import loss_of, perceptron, tokens, transformer
from surprises.registry import surprise

MIB = 1024**2


def _train(model: Any, optimizer: Any, batch: Any) -> Any:
    optimizer.zero_grad()
    loss = loss_of(model(batch), batch)
    loss.backward()
    optimizer.step()
    return loss


@surprise("VP512", actual_steps=14)
def predictions_that_are_kept(actual: bool) -> Iterator[None]:
    import torch

    model = perceptron()
    kept: list[Any] = []
    while True:
        with torch.no_grad():
            out = model(torch.randn(1024, 1024, device="cuda"))
        if actual:
            kept.append(out)
        yield


@surprise("VP512", actual_steps=14)
def losses_with_their_history(actual: bool) -> Iterator[None]:
    import torch

    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total: Any = 0
    while True:
        optimizer.zero_grad()
        loss = model(torch.randn(512, 1024, device="cuda")).square().mean()
        loss.backward(retain_graph=actual)
        optimizer.step()
        total = total + (loss if actual else loss.detach())
        yield


@surprise("VP513", expected_steps=6, actual_steps=16)
def lengths_that_creep_up(actual: bool) -> Iterator[None]:
    """Never longer than predicted, but each longer than those before: the cached blocks fit none of the next."""
    import torch

    model = transformer()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    step = 0
    while True:
        _train(model, optimizer, tokens(batch=16, length=min(272 + 16 * step, 512) if actual else 512))
        step += 1
        yield


@surprise("VP513")
def large_blocks_after_small_ones(actual: bool) -> Iterator[None]:
    """The same blocks in another order: small ones can lie in what large ones had, and large ones not in theirs."""
    import torch

    def take(size: int) -> Any:
        return torch.empty(size * MIB, dtype=torch.uint8, device="cuda")

    while True:
        for size, count in ((20, 12), (60, 4)) if actual else ((60, 4), (20, 12)):
            blocks = [take(size) for _ in range(count)]
            del blocks
        yield


@surprise("VP514", actual_steps=8)
def another_process_on_the_card(actual: bool) -> Iterator[None]:
    """Emulated devices are not shared: here NVML is made to say what it says when another process is there."""
    import pynvml
    import torch

    original = pynvml.nvmlDeviceGetMemoryInfo

    class Answer:
        def __init__(self, memory: Any) -> None:
            self.used = memory.used + 3 * 1024 * MIB

    model = perceptron()
    if actual:
        pynvml.nvmlDeviceGetMemoryInfo = lambda handle, **options: Answer(original(handle, **options))
    try:
        while True:
            model(torch.randn(64, 1024, device="cuda")).mean().backward()
            _wait()
            yield
    finally:
        pynvml.nvmlDeviceGetMemoryInfo = original


def _wait() -> None:
    import time

    time.sleep(0.06)  # a step of real work: the sampler reads every 0.05 s


@surprise("VP515", actual_steps=8)
def an_extension_with_memory_of_its_own(actual: bool) -> Iterator[None]:
    import torch

    driver = ctypes.CDLL("libcuda.so.1")
    pointer = ctypes.c_uint64()
    model = perceptron()
    if actual:
        driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(512 * MIB))
    try:
        while True:
            model(torch.randn(64, 1024, device="cuda")).mean().backward()
            _wait()
            yield
    finally:
        if actual:
            driver.cuMemFree_v2(pointer)
