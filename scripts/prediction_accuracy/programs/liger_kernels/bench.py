"""What a benchmarked kernel is: a forward call, and a backward call on what that gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Make = Callable[..., "Bench"]
_benches: dict[str, Make] = {}


@dataclass(frozen=True)
class Bench:
    """Its tensors are resident while it lives, as in the benchmark."""

    forward: Callable[[], Any]
    backward: Callable[[Any], None] = torch.Tensor.backward
    """From what `forward` returned; when repeated alone it keeps the graph."""
    backward_again: Callable[[Any], None] = lambda result: result.backward(retain_graph=True)

    def full(self) -> None:
        """Forward and backward once."""
        self.backward(self.forward())

    def repeat(self, mode: str) -> Callable[[], Any]:
        """The function that the benchmark repeats for a mode; for "backward" the forward pass has been run by then."""
        if mode == "backward":
            result = self.forward()
            return lambda: self.backward_again(result)
        return {"forward": self.forward, "full": self.full}[mode]


def bench(name: str) -> Callable[[Make], Make]:
    """Enters a maker, called as `make(provider, x, **settings)`, under the kernel's name in the table."""

    def enter(make: Make) -> Make:
        assert name not in _benches, name
        _benches[name] = make
        return make

    return enter


def bench_of(name: str) -> Make:
    """The maker of a kernel's bench. Raises KeyError for one that was not written."""
    return _benches[name]


def dtype_of(text: str) -> torch.dtype:
    """`torch.bfloat16` as the table spells it."""
    return getattr(torch, text.removeprefix("torch."))
