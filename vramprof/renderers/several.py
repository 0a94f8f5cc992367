"""Turns several reports into a table for the terminal: two as a difference, many as a list with the odd ones marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from vramprof.findings import DeviceFacts, Facts
from vramprof.findings.comparison import DeviceComparison
from vramprof.prediction.plan import Plan
from vramprof.renderers.comparison import moment_rows, signed
from vramprof.renderers.terminal import render_findings
from vramprof.units import format_bytes

_EMULATED = "EMULATED: {} ran on an emulated device; no GPU was used"


def render_difference(facts: Mapping[str, Facts], compared: Sequence[DeviceComparison]) -> str:
    """By category at the peak of each device that both have, by moment, and what surprises in the second."""
    (before, first), (after, second) = facts.items()
    lines = _notices(facts)
    sides = [{device.index: device for device in one.devices} for one in (first, second)]
    for device in compared:
        lines += ["", f"GPU {device.index} {device.name}".rstrip()]
        pair = (side[device.index] for side in sides)
        lines += _aligned([("at the peak", before, after, "difference"), *_rows(*pair)])
        moments = moment_rows(device.comparison)
        if moments:
            lines += ["", *_aligned([("where they differ most", before, after, "difference"), *moments])]
        lines.append(render_findings(device.findings).rstrip("\n"))
    return "\n".join(lines).strip("\n") + "\n"


def _notices(facts: Mapping[str, Facts]) -> list[str]:
    return [_EMULATED.format(label) for label, one in facts.items() if one.recording.emulated]


def _rows(before: DeviceFacts, after: DeviceFacts) -> list[tuple[str, str, str, str]]:
    pairs = [(name, size, after.peak.by_category[name]) for name, size in before.peak.by_category.items()]
    pairs = sorted((pair for pair in pairs if pair[1] or pair[2]), key=lambda pair: -abs(pair[2] - pair[1]))
    pairs.append(("allocated", before.peak.allocated_bytes, after.peak.allocated_bytes))
    reserved = (int(device.timeline.reserved_bytes.max()) for device in (before, after))
    pairs.append(("reserved", *reserved))  # type: ignore[arg-type]
    return [(name, format_bytes(a), format_bytes(b), signed(a, b)) for name, a, b in pairs]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(first: str, *rest: str) -> str:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        return "  ".join([first.ljust(widths[0]), *cells]).rstrip()

    return [line(*row) for row in rows]


PLAN_RATIOS = {"weights": 0.018, "gradients": 0.0335, "optimizer": 0.0856}
PLAN_TOTAL_RATIO = 0.0282
"""95th percentiles of reports/plan_accuracy.md, by term and of the total."""


def render_plan_difference(plan: Plan, facts: Facts) -> str:
    """By category at the peak: what closed forms say of one rank, and what each device of a recording held."""
    lines = [f"PREDICTED: {plan.model.name} by closed forms, at the {plan.peak_moment.value}"]
    lines += _notices({"the recording": facts})
    for device in facts.devices:
        planned, held = plan.by_category, device.peak.by_category
        pairs = [(name, planned.get(name, 0), held.get(name, 0)) for name in {**held, **planned}]
        pairs = sorted((pair for pair in pairs if pair[1] or pair[2]), key=lambda pair: -abs(pair[2] - pair[1]))
        pairs.append(("allocated", plan.allocated_bytes, device.peak.allocated_bytes))
        rows = [
            (name, format_bytes(a), format_bytes(b), signed(a, b), _beyond(name, a, b, plan.allocated_bytes))
            for name, a, b in pairs
        ]
        lines += ["", f"GPU {device.index} {device.name}".rstrip()]
        lines += _aligned([("at the peak", "plan", "recording", "difference", ""), *rows])
    lines.append(
        "what the loss computes is temporaries to a plan, and to a recording activations where autograd saved it"
    )
    return "\n".join(lines) + "\n"


def _beyond(name: str, planned: int, held: int, total: int) -> str:
    """More than its own term is off by as a rule, and more than the total is."""
    allowed = max(PLAN_RATIOS.get(name, 0) * planned, PLAN_TOTAL_RATIO * total)
    return "beyond what plans are off by" if abs(held - planned) > allowed else ""


def render_ranks(facts: Mapping[str, Facts]) -> str:
    """Every device of every recording, one a line."""
    devices = [(label, device) for label, one in facts.items() for device in one.devices]
    odd = odd_ones([device.peak.allocated_bytes for _, device in devices])
    rows = [("recording", "GPU", "peak", "reserved", "of", "most of the peak", "")]
    for number, (label, device) in enumerate(devices):
        reserved = format_bytes(int(device.timeline.reserved_bytes.max()))
        mark = "odd one out" if number in odd else ""
        total = format_bytes(device.total_bytes) if device.total_bytes else "?"
        name, size = max(device.peak.by_category.items(), key=lambda item: item[1])
        most = f"{name} {format_bytes(size)}"
        rows.append((label, str(device.index), format_bytes(device.peak.allocated_bytes), reserved, total, most, mark))
    return "\n".join([*_notices(facts), *_aligned(rows)]) + "\n"


def odd_ones(peaks: Sequence[int]) -> set[int]:
    """Positions farther from the median than five times the median distance, and than 2 % of it."""
    if len(peaks) < 3:
        return set()
    middle = median(peaks)
    spread = median(abs(peak - middle) for peak in peaks)
    return {at for at, peak in enumerate(peaks) if abs(peak - middle) > max(5 * spread, 0.02 * middle)}
