"""Single layers and losses, repeated as a benchmark of kernels does: peak of `max_memory_allocated` per repetition."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from prediction_accuracy.programs.liger_kernels import attention, heads, layers, losses, mlp
from prediction_accuracy.programs.liger_kernels.bench import Bench, bench_of

REPETITIONS = 3  # the benchmark takes the median of ten; only the first, without gradients yet, differs

__all__ = ["attention", "heads", "layers", "losses", "mlp", "run"]


def run(
    *, kernel: str, settings: list[list[tuple[str, Any]]], asked: list[tuple[int, str, str, int]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields `setting/provider/mode/x` and the median peak of every figure, all in one process as the benchmark does.

    Before, everything is run once, because the benchmark has timed it all by then: that leaves library workspaces,
    what torch.compile keeps alive, and large free blocks to cut from.
    """
    make = bench_of(kernel)
    named = [{name.lower(): _value(value) for name, value in one} for one in settings]
    parameters = inspect.signature(make).parameters
    if "kernel" in parameters:
        named = [{**one, "kernel": kernel} for one in named]
    timed = {"timed": True} if "timed" in parameters else {}
    for setting, provider, mode, x in _timed(asked):
        with suppress(Exception):
            make(provider, x, **named[setting], **timed).repeat(mode)()
    for setting, provider, mode, x in asked:
        try:
            figures: dict[str, Any] = {"allocated": _median_peak(make(provider, x, **named[setting]), mode)}
        except Exception as error:
            figures = {"failure": f"{type(error).__name__}: {error}"[:200]}
        yield f"{setting}/{provider}/{mode}/{x}", figures


def _timed(asked: list[tuple[int, str, str, int]]) -> Iterator[tuple[int, str, str, int]]:
    """In the benchmark's order; what torch.compile keeps alive depends on which call was the first."""
    cases = dict.fromkeys((setting, provider, x) for setting, provider, _, x in asked)
    for current in sorted({setting for setting, _, _ in cases}):
        for mode in ("forward", "full"):
            yield from ((setting, provider, mode, x) for setting, provider, x in cases if setting == current)


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
