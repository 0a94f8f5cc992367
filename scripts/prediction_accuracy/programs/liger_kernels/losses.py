"""Losses on logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from prediction_accuracy.programs.liger_kernels.bench import (
    DEVICE,
    Bench,
    bench,
    checks_pass,
    of_loss_kept,
    of_random,
    of_sum,
    random_input,
)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Normalise = Callable[..., torch.Tensor]


@bench("cross_entropy")
def cross_entropy(provider: str, x: int, *, b: int, t: int) -> Bench:
    loss = nn.CrossEntropyLoss()
    if provider == "liger":
        from liger_kernel.transformers.cross_entropy import LigerCrossEntropyLoss

        loss = LigerCrossEntropyLoss()
    logits = random_input(b * t, x)
    target = torch.randint(x, (b * t, 1), device=DEVICE).squeeze(1)
    return Bench(lambda: loss(logits, target))


@bench("kl_div")
def kl_div(provider: str, x: int, *, b: int, t: int) -> Bench:
    loss = nn.KLDivLoss(reduction="batchmean")
    if provider == "liger":
        from liger_kernel.transformers.kl_div import LigerKLDIVLoss

        loss = LigerKLDIVLoss(reduction="batchmean")
    return _between(loss, F.log_softmax, F.softmax, b * t, x)


@bench("tvd")
def tvd(provider: str, x: int, *, b: int, t: int) -> Bench:
    loss = _tvd
    if provider == "liger":
        from liger_kernel.transformers.tvd import LigerTVDLoss

        loss = LigerTVDLoss(reduction="batchmean")
    return _between(loss, F.softmax, F.softmax, b * t, x)


def _tvd(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.sum(torch.abs(p - q) / 2.0) / p.size(0)


@bench("jsd")
def jsd(provider: str, x: int, **settings: int) -> Bench:
    """Over the vocabulary in 2024, over the tokens and with another reference loss in 2026."""
    old = "b" in settings
    tokens, vocabulary = (settings["b"] * settings["t"], x) if old else (x, settings["vocab_size"])
    loss = _jsd_of_2024 if old else jsd_loss
    if provider == "liger":
        from liger_kernel.transformers.jsd import LigerJSD

        loss = LigerJSD()
    backward = of_loss_kept if old else of_random
    return _between(loss, F.log_softmax, F.log_softmax, tokens, vocabulary, backward)


def _between(
    loss: Loss,
    of_student: Normalise,
    of_teacher: Normalise,
    tokens: int,
    vocabulary: int,
    backward: Callable[[torch.Tensor], None] = of_loss_kept,
) -> Bench:
    """A distance between two distributions for each token; the first wants a gradient."""
    student = of_student(random_input(tokens, vocabulary), dim=-1)
    teacher = of_teacher(torch.randn(tokens, vocabulary, device=DEVICE), dim=-1)
    return Bench(lambda: loss(student, teacher), backward)


def _jsd_of_2024(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    kl = nn.KLDivLoss(reduction="batchmean", log_target=True)
    mean = 0.5 * (torch.exp(log_p) + torch.exp(log_q))
    log_mean = torch.log(mean)
    return 0.5 * (kl(log_mean, log_p) + kl(log_mean, log_q))


def jsd_loss(log_q: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    kl = nn.KLDivLoss(reduction="none", log_target=True)
    mean = torch.lerp(torch.exp(log_q), torch.exp(log_p), 0.5)
    first = kl(torch.log(mean), log_p).sum(dim=-1)
    loss = 0.5 * first + 0.5 * kl(torch.log(mean), log_q).sum(dim=-1)
    return (loss / log_q.shape[0]).sum()


@bench("megatron_cross_entropy")
def megatron_cross_entropy(provider: str, x: int, *, s: int, b: int, tp: int) -> Bench:
    group = _world_of_one()
    logits = random_input(s, b, x // tp, dtype=torch.bfloat16)
    target = torch.randint(0, x, (s, b), device=DEVICE)

    def forward() -> torch.Tensor:
        logits.grad = None
        if provider == "liger":
            from liger_kernel.megatron import LigerMegatronCrossEntropy

            with checks_pass():
                return LigerMegatronCrossEntropy()(logits, target, tp_group=group)
        if provider == "megatron-fused":
            from megatron.core.fusions.fused_cross_entropy import fused_vocab_parallel_cross_entropy

            return fused_vocab_parallel_cross_entropy(logits, target, group)
        from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy

        return vocab_parallel_cross_entropy(logits, target, 0.0, group)

    return Bench(forward, of_sum)


def _world_of_one() -> torch.distributed.ProcessGroup:
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    return torch.distributed.group.WORLD
