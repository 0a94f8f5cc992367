"""Turns facts into findings, one small rule per code; a code is given out once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vramprof.findings.facts import DeviceFacts, Facts
from vramprof.findings.finding import Evidence, Finding, Fix
from vramprof.units import GIB, format_bytes

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
    found = [finding for device in facts.devices for one in _RULES.values() for finding in one(device)]
    return tuple(sorted(found, key=lambda finding: -finding.cost_bytes))


@rule("VP301")
def reserved_but_idle(device: DeviceFacts) -> Iterator[Finding]:
    """At the peak, torch held far more from the driver than it had handed out."""
    idle = device.peak.reserved_bytes - device.peak.allocated_bytes
    if idle < GIB or idle < device.peak.reserved_bytes // 5:
        return
    evidence = Evidence("reserved but not allocated at the peak", idle, "bytes")
    action = "let segments grow instead of splitting them: set this before the program starts"
    fix = Fix(action, code="export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True")
    title = f"{format_bytes(idle)} reserved but unallocated at the peak"
    yield Finding("VP301", title, "warning", idle, "measured", device.index, (evidence,), fix)


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
