"""Surprises of the forward and backward pass: what is saved, copied, kept and computed otherwise than predicted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from surprises.models import convolutions, loss_of, perceptron, tokens, transformer
from surprises.registry import surprise


def _optimizer(model: Any) -> Any:
    import torch

    return torch.optim.AdamW(model.parameters(), fused=True)


def _train(model: Any, optimizer: Any, batch: Any) -> Any:
    optimizer.zero_grad()
    loss = loss_of(model(batch), batch)
    loss.backward()
    optimizer.step()
    return loss


@surprise("VP501")
def math_attention(actual: bool) -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = transformer()
    optimizer = _optimizer(model)
    while True:
        with sdpa_kernel(SDPBackend.MATH) if actual else contextlib.nullcontext():
            _train(model, optimizer, tokens())
        yield


@surprise("VP501")
def attention_by_hand(actual: bool) -> Iterator[None]:
    """A library's eager path: scores, softmax and product one by one."""
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(256, 768, dtype=torch.bfloat16)

        def forward(self, x: Any) -> Any:
            q, k, v = self.qkv(x).unflatten(-1, (3, 8, 32)).permute(2, 0, 3, 1, 4)
            if actual:
                scores = (q @ k.transpose(-2, -1)) / 32**0.5
                return (F.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2)
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    model = nn.Sequential(*(Attention() for _ in range(3))).cuda()
    optimizer = _optimizer(model)
    while True:
        optimizer.zero_grad()
        model(torch.randn(4, 512, 256, device="cuda", dtype=torch.bfloat16)).square().mean().backward()
        optimizer.step()
        yield


@surprise("VP502")
def autocast_left_out(actual: bool) -> Iterator[None]:
    import torch

    model = transformer()
    optimizer = _optimizer(model)
    while True:
        with torch.autocast("cuda", torch.bfloat16, enabled=not actual):
            _train(model, optimizer, tokens())
        yield


@surprise("VP502")
def one_part_in_fp32(actual: bool) -> Iterator[None]:
    """A residual stream that somebody casts up, for the sake of stability."""
    import torch

    model = perceptron(1024, 6, torch.bfloat16)
    for layer in model:
        if actual and isinstance(layer, torch.nn.Linear):
            layer.float().register_forward_pre_hook(lambda module, args: (args[0].float(),))
    optimizer = _optimizer(model)
    while True:
        optimizer.zero_grad()
        model(torch.randn(8192, 1024, device="cuda", dtype=torch.bfloat16)).square().mean().backward()
        optimizer.step()
        yield


@surprise("VP503")
def longer_sequences(actual: bool) -> Iterator[None]:
    model = transformer()
    optimizer = _optimizer(model)
    while True:
        _train(model, optimizer, tokens(length=768 if actual else 512))
        yield


@surprise("VP503", actual_steps=12)
def one_batch_that_is_longer(actual: bool) -> Iterator[None]:
    """The longest text of a data set comes late."""
    model = transformer()
    optimizer = _optimizer(model)
    step = 0
    while True:
        _train(model, optimizer, tokens(length=1024 if actual and step == 8 else 512))
        step += 1
        yield


@surprise("VP504")
def outputs_of_the_last_step(actual: bool) -> Iterator[None]:
    model = transformer()
    optimizer = _optimizer(model)
    kept = None
    while True:
        batch = tokens()
        optimizer.zero_grad()
        logits = model(batch)
        loss_of(logits, batch).backward()
        optimizer.step()
        if actual:
            kept = logits.detach()
        del logits
        yield
    del kept


@surprise("VP504")
def outputs_through_backward(actual: bool) -> Iterator[None]:
    import torch

    model = transformer()
    optimizer = _optimizer(model)
    while True:
        batch = tokens()
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(batch)
            loss = loss_of(logits, batch)
            if not actual:
                del logits
        loss.backward()
        optimizer.step()
        yield


@surprise("VP506")
def loss_of_the_last_step_with_its_graph(actual: bool) -> Iterator[None]:
    model = transformer()
    optimizer = _optimizer(model)
    losses: list[Any] = []
    while True:
        batch = tokens()
        optimizer.zero_grad()
        loss = loss_of(model(batch), batch)
        loss.backward(retain_graph=actual)
        losses[:] = [loss]
        del loss
        optimizer.step()
        yield


@surprise("VP507")
def checkpointing_switched_off(actual: bool) -> Iterator[None]:
    model = transformer(checkpointing=not actual)
    optimizer = _optimizer(model)
    while True:
        _train(model, optimizer, tokens())
        yield


@surprise("VP510")
def a_copy_in_each_layer(actual: bool) -> Iterator[None]:
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1024, 1024)

        def forward(self, x: Any) -> Any:
            x = x.clone() if actual else x
            return torch.relu(self.linear(x))

    model = nn.Sequential(*(Layer() for _ in range(4))).cuda()
    optimizer = _optimizer(model)
    while True:
        optimizer.zero_grad()
        model(torch.randn(4096, 1024, device="cuda")).square().mean().backward()
        optimizer.step()
        yield


@surprise("VP510")
def a_transposed_input_made_contiguous(actual: bool) -> Iterator[None]:
    import torch

    model = perceptron(1024, 2)
    while True:
        with torch.no_grad():
            x = torch.randn(1024, 16384, device="cuda").t()
            model(x.contiguous() if actual else x)
        yield


@surprise("VP511")
def layer_norm_by_hand(actual: bool) -> Iterator[None]:
    """The fused kernel was not there, and a fallback of single operations was taken."""
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812

    class Norm(nn.Module):
        def forward(self, x: Any) -> Any:
            if not actual:
                return F.layer_norm(x, x.shape[-1:])
            centred = x - x.mean(-1, keepdim=True)
            return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5)

    model = nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(1024, 1024), Norm()))).cuda()
    optimizer = _optimizer(model)
    while True:
        optimizer.zero_grad()
        model(torch.randn(4096, 1024, device="cuda")).square().mean().backward()
        optimizer.step()
        yield


@surprise("VP509")
def convolutions_with_a_larger_workspace(actual: bool) -> Iterator[None]:
    """With TF32, cuDNN takes engines that want more."""
    import torch

    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = actual
    model = convolutions(128)
    try:
        while True:
            with torch.no_grad():
                model(torch.randn(64, 3, 56, 56, device="cuda"))
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@surprise("VP511")
def convolutions_without_cudnn(actual: bool) -> Iterator[None]:
    """torch's own fallback unfolds the images."""
    import torch

    model = convolutions(64)
    try:
        while True:
            torch.backends.cudnn.enabled = not actual
            with torch.no_grad():
                model(torch.randn(8, 3, 224, 224, device="cuda"))
            yield
    finally:
        torch.backends.cudnn.enabled = True
