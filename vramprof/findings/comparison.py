"""Judges what came against what was expected: the 5xx family, each surprise named and with its bytes.

A difference is a surprise where it is larger than what predictions of its kind were found to be off by, or where it
grows from step to step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from vramprof.analyses.comparison import END, Comparison, Pair, Side, compare
from vramprof.analyses.device_use import find_device_use
from vramprof.analyses.peak import bytes_by_stack
from vramprof.analyses.surprises import Reason, Surprise, find_surprises
from vramprof.findings.facts import DeviceFacts, Facts
from vramprof.findings.finding import Evidence, Finding, Fix
from vramprof.findings.rules import costliest_first, find_all
from vramprof.units import MIB, format_bytes


@dataclass(frozen=True)
class Tolerance:
    """How far a prediction may be off and not surprise: shares of what was expected, of each kind of figure."""

    allocated_ratio: float
    reserved_ratio: float
    process_ratio: float


DRY_RUN = Tolerance(allocated_ratio=0.0078, reserved_ratio=0.0162, process_ratio=0.0764)
"""95th percentiles of reports/prediction_accuracy.md: LitGPT's recipes possible on one card (allocated), PEFT's
adapters (reserved), xMem's language models (the process in NVML)."""

UNASKED_DNN_RATIO = 0.1599
"""The same report's 95th percentile of convolutional nets whose cuDNN could not be asked for its workspaces."""

SEGMENT_BYTES = 20 * MIB
"""What torch reserves at least for a request of 1 to 10 MiB (kLargeBuffer): reserved can't agree more closely."""

_MOST_LINES = 4
_SHARE = 0.1
"""A reason for less than this of the largest reason's bytes is a consequence of it, as a rule."""


@dataclass(frozen=True)
class _Words:
    code: str
    title: str
    action: str
    line: str | None = None


_WORDS = {
    Reason.ATTENTION: _Words(
        "VP501", "of unfused attention: scores of every pair of tokens are kept, where a fused kernel was predicted",
        "see why no fused kernel was taken: torch says so when the others are forbidden",
        "with torch.nn.attention.sdpa_kernel(SDPBackend.FLASH_ATTENTION): ...",
    ),
    Reason.PRECISION: _Words(
        "VP502", "more because elements are wider than predicted, as fp32 where 16 bits were expected",
        "look for a cast, or for a part that runs outside autocast",
    ),
    Reason.INPUTS: _Words(
        "VP503", "more because inputs are larger than those of the prediction",
        "predict with the longest sequence or largest batch, or cap it in the collator",
    ),
    Reason.KEPT: _Words(
        "VP504", "of tensors are kept longer than predicted, from step to step or through backward",
        "drop the variable that holds them before the next step", "del outputs",
    ),
    Reason.GRADIENTS: _Words(
        "VP505", "of gradients are alive where the prediction had freed them",
        "free them after the optimizer's step, instead of filling them with zeros",
        "optimizer.zero_grad(set_to_none=True)",
    ),
    Reason.GRAPH: _Words(
        "VP506", "of a graph that backward should have freed are still alive",
        "look for retain_graph=True, or for a loss that is kept with its history: keep loss.detach()",
    ),
    Reason.CHECKPOINTING: _Words(
        "VP507", "of activations that the prediction recomputed: checkpointing is not at work",
        "switch it on in training mode too", "model.gradient_checkpointing_enable()",
    ),
    Reason.STATES: _Words(
        "VP508", "more of optimizer states than predicted", "compare the optimizer, its options and its states' type",
    ),
    Reason.WORKSPACE: _Words(
        "VP509", "of workspaces that a library took beyond the prediction",
        "limit it: torch.backends.cudnn.benchmark_limit, CUBLAS_WORKSPACE_CONFIG, or another algorithm",
    ),
    Reason.COPY: _Words(
        "VP510", "of copies of tensors that the prediction does not have",
        "look for .contiguous(), .clone(), .to() or an implicit cast at this line",
    ),
    Reason.KERNEL: _Words(
        "VP511", "of temporaries or activations of another kernel than predicted",
        "look for a fallback: a fused, foreach or compiled implementation that was not taken",
    ),
    Reason.WEIGHTS: _Words("VP516", "more of weights than predicted", "compare the model and its element type"),
    Reason.UNEXPLAINED: _Words(
        "VP519", "more than predicted, for a reason that the recording does not tell", "look at these lines",
    ),
}  # fmt: skip
GROWTH, FRAGMENTATION, OTHERS, OUTSIDE, LESS = "VP512", "VP513", "VP514", "VP515", "VP520"
CODES = (*(words.code for words in _WORDS.values()), GROWTH, FRAGMENTATION, OTHERS, OUTSIDE, LESS)


@dataclass(frozen=True, eq=False)
class DeviceComparison:
    """One device on both sides, aligned, and what of it is surprising."""

    index: int
    name: str
    comparison: Comparison
    findings: tuple[Finding, ...]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was expected of a recording, and each device of it compared."""

    expected: Facts
    devices: tuple[DeviceComparison, ...]


def surprises_of(devices: Iterable[DeviceComparison]) -> list[Finding]:
    """The findings of all devices."""
    return [finding for device in devices for finding in device.findings]


def compare_facts(expected: Facts, actual: Facts, *, tolerance: Tolerance = DRY_RUN) -> tuple[DeviceComparison, ...]:
    """Every device that both have."""
    others = {device.index: device for device in actual.devices}
    leaks = [[one for one in find_all(facts) if one.code in _LEAKS] for facts in (expected, actual)]
    found = []
    for before in expected.devices:
        after = others.get(before.index)
        if after is None:
            continue
        comparison = compare(_side(expected, before), _side(actual, after))
        growth = list(_growth(leaks, before, after))
        findings = [
            *_surprises(comparison, after, tolerance, max((one.cost_bytes for one in growth), default=0)),
            *growth,
            *_fragmentation(comparison, after, tolerance),
            *_beside_torch(expected, actual, after, tolerance),
            *_less(comparison, after, tolerance),
        ]
        found.append(DeviceComparison(after.index, after.name, comparison, costliest_first(findings)))
    return tuple(found)


def _side(facts: Facts, device: DeviceFacts) -> Side:
    return Side(facts.recording, device.allocations, device.attribution, device.timeline)


def _surprises(
    comparison: Comparison, device: DeviceFacts, tolerance: Tolerance, grown_bytes: int
) -> Iterator[Finding]:
    """Of each reason its costliest moment; beside growth, what else is kept is the growth of the newest steps."""
    unasked = "cudnn" in " ".join(comparison.expected.recording.gaps["reason"]).lower()
    worst: dict[Reason, Surprise] = {}
    for surprise in find_surprises(comparison, device.leaks):
        ratio = tolerance.allocated_ratio
        if surprise.reason is Reason.WORKSPACE and unasked:
            ratio = UNASKED_DNN_RATIO
        if surprise.reason not in _WORDS or surprise.bytes <= ratio * surprise.pair.expected_bytes:
            continue
        if surprise.reason not in worst or surprise.bytes > worst[surprise.reason].bytes:
            worst[surprise.reason] = surprise
    most = max([grown_bytes, *(surprise.bytes for surprise in worst.values())])
    for surprise in worst.values():
        of_growth = surprise.reason in (Reason.KEPT, Reason.GRAPH) and surprise.bytes <= grown_bytes
        if surprise.bytes >= _SHARE * most and not of_growth:
            yield _finding(comparison, device, surprise)


def _finding(comparison: Comparison, device: DeviceFacts, surprise: Surprise) -> Finding:
    words, pair = _WORDS[surprise.reason], surprise.pair
    side = comparison.actual
    stacks = bytes_by_stack(
        side.recording, side.attribution.stack[surprise.chosen], side.allocations.size_bytes[surprise.chosen]
    )
    modules = np.unique(side.attribution.module[surprise.chosen].astype(str))
    where = f" in {modules[0]}" if len(modules) == 1 and not modules[0].startswith("(") else ""
    evidence = [Evidence("not predicted", stack.bytes, "bytes", stack.frames) for stack in stacks[:_MOST_LINES]]
    evidence += _moment(pair)
    title = f"{format_bytes(surprise.bytes)} {words.title}{where}"
    return Finding(
        words.code, title, "warning", surprise.bytes, "inferred", device.index, tuple(evidence),
        Fix(words.action, words.line), moment=pair.actual_row + 1,
    )  # fmt: skip


def moment_name(pair: Pair) -> str:
    """The moment in words."""
    if pair.phase == END:
        return f"end of step {pair.step}"
    return f"peak {'elsewhere' if pair.phase == 'outside' else f'of {pair.phase}'}, step {pair.step}"


def _moment(pair: Pair) -> tuple[Evidence, ...]:
    words = moment_name(pair)
    return (
        Evidence(f"predicted at the {words}", pair.expected_bytes, "bytes"),
        Evidence(f"measured at the {words}", pair.actual_bytes, "bytes"),
    )


_LEAKS = ("VP201", "VP202", "VP203", "VP204", "VP205", "VP206", "VP207", "VP208", "VP210")


def _growth(leaks: list[list[Finding]], before: DeviceFacts, after: DeviceFacts) -> Iterator[Finding]:
    """What the leak detector says of the actual side, unless it says the same of the prediction."""
    foretold = {one.code for one in leaks[0] if one.device == before.index}
    for leak in leaks[1]:
        if leak.device == after.index and leak.code not in foretold:
            title = f"the difference grows from step to step: {leak.code} {leak.title}"
            yield Finding(
                GROWTH, title, leak.severity, leak.cost_bytes, leak.basis, after.index, leak.evidence[:1], leak.fix,
                leak.holder, leak.moment,
            )  # fmt: skip


def _fragmentation(comparison: Comparison, device: DeviceFacts, tolerance: Tolerance) -> Iterator[Finding]:
    """More reserved than its share of what more was allocated explains."""
    (before, after), (allocated_before, allocated_after) = comparison.reserved_bytes, comparison.allocated_bytes
    idle = after - round(before * max(allocated_after / max(allocated_before, 1), 1))
    if idle <= max(tolerance.reserved_ratio * before, SEGMENT_BYTES):
        return
    evidence = (
        Evidence("most reserved, predicted", before, "bytes"),
        Evidence("most reserved, measured", after, "bytes"),
        Evidence("most allocated, predicted", allocated_before, "bytes"),
        Evidence("most allocated, measured", allocated_after, "bytes"),
    )
    fix = Fix(
        "let segments grow instead of splitting them, or keep the shapes the same: set this before the program starts",
        "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    )
    title = f"{format_bytes(idle)} more reserved than predicted, beyond what is allocated: fragmentation"
    worst = int(comparison.actual.timeline.reserved_bytes.argmax())
    yield Finding(FRAGMENTATION, title, "warning", idle, "measured", device.index, evidence, fix, moment=worst)


def _beside_torch(expected: Facts, actual: Facts, device: DeviceFacts, tolerance: Tolerance) -> Iterator[Finding]:
    """Other processes, and this one outside torch's allocator, as NVML has them."""
    before, after = (find_device_use(facts.recording, device.index) for facts in (expected, actual))
    if after.outside_bytes is None or before.outside_bytes is None:
        return
    others = (after.others_bytes or 0) - (before.others_bytes or 0)
    if others > before.outside_bytes / 2:  # whoever uses the card has a context, as large as ours without our kernels
        evidence = (
            Evidence("of other processes, predicted", before.others_bytes or 0, "bytes"),
            Evidence("of other processes, measured", after.others_bytes or 0, "bytes"),
        )
        title = f"{format_bytes(others)} of this GPU are held by other processes"
        fix = Fix("see who is there, and end what is left over or choose another GPU", "nvidia-smi")
        yield Finding(OTHERS, title, "warning", others, "measured", device.index, evidence, fix)
    outside = after.outside_bytes - before.outside_bytes
    if outside > tolerance.process_ratio * (before.process_bytes or 0):
        evidence = (
            Evidence("of this process outside torch, predicted", before.outside_bytes, "bytes"),
            Evidence("of this process outside torch, measured", after.outside_bytes, "bytes"),
        )
        title = f"{format_bytes(outside)} more than predicted are held outside torch's allocator"
        fix = Fix("look for what allocates without torch: extensions, communicators, CUDA graphs, other libraries")
        yield Finding(OUTSIDE, title, "warning", outside, "measured", device.index, evidence, fix)


def _less(comparison: Comparison, device: DeviceFacts, tolerance: Tolerance) -> Iterator[Finding]:
    """The peak stayed below the prediction."""
    before, after = comparison.allocated_bytes
    if before - after <= tolerance.allocated_ratio * before:
        return
    evidence = (Evidence("peak, predicted", before, "bytes"), Evidence("peak, measured", after, "bytes"))
    fix = Fix("see that the run did the work of the prediction: all its steps, the same batch and the same length")
    title = f"{format_bytes(before - after)} less than predicted at the peak"
    yield Finding(
        LESS, title, "info", before - after, "measured", device.index, evidence, fix, moment=device.peak.index
    )
