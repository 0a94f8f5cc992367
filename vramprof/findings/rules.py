"""Turns facts into findings, one small rule per code; a code is given out once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from vramprof.findings.facts import DeviceFacts, Facts
from vramprof.findings.finding import Evidence, Finding, Fix
from vramprof.units import format_bytes

Rule = Callable[[DeviceFacts], Iterator[Finding]]
_RULES: dict[str, Rule] = {}


def rule(code: str) -> Callable[[Rule], Rule]:
    """Register a rule under its code.

    Raises:
        ValueError: the code is taken.
    """

    def register(function: Rule) -> Rule:
        if code in _RULES:
            raise ValueError(f"two rules for {code}")
        _RULES[code] = function
        return function

    return register


def find_all(facts: Facts) -> tuple[Finding, ...]:
    """Every finding of every rule, the costliest first."""
    return costliest_first(
        replace(finding, moment=_moment(device, code) if finding.moment is None else finding.moment)
        for device in facts.devices
        for code, one in _RULES.items()
        for finding in one(device)
    )


def costliest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """In the order in which they are shown."""
    return tuple(sorted(findings, key=lambda finding: -finding.cost_bytes))


def _moment(device: DeviceFacts, code: str) -> int:
    """The peak for what makes it, the worst moment for what is about room, and else the end, where what leaked lies."""
    if code.startswith("VP1") or code in ("VP301", "VP307"):
        return device.peak.index
    if code.startswith(("VP3", "VP4")):
        return device.fragmentation.row + 1
    return len(device.timeline.time_ns) - 1


@rule("VP901")
def history_cut_off(device: DeviceFacts) -> Iterator[Finding]:
    """Frees without their allocation: the window began late, or the ring buffer overflowed."""
    allocations = device.allocations
    if not allocations.unmatched_count:
        return
    error = abs(allocations.error_bytes)
    evidence = (
        Evidence("frees whose allocation is not in the recording", allocations.unmatched_count, "events"),
        Evidence("live set replayed to the end, less the dumped blocks", allocations.error_bytes, "bytes"),
    )
    fix = Fix("start recording before the model is built, or raise max_entries")
    title = f"history is cut off: {allocations.unmatched_count} frees lack their allocation (± {format_bytes(error)})"
    yield Finding("VP901", title, "info", error, "measured", device.index, evidence, fix)


@rule("VP902")
def guessed_reads(device: DeviceFacts) -> Iterator[Finding]:
    """A dry run computes nothing: what the program read back from the device was a guess."""
    if not device.guesses:
        return
    total = sum(guess.count for guess in device.guesses)
    evidence = tuple(Evidence("read here", guess.count, "reads", guess.frames) for guess in device.guesses)
    fix = Fix("see that no shape, branch or loop depends on what these lines read; on a real GPU it may differ")
    title = f"{total} reads of values that no kernel computed may have steered the program"
    yield Finding("VP902", title, "info", 0, "predicted", device.index, evidence, fix)
