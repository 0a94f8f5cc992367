"""Single layers and losses, repeated as a benchmark of kernels does: peak of `max_memory_allocated` per repetition."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from prediction_accuracy.programs.liger_kernels import losses
from prediction_accuracy.programs.liger_kernels.bench import Bench, bench_of

REPETITIONS = 5

__all__ = ["losses"]


def run(
    *, kernel: str, settings: tuple[tuple[str, Any], ...], asked: list[tuple[str, str, int]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields `provider/mode/x` and the median peak of every figure, all in one process as the benchmark does."""
    make = bench_of(kernel)
    providers = dict.fromkeys(provider for provider, _, _ in asked)
    smallest = min(x for _, _, x in asked)
    for provider in providers:  # the benchmark has timed all of them before, which leaves library workspaces behind
        with suppress(Exception):
            make(provider, smallest, **dict(settings)).full()
    for provider, mode, x in asked:
        try:
            figures = {"allocated": _median_peak(make(provider, x, **dict(settings)), mode)}
        except Exception as error:
            figures = {"failure": f"{type(error).__name__}: {error}"[:200]}
        yield f"{provider}/{mode}/{x}", figures


def _median_peak(bench: Bench, mode: str) -> int:
    repeat = bench.repeat(mode)
    peaks = []
    for _ in range(REPETITIONS):
        torch.cuda.reset_peak_memory_stats()
        repeat()
        peaks.append(torch.cuda.max_memory_allocated())
    return int(statistics.median(peaks))
