"""A language model's last linear layer with a loss on it: fused by Liger, or logits in full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from prediction_accuracy.programs.liger_kernels.bench import DEVICE, Bench, bench, on_device, random_input

IGNORED = -100

Logps = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _head(inputs: int, outputs: int, dtype: torch.dtype, *, bias: bool = False) -> nn.Linear:
    return on_device(nn.Linear(inputs, outputs, bias=bias, dtype=dtype))


@bench("fused_linear_cross_entropy")
def fused_linear_cross_entropy(provider: str, x: int, *, h: int, v: int, mode: str, dtype: torch.dtype) -> Bench:
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    plain, fused = _head(h, v, dtype), _head(h, v, dtype)
    states = random_input(x, h, dtype=dtype)
    target = torch.randint(v, (x, 1), dtype=torch.long, device=DEVICE).squeeze(1)
    liger = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="mean")

    def forward() -> torch.Tensor:
        if provider == "liger":
            return liger(fused.weight, states, target)
        logits = plain(states)
        return F.cross_entropy(logits, target, ignore_index=IGNORED)

    return Bench(forward)


@bench("fused_linear_jsd")
def fused_linear_jsd(provider: str, x: int, *, h: int, v: int, mode: str, dtype: torch.dtype) -> Bench:
    """All heads share two random weights; the linear layers' own ones are given up."""
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    student, teacher = (torch.rand(v, h, device=DEVICE, dtype=dtype) for _ in range(2))
    student.requires_grad_(True)
    teacher.requires_grad_(True)
    student_states = torch.rand(x, h, requires_grad=True, dtype=dtype, device=DEVICE)
    teacher_states = torch.rand(x, h, dtype=dtype, device=DEVICE)
    liger = LigerFusedLinearJSD(0.5, 1.0)

    def forward() -> torch.Tensor:
        if provider == "liger":
            return liger(student_states, student, teacher_states, teacher)
        student_logits = F.linear(student_states, student)
        teacher_logits = F.linear(teacher_states, teacher)
        log_q = torch.log_softmax(student_logits / 1.0, dim=-1)
        log_p = torch.log_softmax(teacher_logits / 1.0, dim=-1)
        return _jsd_in_floats(log_q, log_p, dtype)

    return Bench(forward)


def _jsd_in_floats(log_q: torch.Tensor, log_p: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    kl = nn.KLDivLoss(reduction="batchmean", log_target=True)
    log_p, log_q = log_p.to(torch.float), log_q.to(torch.float)
    mean = torch.lerp(torch.exp(log_p), torch.exp(log_q), 0.5)
    loss = 0.5 * kl(torch.log(mean), log_p) + 0.5 * kl(torch.log(mean), log_q)
    return loss.to(dtype)


@bench("fused_linear_orpo_loss", "fused_linear_cpo_loss", "fused_linear_simpo_loss")
def preference(provider: str, x: int, *, kernel: str, t: int, h: int, v: int, mode: str, dtype: torch.dtype) -> Bench:
    """The first half of a batch is preferred to the second."""
    plain, fused = _head(h, v, dtype), _head(h, v, dtype)
    states = random_input(x, t, h, dtype=dtype)
    target = torch.randint(v, (x, t), dtype=torch.long, device=DEVICE)
    liger = _liger_preference(kernel)
    judge = {"orpo": _odds_ratio, "cpo": _contrast, "simpo": _contrast_by_margin}[kernel.split("_")[2]]

    def forward() -> torch.Tensor:
        if provider == "liger":
            loss = liger(states, fused.weight, target)
            return loss[0] if isinstance(loss, tuple) else loss
        return _preference_loss(states, plain.weight, target, judge)

    return Bench(forward)


def _liger_preference(kernel: str) -> Callable[..., Any]:
    if kernel == "fused_linear_orpo_loss":
        from liger_kernel.chunked_loss.orpo_loss import LigerFusedLinearORPOFunction

        return LigerFusedLinearORPOFunction.apply
    if kernel == "fused_linear_cpo_loss":
        from liger_kernel.chunked_loss.cpo_loss import LigerFusedLinearCPOFunction

        return LigerFusedLinearCPOFunction.apply
    from liger_kernel.chunked_loss.simpo_loss import LigerFusedLinearSimPOFunction

    return LigerFusedLinearSimPOFunction.apply


def _preference_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    judge: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """As TRL's trainers do it: all logits in single precision, cross entropy of the preferred half, then the judge."""
    half = states.shape[0] // 2
    outputs = states @ weight.t()
    logits = outputs.float()
    preferred = logits[:half]
    nll = F.cross_entropy(preferred.view(-1, logits.shape[-1]), target[:half].view(-1), ignore_index=IGNORED)
    logps = _mean_logps(logits, target)
    losses = judge(logps[:half], logps[half:])
    return nll * 1.0 - losses.mean()


def _mean_logps(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean log probability of the labels that count, for each sequence."""
    mask = labels != IGNORED
    labels = torch.where(labels == IGNORED, 0, labels)
    by_token = torch.gather(logits.log_softmax(-1), dim=2, index=labels.unsqueeze(2)).squeeze(2)
    return (by_token * mask).sum(-1) / mask.sum(-1)


def _odds_ratio(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    odds = (chosen - rejected) - (torch.log1p(-torch.exp(chosen)) - torch.log1p(-torch.exp(rejected)))
    return 0.1 * F.logsigmoid(odds)


def _contrast(chosen: torch.Tensor, rejected: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
    logits = chosen - rejected - margin
    return F.logsigmoid(0.1 * logits) * 1.0 + F.logsigmoid(-0.1 * logits) * 0.0


def _contrast_by_margin(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    return _contrast(chosen, rejected, 5.0)


@bench("kto_loss")
def kto_loss(
    provider: str,
    x: int,
    *,
    t: int,
    h: int,
    v: int,
    mode: str,
    dtype: torch.dtype,
    bias: bool,
    beta: float,
    ignore_index: int,
    timed: bool = False,
) -> Bench:
    """Against a reference model's head, which has no bias when it is timed, and so is compiled twice.

    The preferences are drawn on the host, for no kernel would write them.
    """
    from liger_kernel.chunked_loss import LigerFusedLinearKTOLoss

    plain, plain_reference, fused, fused_reference = (
        _head(h, v, dtype, bias=wanted) for wanted in (bias, bias and not timed) * 2
    )
    states, reference_states = (torch.randn(x, t, h, device=DEVICE, dtype=dtype) for _ in "ab")
    target = torch.randint(v, (x, t), dtype=torch.long, device=DEVICE)
    preferred = torch.randint(2, (x,), dtype=torch.bool, generator=torch.Generator().manual_seed(42))
    labels = preferred.to(DEVICE)
    kl = torch.randn(1, device=DEVICE, dtype=dtype)
    liger = LigerFusedLinearKTOLoss(ignore_index=ignore_index, beta=beta, use_ref_model=True)
    chosen, rejected = (torch.nonzero(one)[:, 0].to(DEVICE) for one in (preferred, ~preferred))

    def logits_of(inputs: torch.Tensor, head: nn.Linear) -> torch.Tensor:
        outputs = inputs @ head.weight.t()
        return outputs if head.bias is None else outputs + head.bias

    def halves(inputs: torch.Tensor, head: nn.Linear) -> tuple[torch.Tensor, ...]:
        """Log probabilities and logits of the preferred sequences and of the others; the latter only for a sum."""
        outputs = logits_of(inputs, head)
        logits = outputs.float()
        logps = _mean_logps(logits, target)
        return logps[chosen], logps[rejected], logits[chosen], logits[rejected]

    def forward() -> torch.Tensor:
        if provider == "liger":
            heads = {"ref_input": reference_states, "ref_weight": fused_reference.weight}
            biases = {"bias": fused.bias, "ref_bias": fused_reference.bias}
            return liger(
                _input=states,
                lin_weight=fused.weight,
                target=target,
                preference_labels=labels,
                kl=kl,
                **heads,
                **biases,
            )[0]
        policy_chosen, policy_rejected, *logits = halves(states, plain)
        with torch.no_grad():
            reference = _mean_logps(logits_of(reference_states, plain_reference), target)
        won = 1 - F.sigmoid(beta * (policy_chosen - reference[chosen] - kl))
        lost = 1 - F.sigmoid(beta * (kl - (policy_rejected - reference[rejected])))
        loss = torch.cat((won, lost), 0).mean()
        _ = [half.detach().sum() for half in logits]
        return loss

    return Bench(forward)


@bench("distill_jsd_loss", "distill_cosine_loss")
def distillation(
    provider: str,
    x: int,
    *,
    kernel: str,
    h: int,
    v: int,
    mode: str,
    dtype: torch.dtype,
    bias: bool,
    weight_hard_loss: float,
    weight_soft_loss: float,
    ignore_index: int,
) -> Bench:
    """A student of half the width; cross entropy and a distance to the teacher's logits."""
    plain, plain_teacher, fused, fused_teacher = (_head(size, v, dtype) for size in (h // 2, h) * 2)
    drawn = torch.rand(x, h // 2, device=DEVICE, dtype=dtype)
    for_liger, for_torch = (drawn.detach().clone().requires_grad_(True) for _ in "ab")
    teacher_states = torch.rand(x, h, device=DEVICE, dtype=dtype)
    target = torch.randint(0, v, (x,), device=DEVICE, dtype=torch.long)
    distance = _jsd_of_logits if kernel == "distill_jsd_loss" else _cosine
    liger = _liger_distillation(kernel, weight_hard_loss, weight_soft_loss)

    def forward() -> torch.Tensor:
        _ = drawn
        if provider == "liger":
            loss = liger(for_liger, fused.weight, teacher_states, fused_teacher.weight, target)
            return loss[0] if isinstance(loss, tuple) else loss
        student_outputs = for_torch @ plain.weight.t()
        with torch.no_grad():
            teacher_outputs = teacher_states @ plain_teacher.weight.t()
        student, teacher = student_outputs.float(), teacher_outputs.float()
        hard = F.cross_entropy(student, target, ignore_index=ignore_index)
        del student_outputs, teacher_outputs
        student /= 1.0
        teacher /= 1.0
        return weight_hard_loss * hard + weight_soft_loss * distance(student, teacher)

    return Bench(forward)


def _liger_distillation(kernel: str, hard: float, soft: float) -> Callable[..., Any]:
    if kernel == "distill_jsd_loss":
        from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction

        return lambda *tensors: LigerFusedLinearJSDFunction.apply(*tensors, hard, soft)
    from liger_kernel.chunked_loss.cosine_similarity_loss import LigerFusedLinearCosineSimilarityFunction

    return lambda *tensors: LigerFusedLinearCosineSimilarityFunction.apply(*tensors, None, None, hard, soft)


def _jsd_of_logits(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    log_q = F.log_softmax(student, dim=-1)
    log_p = F.log_softmax(teacher, dim=-1)
    mean = 0.5 * log_q.exp() + (1 - 0.5) * log_p.exp()
    log_mean = mean.log()
    of_student = F.kl_div(log_mean, log_q, reduction="batchmean", log_target=True)
    of_teacher = F.kl_div(log_mean, log_p, reduction="batchmean", log_target=True)
    return 0.5 * of_teacher + (1 - 0.5) * of_student


def _cosine(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    student_unit = F.normalize(student, p=2, dim=-1)
    teacher_unit = F.normalize(teacher, p=2, dim=-1)
    similarity = F.cosine_similarity(student_unit, teacher_unit, dim=-1)
    return (1.0 * (1 - similarity)).mean()


@bench("fused_linear_grpo_loss_token", "fused_linear_grpo_loss_sequence")
def grpo(provider: str, x: int, *, t: int, h: int, v: int, importance_sampling_level: str, dtype: torch.dtype) -> Bench:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    plain, plain_reference, fused, fused_reference = (_head(h, v, dtype) for _ in range(4))
    states = random_input(x, t, h, dtype=dtype)
    tokens = torch.randint(0, v, (x, t), dtype=torch.long, device=DEVICE)
    mask = torch.ones(x, t, device=DEVICE)
    advantages = torch.randn(x, dtype=dtype, device=DEVICE)
    reference_states = torch.randn(x, t, h, dtype=dtype, device=DEVICE)
    liger = LigerFusedLinearGRPOLoss(
        beta=0.1, use_ref_model=True, compiled=True, importance_sampling_level=importance_sampling_level
    )

    def forward() -> torch.Tensor:
        if provider == "liger":
            heads = (None, None, None, reference_states, fused_reference.weight, None)
            return liger(states, fused.weight, tokens, mask, advantages, *heads)[0]
        return _grpo(
            states, plain, reference_states, plain_reference, tokens, mask, advantages, importance_sampling_level
        )

    return Bench(forward)


def _grpo(
    states: torch.Tensor,
    head: nn.Linear,
    reference_states: torch.Tensor,
    reference_head: nn.Linear,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    advantages: torch.Tensor,
    level: str,
) -> torch.Tensor:
    """The clipped loss with a penalty for leaving the reference, averaged over the tokens that count."""
    logits = states @ head.weight.t()
    log_probs = F.log_softmax(logits.float(), dim=-1)
    logps = log_probs.gather(dim=-1, index=tokens.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        reference_logits = reference_states @ reference_head.weight.t()
        reference_log_probs = F.log_softmax(reference_logits.float(), dim=-1)
        reference = reference_log_probs.gather(dim=-1, index=tokens.unsqueeze(-1)).squeeze(-1)
    ratio = logps - logps.detach()
    if level == "sequence":
        ratio = ((ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).unsqueeze(-1)
    first = torch.exp(ratio)
    second = torch.clamp(first, 0.8, 1.2)
    gain = advantages.unsqueeze(1)
    loss = -torch.min(first * gain, second * gain)
    reference = reference.float()
    penalty = torch.exp(reference - logps) - (reference - logps) - 1.0
    loss = loss + 0.1 * penalty
    return (loss * mask).sum() / torch.clamp(mask.sum(), min=1.0)
