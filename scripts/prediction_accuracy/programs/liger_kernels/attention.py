"""Attention over tokens nearby, and convolutions over scores."""

from __future__ import annotations

import math

import torch
from torch import nn

from prediction_accuracy.programs.liger_kernels.bench import DEVICE, Bench, bench, of, on_device


class ScoreConvolution(nn.Module):
    """Softmax or sparsemax over causal scores, then a convolution over them."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kernel: int, groups: int, sparse: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.kernel, self.groups, self.sparse = kernel, groups, sparse

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        length, dtype = scores.shape[-1], torch.float32 if self.sparse else scores.dtype
        mask = torch.tril(torch.ones(length, length, dtype=torch.bool, device=DEVICE)).view(1, 1, length, length)
        least = torch.tensor(-1e9, device=DEVICE, dtype=dtype)
        zero = torch.tensor(0.0, device=DEVICE, dtype=dtype)
        if not self.sparse:
            hidden = scores.masked_fill(~mask, least)
            shares = torch.softmax(hidden, dim=-1)
            return self._convolved(shares).masked_fill(~mask, zero)
        single = scores.to(dtype)
        hidden = single.masked_fill(~mask, least)
        shares = _sparsemax(hidden, length)
        out = self._convolved(shares)
        return out.masked_fill(~mask, zero).to(scores.dtype)

    def _convolved(self, shares: torch.Tensor) -> torch.Tensor:
        padding = self.kernel // 2
        return nn.functional.conv2d(shares, self.weight, self.bias, stride=1, padding=padding, groups=self.groups)


def _sparsemax(z: torch.Tensor, length: int) -> torch.Tensor:
    ordered, _ = torch.sort(z, dim=-1, descending=True)
    sums = torch.cumsum(ordered, dim=-1)
    counts = torch.arange(1, length + 1, device=DEVICE, dtype=z.dtype).view(1, 1, 1, length)
    positive = ordered > -1e8
    condition = (1 + counts * ordered > sums) & positive
    chosen = torch.sum(condition, dim=-1, keepdim=True)
    at_least_one = torch.max(chosen, torch.ones_like(chosen))
    sum_of_chosen = torch.gather(sums, dim=-1, index=at_least_one.long() - 1)
    tau = (sum_of_chosen - 1) / at_least_one.to(z.dtype)
    tau = torch.where(chosen == 0, torch.full_like(tau, float("inf")), tau)
    return torch.clamp(z - tau, min=0)


@bench("multi_token_attention", "sparse_multi_token_attention")
def multi_token_attention(
    provider: str, x: int, *, b: int, c_in: int, c_out: int, k: int, groups: int, bias: bool, dtype: torch.dtype
) -> Bench:
    """In the table the sparse kernel is the one in single precision."""
    from liger_kernel.transformers.multi_token_attention import LigerMultiTokenAttention

    sparse = dtype == torch.float32
    more = {"sparse": True} if sparse else {}
    liger = LigerMultiTokenAttention(c_in, c_out, k, 1, k // 2, 1, groups, bias, **more)
    on_device(liger, dtype)
    weight = torch.empty(c_out, c_in // groups, k, k, dtype=dtype, device=DEVICE)
    own = ScoreConvolution(weight, torch.empty(c_out, dtype=dtype, device=DEVICE) if bias else None, k, groups, sparse)
    layers = {"liger": liger, "torch": own}
    scores = torch.randn(b, c_in, x, x, dtype=dtype, device=DEVICE)
    gradient = torch.randn_like(scores)
    scores.requires_grad_(True)
    return Bench(lambda: layers[provider](scores), of(gradient))


class NeighborhoodAttention(nn.Module):
    """Self attention whose mask is laid out row by row."""

    def __init__(self, size: int, heads: int, kernel: int, dilation: int, bias: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(size, size, bias=bias) for _ in range(4))
        self.heads, self.size = heads, size // heads
        self.reach, self.dilation = kernel // 2 * dilation, dilation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        query, key, value = (
            one.view(batch, length, self.heads, self.size).transpose(1, 2) for one in (query, key, value)
        )
        scores = torch.matmul(query, key.transpose(-2, -1)) * (1.0 / math.sqrt(self.size))
        mask = torch.zeros(length, length, device=x.device, dtype=torch.bool)
        for row in range(length):
            mask[row, row % self.dilation : row + self.reach + 1 : self.dilation] = True
        scores = scores.masked_fill(~mask, float("-inf"))
        shares = torch.softmax(scores, dim=-1)
        out = torch.matmul(shares, value)
        out = out.transpose(1, 2).contiguous().view(batch, length, width)
        return self.out_proj(out)


@bench("fused_neighborhood_attention")
def fused_neighborhood_attention(
    provider: str,
    x: int,
    *,
    batch_size: int,
    hidden_size: int,
    num_heads: int,
    kernel_size: int,
    dilation: int,
    bias: bool,
    dtype: torch.dtype,
) -> Bench:
    from liger_kernel.transformers.fused_neighborhood_attention import LigerFusedNeighborhoodAttention

    liger = LigerFusedNeighborhoodAttention(
        hidden_size=hidden_size,
        num_heads=num_heads,
        kernel_size=kernel_size,
        dilation=dilation,
        bias=bias,
        dropout=0.0,
    )
    own = NeighborhoodAttention(hidden_size, num_heads, kernel_size, dilation, bias)
    layers = {"liger": on_device(liger, dtype), "torch": on_device(own, dtype)}
    states = torch.randn(batch_size, x, hidden_size, dtype=dtype, device=DEVICE)
    gradient = torch.randn_like(states)
    states.requires_grad_(True)
    return Bench(lambda: layers[provider](states), of(gradient))
