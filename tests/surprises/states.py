"""Surprises of weights, gradients and optimizer states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surprises.models import loss_of, perceptron, tokens, transformer
from surprises.registry import surprise


def _train(model: Any, optimizer: Any, x: Any, *, set_to_none: bool = True) -> None:
    optimizer.zero_grad(set_to_none=set_to_none)
    model(x).square().mean().backward()
    optimizer.step()


@surprise("VP505")
def gradients_filled_with_zeros(actual: bool) -> Iterator[None]:
    import torch

    model = perceptron()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    while True:
        _train(model, optimizer, torch.randn(256, 1024, device="cuda"), set_to_none=not actual)
        yield


@surprise("VP505")
def gradients_never_reset(actual: bool) -> Iterator[None]:
    model = transformer()
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    while True:
        batch = tokens(batch=1, length=64)
        loss_of(model(batch), batch).backward()
        optimizer.step()
        if not actual:
            optimizer.zero_grad()
        yield


@surprise("VP508")
def states_in_fp32(actual: bool) -> Iterator[None]:
    """16-bit states were expected of 16-bit weights; the optimizer keeps its own in fp32."""
    import torch

    class ByHand(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self) -> None:  # type: ignore[override]
            for parameter in self.param_groups[0]["params"]:
                state, dtype = self.state[parameter], torch.float32 if actual else parameter.dtype
                if not state:
                    state.update({name: torch.zeros_like(parameter, dtype=dtype) for name in ("mean", "square")})
                state["mean"].lerp_(parameter.grad.to(dtype), 0.1)
                parameter.add_(state["mean"].to(parameter.dtype), alpha=-0.1)

    model = perceptron(2048, 4, torch.bfloat16)
    optimizer = ByHand(model.parameters(), {})
    while True:
        _train(model, optimizer, torch.randn(64, 2048, device="cuda", dtype=torch.bfloat16))
        yield


@surprise("VP508")
def momentum_that_nobody_planned(actual: bool) -> Iterator[None]:
    import torch

    model = perceptron(2048)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9 if actual else 0)
    while True:
        _train(model, optimizer, torch.randn(64, 2048, device="cuda"))
        yield


@surprise("VP511")
def an_optimizer_that_is_not_fused(actual: bool) -> Iterator[None]:
    import torch

    model = perceptron(2048)
    optimizer = torch.optim.AdamW(model.parameters(), fused=not actual, foreach=actual)
    while True:
        _train(model, optimizer, torch.randn(64, 2048, device="cuda"))
        yield


@surprise("VP516")
def a_copy_of_the_weights(actual: bool) -> Iterator[None]:
    """A reference model that is loaded beside the trained one."""
    import copy

    import torch

    model = perceptron(2048)
    reference = copy.deepcopy(model).requires_grad_(False) if actual else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    while True:
        x = torch.randn(64, 2048, device="cuda")
        _train(model, optimizer, x)
        with torch.no_grad():
            reference(x)
        yield


@surprise("VP502")
def weights_in_fp32(actual: bool) -> Iterator[None]:
    import torch

    dtype = torch.float32 if actual else torch.bfloat16
    model = perceptron(4096, 4, dtype)
    while True:
        with torch.no_grad():
            model(torch.randn(16, 4096, device="cuda", dtype=dtype))
        yield
