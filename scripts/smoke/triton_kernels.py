"""A kernel written in Triton; its source has to be in a file that can import triton at its top."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _add(left, right, total, count, block: tl.constexpr):
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < count
    tl.store(total + at, tl.load(left + at, mask=inside) + tl.load(right + at, mask=inside), mask=inside)


def add(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    total = torch.empty_like(left)
    _add[(triton.cdiv(left.numel(), 1024),)](left, right, total, left.numel(), block=1024)
    return total
