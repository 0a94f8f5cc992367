"""Judges what grows from step to step: the 2xx family, one finding per cause, with a line to paste."""

from __future__ import annotations

from collections.abc import Iterator

from vramprof.analyses.leak_causes import LeakCause
from vramprof.analyses.leaks import ACCUMULATES, LARGER, ONCE, Growth
from vramprof.analyses.trend import Trend
from vramprof.findings.facts import DeviceFacts
from vramprof.findings.finding import Evidence, Finding, Fix
from vramprof.findings.fixes import fix_for
from vramprof.findings.rules import rule
from vramprof.recording import Frame
from vramprof.units import format_bytes

_MOST_LINES = 6
_SOON_STEPS = 10_000
_FAR_STEPS = 1_000_000
_LEAST_BENIGN_BYTES = 1024**2

CODES = {
    "graph": "VP202", "cycle": "VP203", "exception": "VP204", "hook": "VP205", "cache": "VP206", "C++": "VP210",
}  # fmt: skip
"""By the kind of holder; VP201 is any other place that keeps tensors, VP207 a tensor that grows in place."""
_WORDS = {
    "VP201": "tensors are kept step after step",
    "VP202": "the autograd graph of past steps is kept",
    "VP203": "a reference cycle keeps tensors until gc runs",
    "VP204": "an exception keeps the variables of the frames that it passed",
    "VP205": "hooks keep tensors step after step",
    "VP206": "a cache without a limit keeps tensors",
    "VP207": "a tensor is replaced by a larger one in every step",
    "VP210": "C++ keeps tensors that no Python object refers to",
}


def is_bounded(device: DeviceFacts, cause: LeakCause) -> bool:
    """Whether what keeps it has a limit, and the card has room for all that it may keep."""
    if cause.bounded_at_bytes is None:
        return False
    headroom = device.elsewhere.headroom_bytes
    return headroom is None or cause.bounded_at_bytes - cause.alive_bytes <= headroom


def code_of(cause: LeakCause) -> str:
    """The finding's code."""
    if cause.keeper is not None and cause.keeper.kind in CODES:
        return CODES[cause.keeper.kind]
    return "VP207" if all(growth.reason == LARGER for growth in cause.growths) else "VP201"


def _leaks(device: DeviceFacts, code: str) -> Iterator[Finding]:
    for cause in device.leak_causes:
        if code_of(cause) == code and not is_bounded(device, cause):
            yield _finding(device, cause, code)


def _finding(device: DeviceFacts, cause: LeakCause, code: str) -> Finding:
    low, high = cause.interval
    steps_left = _steps_left(device, cause.bytes_per_step)
    evidence = [
        Evidence("grows", round(cause.bytes_per_step), "bytes per step", _frames(cause)),
        Evidence("95 % interval, low", round(low), "bytes per step"),
        Evidence("95 % interval, high", round(high), "bytes per step"),
        Evidence("Mann-Kendall, chance of this without growth", max(g.trend.p_value for g in cause.growths), "p"),
        *_lines(cause),
    ]
    if steps_left is not None:
        evidence.append(Evidence("until memory runs out at this rate", steps_left, "steps"))
    return Finding(
        code=code,
        title=f"leak of {format_bytes(round(cause.bytes_per_step))} per step: {_WORDS[code]}{_until(steps_left)}",
        severity="error" if steps_left is not None and steps_left < _SOON_STEPS else "warning",
        cost_bytes=cause.alive_bytes,
        basis="measured",
        device=device.index,
        evidence=tuple(evidence),
        fix=fix_for(cause, code),
        holder=None if cause.keeper is None else cause.keeper.path,
    )


def _frames(cause: LeakCause) -> tuple[Frame, ...]:
    line = cause.line
    stack = cause.growths[0].frames
    return stack if line is None or stack[:1] == (line,) else (line, *stack)


def _lines(cause: LeakCause) -> Iterator[Evidence]:
    for growth in cause.growths[:_MOST_LINES]:
        words = f"{growth.category} of {growth.module}" if growth.module != "(none)" else growth.category
        yield Evidence(f"allocated here ({words})", growth.alive_bytes, "bytes", growth.frames)
    keeper = cause.keeper
    if keeper is not None and keeper.line:
        yield Evidence("kept here", cause.alive_bytes, "bytes", (Frame(keeper.filename, keeper.line, keeper.code),))


def _steps_left(device: DeviceFacts, bytes_per_step: float) -> int | None:
    headroom = device.elsewhere.headroom_bytes
    return None if headroom is None or bytes_per_step <= 0 else int(headroom / bytes_per_step)


def _until(steps_left: int | None) -> str:
    return "" if steps_left is None or steps_left > _FAR_STEPS else f"; out of memory in {steps_left:,} steps"


@rule("VP201")
def kept_in_a_container(device: DeviceFacts) -> Iterator[Finding]:
    """A list, dictionary, attribute, global, closure, queue or generator keeps tensors of every step."""
    yield from _leaks(device, "VP201")


@rule("VP202")
def kept_by_the_graph(device: DeviceFacts) -> Iterator[Finding]:
    """A tensor with its whole history: `total += loss` without detach, evaluation without no_grad."""
    yield from _leaks(device, "VP202")


@rule("VP203")
def kept_by_a_cycle(device: DeviceFacts) -> Iterator[Finding]:
    """Objects that refer to each other stay until the garbage collector runs, and GPU memory does not make it run."""
    yield from _leaks(device, "VP203")


@rule("VP204")
def kept_by_an_exception(device: DeviceFacts) -> Iterator[Finding]:
    """A kept exception has a traceback, which has frames, which have variables."""
    yield from _leaks(device, "VP204")


@rule("VP205")
def kept_by_hooks(device: DeviceFacts) -> Iterator[Finding]:
    """Hooks registered in every step and never removed."""
    yield from _leaks(device, "VP205")


@rule("VP206")
def kept_by_a_cache(device: DeviceFacts) -> Iterator[Finding]:
    """`functools.cache`, or an `lru_cache` with no limit or one that the card has no room for."""
    yield from _leaks(device, "VP206")


@rule("VP207")
def replaced_by_larger(device: DeviceFacts) -> Iterator[Finding]:
    """`buffer = torch.cat([buffer, new])` in every step."""
    yield from _leaks(device, "VP207")


@rule("VP210")
def kept_by_cpp(device: DeviceFacts) -> Iterator[Finding]:
    """No Python object refers to it: a cycle within C++, or a library."""
    yield from _leaks(device, "VP210")


@rule("VP208")
def outside_torch(device: DeviceFacts) -> Iterator[Finding]:
    """The process grows in NVML, torch's reserved memory does not."""
    trend = device.elsewhere.outside
    if trend is None:
        return
    action = (
        "look for what allocates without torch in the loop: CUDA extensions, new process groups (NCCL communicators), "
        "CUDA graphs captured again, other libraries"
    )
    yield _elsewhere(
        device, "VP208", f"leak outside torch of {format_bytes(round(trend.slope))} per step", trend, action
    )


@rule("VP302")
def fragmentation_grows(device: DeviceFacts) -> Iterator[Finding]:
    """Reserved memory grows while what the steps need does not."""
    trend = device.elsewhere.fragmentation
    if trend is None:
        return
    title = f"fragmentation, no leak: reserved memory grows by {format_bytes(round(trend.slope))} per step"
    yield _elsewhere(
        device, "VP302", title, trend, "let segments grow instead of splitting them, or make shapes fewer",
        "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    )  # fmt: skip


def _elsewhere(
    device: DeviceFacts, code: str, title: str, trend: Trend, action: str, line: str | None = None
) -> Finding:
    steps_left = _steps_left(device, trend.slope)
    evidence = (
        Evidence("grows", round(trend.slope), "bytes per step"),
        Evidence("95 % interval, low", round(trend.low), "bytes per step"),
        Evidence("95 % interval, high", round(trend.high), "bytes per step"),
        Evidence("Mann-Kendall, chance of this without growth", trend.p_value, "p"),
    )
    cost = round(trend.slope * max(device.leaks.step_count, len(device.steps)))
    holder = "outside torch" if code == "VP208" else None
    title += _until(steps_left)
    return Finding(code, title, "warning", cost, "measured", device.index, evidence, Fix(action, line), holder)


@rule("VP209")
def grows_but_does_not_leak(device: DeviceFacts) -> Iterator[Finding]:
    """What looks like a leak and is none: caches of a sequence, caches that are full, memory that comes back."""
    bounded = [growth for cause in device.leak_causes if is_bounded(device, cause) for growth in cause.growths]
    others = [growth for growth in device.leaks.growths if not growth.leaks and growth.reason != ONCE]
    shown = [growth for growth in (*bounded, *others) if _benign_bytes(growth) >= _LEAST_BENIGN_BYTES]
    if not shown:
        return
    evidence = tuple(
        Evidence(_benign_words(growth), _benign_bytes(growth), "bytes", growth.frames) for growth in shown[:_MOST_LINES]
    )
    title = f"{len(shown)} {'line' if len(shown) == 1 else 'lines'} grew and did not leak"
    cost = sum(_benign_bytes(growth) for growth in shown)
    yield Finding("VP209", title, "info", cost, "measured", device.index, evidence, Fix("nothing to do"))


def _benign_words(growth: Growth) -> str:
    return "its holder takes no more than its limit" if growth.reason == ACCUMULATES else growth.reason


def _benign_bytes(growth: Growth) -> int:
    return growth.alive_bytes
