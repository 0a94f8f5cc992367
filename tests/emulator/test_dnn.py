"""cuDNN, asked for engines and workspaces for a card that is described to it."""

from __future__ import annotations

import pytest

from programs import told_by

ATTENTION = """
import json, torch
from torch.nn.functional import scaled_dot_product_attention
def peak(length):
    q, k, v = (torch.zeros(2, 8, length, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = scaled_dot_product_attention(q, k, v)
    name = type(out.grad_fn).__name__
    out.sum().backward()
    return name, torch.cuda.max_memory_allocated() - before
"""


def test_a_plan_left_unbuilt_needs_what_a_built_one_does() -> None:
    """Attention compiles its kernels: the first plan of an engine is built, the others are not."""
    lengths = (200, 328, 456)
    in_a_row = told_by(f"{ATTENTION}\nprint(json.dumps([peak(n) for n in {lengths}]))", gpu="h100-80gb")
    for length, row in zip(lengths, in_a_row, strict=True):
        assert row[0] == "ScaledDotProductCudnnAttentionBackward0"
        alone = told_by(f"{ATTENTION}\nprint(json.dumps(peak({length})))", gpu="h100-80gb")
        assert alone == row


CONVOLUTION = """
import json, torch
from torch.backends import cudnn
convolution = torch.nn.Conv2d(64, 128, 3, padding=1).cuda()
x = torch.zeros(32, 64, 56, 56, device="cuda", requires_grad=True)
torch.cuda.reset_peak_memory_stats()
convolution(x).sum().backward()
print(json.dumps([cudnn.version(), torch.cuda.max_memory_allocated()]))
"""


@pytest.mark.parametrize("gpu", ["rtx3060", "a100-80gb"])
def test_convolutions_have_their_workspaces(gpu: str) -> None:
    version, with_cudnn = told_by(CONVOLUTION, gpu=gpu)
    if version < 90800:
        pytest.skip(f"cuDNN {version} can't be asked without a card")
    _, without = told_by(CONVOLUTION, gpu=gpu, environment={"VRAMPROF_EMULATED_CUDNN": "stub"})
    assert with_cudnn > without


def test_a_program_that_ends_with_backward_ends_well() -> None:
    for _ in range(3):
        assert told_by(f"{ATTENTION}\nprint(json.dumps(1))\npeak(64)", gpu="h100-80gb") == 1
