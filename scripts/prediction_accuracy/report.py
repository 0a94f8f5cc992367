"""Results to Markdown: how far off, by source and group, rivals beside us, and every outlier with its reason."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from types import ModuleType

from prediction_accuracy.events import Alignment
from prediction_accuracy.rows import Goal, Result

MIB = 1 << 20
EXACT_BYTES = MIB / 100
OUTLIER_RATIO = 0.02
UNEXPLAINED = "**not explained**"

Row = Sequence[object]


def render(results: list[Result], alignments: list[Alignment], sources: dict[str, ModuleType]) -> str:
    """The page."""
    cores = f"Python {platform.python_version()}, {platform.machine()}, no GPU."
    torches = ", ".join(sorted({result.torch_used for result in results if result.torch_used}))
    head = (
        "# How right the dry run is\n\n"
        "Written by `scripts/measure_prediction`; every row is in `prediction_accuracy.csv`.\n"
        f"{cores} torch {torches}.\n\n"
        "*Measured* is what others report from real GPUs; *predicted* is torch's own allocator on the EMULATED card.\n"
        "An error is (predicted - measured) / measured; exact means within 0.01 MiB. Errors of allocated,\n"
        "reserved and process memory (NVML, CUDA context included) are never mixed.\n"
    )
    parts = [head, _goals(results, sources), _summary(results), _rivals(results)]
    for name, module in sources.items():
        mine = [result for result in results if result.source == name]
        events = [alignment for alignment in alignments if alignment.source == name]
        if mine:
            parts += [f"## {name}\n\n{(module.__doc__ or '').strip()}\n", _outliers(mine, module), _failures(mine)]
            parts.append(_events(events, getattr(module, "EVENT_EXPLANATIONS", {})))
    return "\n".join(part for part in parts if part)


def median_error(results: Iterable[Result]) -> float:
    """Of the absolute error ratios; rows that failed count as an error of 100 %."""
    return statistics.median(_errors(results))


def error_95(results: Iterable[Result]) -> float:
    """95th percentile (nearest rank) of the absolute error ratios; rows that failed count as 100 %."""
    errors = sorted(_errors(results))
    return errors[-(-95 * len(errors) // 100) - 1]


def exact_share(results: Iterable[Result]) -> float:
    """Share of rows within 0.01 MiB; rows that failed are not."""
    differences = [result.difference_bytes for result in results]
    return sum(one is not None and abs(one) <= EXACT_BYTES for one in differences) / len(differences)


def _errors(results: Iterable[Result]) -> list[float]:
    return [1.0 if result.error_ratio is None else abs(result.error_ratio) for result in results]


def _goals(results: list[Result], sources: dict[str, ModuleType]) -> str:
    lines = []
    for name, module in sources.items():
        goals: Iterable[Goal] = getattr(module, "GOALS", ())
        for goal in goals:
            chosen = [result for result in results if result.source == name and goal.of(result)]
            if chosen:
                value = goal.value(chosen)
                met = value >= goal.limit if goal.at_least else value <= goal.limit
                wanted = f"{'>=' if goal.at_least else '<='} {goal.limit:.1%}"
                lines.append((name, goal.text, len(chosen), f"{value:.2%}", wanted, "yes" if met else "NO"))
    return _section("Goals", ("source", "goal", "rows", "is", "wanted", "met"), lines)


def _summary(results: list[Result]) -> str:
    order = attrgetter("source", "group", "quantity")
    lines = []
    for (source, group, quantity), found in groupby(sorted(results, key=order), key=order):
        rows = list(found)
        failed = sum(row.predicted_bytes is None for row in rows)
        ran = [row for row in rows if row.predicted_bytes is not None]
        figures = [f"{one(ran):.2%}" for one in (median_error, error_95, exact_share)] if ran else ["-"] * 3
        lines.append((source, group, quantity, len(rows), failed, *figures))
    heads = ("source", "group", "quantity", "rows", "failed", "median error", "95th percentile", "exact")
    return _section("By source, group and quantity", heads, lines)


def _rivals(results: list[Result]) -> str:
    """Each rival on the rows that it predicts, and our figure on the same ones."""
    names = sorted({name for result in results for name in result.rivals})
    lines = []
    for name in names:
        shared = [row for row in results if name in row.rivals and row.predicted_bytes is not None]
        theirs = [abs(row.rivals[name] / row.measured_bytes - 1) for row in shared]
        if shared:
            under = [row.rivals[name] < row.measured_bytes for row in shared]
            ours_under = [(row.error_ratio or 0) < 0 for row in shared]
            row = (name, len(shared), f"{statistics.median(theirs):.2%}", f"{median_error(shared):.2%}")
            lines.append((*row, f"{_share(under):.0%}", f"{_share(ours_under):.0%}"))
    heads = ("predictor", "rows", "its median error", "ours, same rows", "it says too little", "we say too little")
    return _section("Rivals' published predictions on the same rows", heads, lines)


def _outliers(results: list[Result], module: ModuleType) -> str:
    """One line per reason and group; the rows that it covers are named by the first three and counted."""
    far = [result for result in results if result.error_ratio is not None and abs(result.error_ratio) > OUTLIER_RATIO]
    by_reason: dict[tuple[str, str, str], list[Result]] = {}
    for result in far:
        by_reason.setdefault((result.group, result.quantity, _reason(result, module)), []).append(result)
    lines = []
    for (group, quantity, reason), rows in by_reason.items():
        ratios = sorted(row.error_ratio or 0 for row in rows)
        spread = f"{ratios[0]:+.1%}" if len(ratios) == 1 else f"{ratios[0]:+.1%} to {ratios[-1]:+.1%}"
        keys = "<br>".join(row.key for row in rows[:3]) + (f"<br>and {len(rows) - 3} more" if len(rows) > 3 else "")
        lines.append((group, quantity, len(rows), spread, keys, reason))
    heads = ("group", "quantity", "rows", "error", "which", "why")
    return _section("Outliers: every row off by more than 2 %", heads, lines, level="###")


def _failures(results: list[Result]) -> str:
    by_reason: dict[str, list[Result]] = {}
    for result in results:
        if result.predicted_bytes is None:
            by_reason.setdefault(result.failure, []).append(result)
    lines = [(len(rows), rows[0].key, reason) for reason, rows in by_reason.items()]
    return _section("Rows without a prediction", ("rows", "first of them", "reason"), lines, level="###")


def _events(alignments: list[Alignment], explanations: dict[str, str]) -> str:
    """How the allocator's events align, and why where they do not."""
    lines = []
    for one in alignments:
        places = [pair.rpartition("=")[::2] for pair in one.where.split(";") if pair]
        reasons = (f"{count} at {place}: {explanations.get(place, UNEXPLAINED)}" for place, count in places)
        counts = (one.measured_count, one.predicted_count, one.equal_in_order_count)
        any_order = one.equal_in_any_order_count / max(one.measured_count, one.predicted_count)
        shares = (f"{one.equal_in_order_ratio:.2%}", f"{any_order:.2%}")
        lines.append((one.key, one.torch_used, *counts, *shares, "<br>".join(reasons) or "none"))
    heads = (
        "program",
        "torch",
        "events measured",
        "predicted",
        "equal, in order",
        "share",
        "in any order",
        "differences",
    )
    return _section("Allocator events, (action, size) one by one", heads, lines, level="###")


def _reason(result: Result, module: ModuleType) -> str:
    return next((one.reason for one in getattr(module, "EXPLANATIONS", ()) if one.covers(result)), UNEXPLAINED)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _section(title: str, heads: Sequence[str], lines: Sequence[Row], *, level: str = "##") -> str:
    """A titled table, or nothing where it would have no lines."""
    return f"{level} {title}\n\n{table(heads, lines)}" if lines else ""


def table(heads: Sequence[str], lines: Iterable[Row], *, show: Callable[[object], str] = str) -> str:
    """A Markdown table."""
    body = [heads, ["---"] * len(heads), *lines]
    return "".join("| " + " | ".join(show(cell).replace("|", "\\|") for cell in line) + " |\n" for line in body)
