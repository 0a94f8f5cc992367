"""Judges what torch had reserved and could not use: the 3xx family, one code per cause."""

from __future__ import annotations

from collections.abc import Iterator

from vramprof.analyses.fragmentation import Fragmentation
from vramprof.findings.facts import DeviceFacts
from vramprof.findings.finding import Evidence, Finding, Fix
from vramprof.findings.rules import Rule, rule
from vramprof.units import GIB, MIB, format_bytes

_LEAST_BYTES = 128 * MIB
_LEAST_RATIO = 0.1
_MOST_PINS = 5
_EXPANDABLE = "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"


def is_much(size_bytes: int, moment: Fragmentation) -> bool:
    """Whether bytes that lay idle are worth a word beside what was reserved."""
    return size_bytes >= max(_LEAST_BYTES, _LEAST_RATIO * moment.reserved_bytes)


@rule("VP301")
def reserved_but_idle(device: DeviceFacts) -> Iterator[Finding]:
    """At the peak, torch held far more from the driver than it had handed out."""
    idle = device.peak.reserved_bytes - device.peak.allocated_bytes
    if idle < GIB or idle < device.peak.reserved_bytes // 5:
        return
    evidence = Evidence("reserved but not allocated at the peak", idle, "bytes")
    action = "let segments grow instead of splitting them: set this before the program starts"
    title = f"{format_bytes(idle)} reserved but unallocated at the peak"
    yield Finding("VP301", title, "warning", idle, "measured", device.index, (evidence,), Fix(action, code=_EXPANDABLE))


@rule("VP303")
def held_open(device: DeviceFacts) -> Iterator[Finding]:
    """Holes between live blocks were too small for what torch had to reserve more for."""
    moment = device.fragmentation
    if not is_much(moment.free.split, moment):
        return
    pins = tuple(Evidence("holes beside blocks of this line", p.hole_bytes, "bytes", p.frames) for p in moment.pins)
    if any(segment.is_expandable for segment in moment.segments):
        fix = Fix("segments are expandable already: allocate what lives long before what comes and goes")
    else:
        fix = Fix("let segments grow instead of splitting them, or allocate what lives long first", code=_EXPANDABLE)
    title = f"{format_bytes(moment.free.split)} lay in holes between live blocks when torch had to reserve more"
    evidence = (*_request(moment), *pins[:_MOST_PINS])
    yield Finding("VP303", title, "warning", moment.free.split, "measured", device.index, evidence, fix)


_CAUSES = {
    "VP304": (
        "other_streams", "cached for other streams, which the one that asked cannot use",
        Fix("allocate on one stream and only compute on others, or empty the cache once when a stream is done",
            code="torch.cuda.empty_cache()"),
    ),
    "VP305": (
        "private_pools", "free in private pools (CUDA graphs, MemPool), which the default pool cannot use",
        Fix("let graphs share one pool, and drop graphs and pools that are done",
            code="torch.cuda.graph(graph, pool=other_graph.pool())"),
    ),
    "VP306": (
        "pending", "freed by the program, and still waiting for another stream",
        Fix("let the stream that allocated wait for the other before the tensor goes, instead of record_stream()",
            code="torch.cuda.current_stream().wait_stream(side)"),
    ),
}  # fmt: skip


def _rule_for(code: str, part: str, words: str, fix: Fix) -> Rule:
    def judge(device: DeviceFacts) -> Iterator[Finding]:
        moment = device.fragmentation
        size = getattr(moment.free, part)
        if is_much(size, moment):
            title = f"{format_bytes(size)} {words}"
            evidence = tuple(_request(moment))
            yield Finding(code, title, "warning", size, "measured", device.index, evidence, fix)

    return judge


for _code, (_part, _words, _fix) in _CAUSES.items():
    rule(_code)(_rule_for(_code, _part, _words, _fix))


@rule("VP307")
def lost_to_rounding(device: DeviceFacts) -> Iterator[Finding]:
    """Blocks are far larger than what was asked for."""
    peak = device.peak
    lost = peak.allocated_bytes - peak.requested_bytes
    if lost < max(_LEAST_BYTES, _LEAST_RATIO * peak.allocated_bytes):
        return
    evidence = Evidence("allocated at the peak and not asked for", lost, "bytes")
    fix = Fix(
        "drop roundup_power2_divisions (or take more divisions) and max_split_size_mb; many tensors just over 1 MiB are"
        " better one tensor"
    )
    title = f"{format_bytes(lost)} of the peak are lost to rounding"
    yield Finding("VP307", title, "warning", lost, "measured", device.index, (evidence,), fix)


@rule("VP308")
def given_back_and_taken_again(device: DeviceFacts) -> Iterator[Finding]:
    """Segments go back to the driver and are taken again, over and over: each time the device stands still."""
    flushes = device.flushes
    if flushes.count < 4 or flushes.again_bytes < _LEAST_BYTES:
        return
    evidence = (
        Evidence("times the program emptied the cache", flushes.by_program, "times"),
        Evidence("times torch had to, because the device was full", flushes.by_torch, "times"),
        Evidence("taken again from the driver afterwards", flushes.again_bytes, "bytes"),
    )
    if flushes.by_program >= flushes.by_torch:
        fix = Fix("call torch.cuda.empty_cache() after a phase, not in every step: what is cached is not lost")
    else:
        fix = Fix("the device is full: leave some room, or let segments grow", code=_EXPANDABLE)
    title = f"the cache was emptied {flushes.count} times and {format_bytes(flushes.again_bytes)} were taken again"
    yield Finding("VP308", title, "warning", flushes.again_bytes, "measured", device.index, evidence, fix)


def _request(moment: Fragmentation) -> Iterator[Evidence]:
    if moment.frames:
        yield Evidence("asked for then", moment.request.size_bytes, "bytes", moment.frames)
    yield Evidence("reserved then", moment.reserved_bytes, "bytes")
    yield Evidence("the largest free block that it could have had", moment.largest_hole_bytes, "bytes")
