"""Single layers and losses, repeated as a benchmark of kernels does: peak of `max_memory_allocated` per repetition."""

from __future__ import annotations

import gc
import inspect
import statistics
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from prediction_accuracy.programs.liger_kernels import attention, heads, layers, losses, mlp
from prediction_accuracy.programs.liger_kernels.bench import Bench, bench_of

REPETITIONS = 5

__all__ = ["attention", "heads", "layers", "losses", "mlp", "run"]


def run(
    *, kernel: str, settings: list[tuple[str, Any]], asked: list[tuple[str, str, int]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields `provider/mode/x` and the median peak of every figure, all in one process as the benchmark does."""
    make = bench_of(kernel)
    named = {name.lower(): _value(value) for name, value in settings}
    if "kernel" in inspect.signature(make).parameters:
        named["kernel"] = kernel
    smallest = min(x for _, _, x in asked)
    for provider in dict.fromkeys(provider for provider, _, _ in asked):
        with suppress(Exception):  # the benchmark has timed them all before, which leaves library workspaces behind
            make(provider, smallest, **named).full()
    for provider, mode, x in asked:
        gc.collect()
        try:
            figures: dict[str, Any] = {"allocated": _median_peak(make(provider, x, **named), mode)}
        except Exception as error:
            figures = {"failure": f"{type(error).__name__}: {error}"[:200]}
        yield f"{provider}/{mode}/{x}", figures


def _value(value: Any) -> Any:
    is_type = isinstance(value, str) and value.startswith("torch.")
    return getattr(torch, value.removeprefix("torch.")) if is_type else value


def _median_peak(bench: Bench, mode: str) -> int:
    repeat = bench.repeat(mode)
    peaks = []
    for _ in range(REPETITIONS):
        torch.cuda.reset_peak_memory_stats()
        repeat()
        peaks.append(torch.cuda.max_memory_allocated())
    return int(statistics.median(peaks))
