"""Losses on logits."""

from __future__ import annotations

import torch

from prediction_accuracy.programs.liger_kernels.bench import Bench, bench


@bench("cross_entropy")
def cross_entropy(provider: str, x: int, *, B: int, T: int) -> Bench:  # noqa: N803  (named as in the table)
    loss = torch.nn.CrossEntropyLoss()
    if provider == "liger":
        from liger_kernel.transformers.cross_entropy import LigerCrossEntropyLoss

        loss = LigerCrossEntropyLoss()
    logits = torch.randn(B * T, x, requires_grad=True, device="cuda")
    target = torch.randint(x, (B * T, 1), device="cuda").squeeze(1)
    return Bench(lambda: loss(logits, target))
