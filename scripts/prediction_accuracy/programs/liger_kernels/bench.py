"""What a benchmarked kernel is: a forward call, and a backward call on what that gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

DEVICE = torch.device("cuda")

Make = Callable[..., "Bench"]
_benches: dict[str, Make] = {}


def of_loss(loss: torch.Tensor) -> None:
    """Backward of a scalar; the graph is given up."""
    with gradient_is_one():
        loss.backward()


def of_loss_kept(loss: torch.Tensor) -> None:
    """Backward of a scalar; the graph stays until the result goes."""
    with gradient_is_one():
        loss.backward(retain_graph=True)


def of_random(result: torch.Tensor) -> None:
    """Backward from a fresh random gradient; the graph stays until the result goes."""
    result.backward(torch.randn_like(result), retain_graph=True)


def of_sum(result: torch.Tensor) -> None:
    """Backward of the sum of all elements."""
    result.sum().backward()


def of(gradient: torch.Tensor) -> Callable[[torch.Tensor], None]:
    """Backward from a gradient that is resident; the graph stays until the result goes."""
    return lambda result: result.backward(gradient, retain_graph=True)


@dataclass(frozen=True)
class Bench:
    """Its tensors are resident while it lives, as in the benchmark."""

    forward: Callable[[], Any]
    backward: Callable[[Any], None] = of_loss
    only_full: bool = False
    """Whether the benchmark's memory figure of every mode is that of "full"."""

    def full(self) -> None:
        """Forward and backward once."""
        self.backward(self.forward())

    def repeat(self, mode: str) -> Callable[[], Any]:
        """The function that the benchmark repeats for a mode; for "backward" the forward pass has been run by then."""
        if mode == "full" or self.only_full:
            return self.full
        if mode == "forward":
            return self.forward
        result = self.forward()
        backward = of(torch.randn_like(result))
        return lambda: backward(result)


def bench(*names: str) -> Callable[[Make], Make]:
    """Enters a maker, called as `make(provider, x, **settings)`, under the kernel's names in the table."""

    def enter(make: Make) -> Make:
        for name in names:
            assert name not in _benches, name
            _benches[name] = make
        return make

    return enter


def bench_of(name: str) -> Make:
    """The maker of a kernel's bench. Raises KeyError for one that was not written."""
    return _benches[name]


def on_device(module: torch.nn.Module, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """The module on the card, moved as the benchmarks do: first there, then to the type."""
    return module.to(DEVICE) if dtype is None else module.to(DEVICE).to(dtype)


def random_input(*shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Normal numbers on the card that want a gradient."""
    return torch.randn(*shape, dtype=dtype, device=DEVICE, requires_grad=True)


@contextmanager
def checks_pass() -> Iterator[None]:
    """Answers `assert tensor` with yes: no kernel has written the tensor, and on a card the check would pass."""
    with patch.object(torch.Tensor, "__bool__", lambda tensor: True):
        yield


@contextmanager
def gradient_is_one() -> Iterator[None]:
    """Answers `torch.equal` with yes, by which losses ask whether they are last, where the backward pass begins with 1.

    No kernel has written that 1, and one more product would be made.
    """
    with patch.object(torch, "equal", lambda gradient, one: True):
        yield
