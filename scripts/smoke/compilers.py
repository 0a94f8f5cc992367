"""Kernels that are made on the spot: torch.compile in its modes, Triton by hand and in liger-kernel, flex attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from smoke.registry import program

TRITON = ("triton",)


def train_compiled(**options: Any) -> Iterator[None]:
    import torch

    from smoke import models

    model, ids = models.Transformer(depth=2).cuda(), models.tokens()
    compiled = torch.compile(model, **options)

    def loss() -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast("cuda", torch.bfloat16):
            return models.next_token_loss(compiled, ids)

    yield from models.train(loss, model)


@program(subject="torch.compile", needs=TRITON)
def compile_default() -> Iterator[None]:
    yield from train_compiled()


@program(subject="torch.compile", needs=TRITON)
def compile_reduce_overhead() -> Iterator[None]:
    """With CUDA graphs."""
    yield from train_compiled(mode="reduce-overhead")


@program(subject="torch.compile", needs=TRITON)
def compile_max_autotune() -> Iterator[None]:
    """Without a clock that means anything, which candidate wins is chance; that all are built and tried is not."""
    import torch

    from smoke import models

    model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.GELU()).to("cuda", torch.bfloat16)
    compiled = torch.compile(model, mode="max-autotune")
    x = torch.randn(256, 512, dtype=torch.bfloat16, device="cuda")
    with torch.inference_mode():
        for _ in range(models.STEPS):
            compiled(x)
            yield


@program(subject="torch.compile", needs=TRITON)
def compile_dynamic_shapes() -> Iterator[None]:
    import torch

    from smoke import models

    model, ids = models.Transformer(depth=2).cuda(), models.tokens()
    compiled = torch.compile(model, dynamic=True)
    for length in (512, 256, 384):
        models.next_token_loss(compiled, ids[:, :length]).backward()
        model.zero_grad()
        yield


@program(subject="torch.compile", needs=TRITON)
def flex_attention() -> Iterator[None]:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    from smoke import models

    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, 512, 512)
    attend = torch.compile(flex_attention)
    q, k, v = (torch.randn(2, 8, 512, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3))
    for _ in range(models.STEPS):
        attend(q, k, v, block_mask=mask).square().mean().backward()
        q.grad = k.grad = v.grad = None
        yield


@program(subject="Triton", needs=TRITON)
def triton_kernel() -> Iterator[None]:
    import torch

    from smoke import triton_kernels

    x, y = torch.randn(1 << 22, device="cuda"), torch.randn(1 << 22, device="cuda")
    for _ in range(3):
        triton_kernels.add(x, y)
        yield


@program(subject="Triton", needs=("liger_kernel", "transformers"))
def liger_llama() -> Iterator[None]:
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    from smoke import hugging_face

    apply_liger_kernel_to_llama()
    yield from hugging_face.train_text(hugging_face.causal("LlamaConfig", num_key_value_heads=2))


@program(subject="Triton", needs=("liger_kernel",))
def liger_fused_loss() -> Iterator[None]:
    """Head and cross entropy in one, so that the logits are never whole."""
    import torch
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    from smoke import models

    head = torch.nn.Linear(1024, 32768, bias=False, dtype=torch.bfloat16, device="cuda")
    hidden = torch.randn(2048, 1024, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    ids = models.tokens(1, 2048, vocabulary=32768)[0]
    fused = LigerFusedLinearCrossEntropyLoss()
    yield from models.train(lambda: fused(head.weight, hidden, ids), head)
