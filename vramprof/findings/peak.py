"""Judges the peak: the 1xx family, what need not have been alive there, each with its bytes."""

from __future__ import annotations

from collections.abc import Iterator

from vramprof.analyses.idle import IdleBytes
from vramprof.findings.facts import DeviceFacts
from vramprof.findings.finding import Evidence, Finding, Fix
from vramprof.findings.rules import rule
from vramprof.units import format_bytes

_LEAST_RATIO = 0.02
_LOSS_RATIO = 0.15
_PRECISION_RATIO = 0.1
_MOSTLY_RATIO = 0.8
_MOST_LINES = 4


def _found(
    device: DeviceFacts, code: str, idle: IdleBytes, statement: str, title: str, fix: Fix, ratio: float = _LEAST_RATIO
) -> Iterator[Finding]:
    if idle.bytes <= ratio * device.peak.allocated_bytes:
        return
    evidence = tuple(Evidence(statement, stack.bytes, "bytes", stack.frames) for stack in idle.stacks[:_MOST_LINES])
    title = f"{format_bytes(idle.bytes)} {title}"
    yield Finding(code, title, "warning", idle.bytes, "inferred", device.index, evidence, fix)


@rule("VP101")
def loss_at_the_peak(device: DeviceFacts) -> Iterator[Finding]:
    """The loss itself, outside every module, holds a good part of the peak: as a rule, fp32 copies of the logits."""
    fix = Fix(
        "compute the loss in chunks of tokens, so that fp32 logits and their gradient exist for one chunk at a time",
        code="for part, labels in zip(hidden.chunk(8), targets.chunk(8)): loss = loss + criterion(head(part), labels)",
    )
    title = "of the peak belong to the loss, outside every module"
    return _found(device, "VP101", device.idle.loss, "held at the peak", title, fix, _LOSS_RATIO)


@rule("VP102")
def outputs_kept_through_backward(device: DeviceFacts) -> Iterator[Finding]:
    """Results of the forward that autograd did not save are alive in backward: a variable still holds them."""
    idle = device.idle.outputs
    fix = Fix(
        "drop the variable before backward: what backward needs, autograd has saved",
        code="del logits  # or outputs, before loss.backward()",
        saving_bytes=idle.bytes,
    )
    title = "of outputs were kept through backward, which does not need them"
    return _found(device, "VP102", idle, "alive inside backward, not saved for it", title, fix)


@rule("VP103")
def gradients_kept_through_forward(device: DeviceFacts) -> Iterator[Finding]:
    """Gradients of an earlier backward are alive at a peak that another forward has come before."""
    fix = Fix(
        "free the gradients before the next forward; where they accumulate on purpose, this is accumulation's price",
        code="optimizer.zero_grad(set_to_none=True)  # right after optimizer.step()",
    )
    title = "of older gradients were alive at the peak"
    return _found(device, "VP103", device.idle.gradients, "made before this step's forward", title, fix)


@rule("VP104")
def optimizer_copies(device: DeviceFacts) -> Iterator[Finding]:
    """The peak lies inside an optimizer's step, which holds temporaries of the size of the weights."""
    idle = device.idle.optimizer_copies
    fix = Fix(
        "a fused optimizer computes without these copies (foreach=False: with one parameter's at a time)",
        code="torch.optim.AdamW(model.parameters(), fused=True)",
        saving_bytes=idle.bytes,
    )
    title = "of temporary copies inside the optimizer's step make the peak"
    return _found(device, "VP104", idle, "alive inside the step", title, fix)


@rule("VP105")
def unfused_attention(device: DeviceFacts) -> Iterator[Finding]:
    """Attention's scores, one number for each pair of tokens, are kept for backward: a fused kernel keeps none."""
    scores = device.saved.scores
    fix = Fix(
        "use fused attention: a flash or memory-efficient kernel keeps one number a row",
        code="with sdpa_kernel(SDPBackend.FLASH_ATTENTION): ...  # flash needs bf16 or fp16",
        saving_bytes=max(scores.bytes - device.saved.flash_bytes, 0),
    )
    title = "of attention scores are kept for backward: attention is not fused"
    return _found(device, "VP105", scores, "scores of all pairs of tokens", title, fix)


@rule("VP106")
def activations_in_fp32(device: DeviceFacts) -> Iterator[Finding]:
    """Nearly all that autograd saved is fp32: the program computes without autocast and without bf16 weights."""
    fp32, known_bytes = device.saved.fp32, device.saved.known_bytes
    if fp32.bytes < _MOSTLY_RATIO * known_bytes:
        return iter(())
    fix = Fix(
        "compute in bf16 where the numerics allow it: most activations take half",
        code='with torch.autocast("cuda", dtype=torch.bfloat16): loss = criterion(model(x), y)',
        saving_bytes=fp32.bytes // 2,
    )
    title = "of activations are saved in fp32"
    return _found(device, "VP106", fp32, "saved in fp32", title, fix, _PRECISION_RATIO)
