"""Leaks that reference cycles and exceptions keep alive; the collector is off or late, as in long training steps."""

from __future__ import annotations

import gc
from collections.abc import Iterator

from leakbench.registry import block, leak

BATCH, WIDTH = 64, 1024
ACTIVATION = block(BATCH, WIDTH)


@leak(grows=ACTIVATION, holder="errors")
def exceptions_kept_in_a_list() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/10348"""
    import torch

    def step() -> None:
        batch = torch.randn(BATCH, WIDTH, device="cuda")  # leaks
        raise ValueError(f"bad batch of {len(batch)}")

    errors = []
    while True:
        try:
            step()
        except ValueError as error:
            errors.append(error)  # leaks
        yield


@leak(grows=ACTIVATION, holder="previous")
def exceptions_that_are_chained() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/27600"""
    import torch

    def attempt(previous: BaseException | None) -> None:
        batch = torch.randn(BATCH, WIDTH, device="cuda")  # leaks
        raise RuntimeError(f"attempt with {len(batch)}") from previous  # leaks

    previous: BaseException | None = None
    while True:
        try:
            attempt(previous)
        except RuntimeError as error:
            previous = error  # leaks
        yield


@leak(grows=ACTIVATION, holder="cycle")
def exception_that_holds_its_own_frame() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/36874"""
    import torch

    def step() -> object:
        batch = torch.randn(BATCH, WIDTH, device="cuda")  # leaks
        try:
            raise ValueError(len(batch))
        except ValueError as error:
            kept = error  # leaks
        return type(kept)

    gc.disable()
    while True:
        step()
        yield


@leak(grows=block(WIDTH, WIDTH), holder="cycle")
def lambda_of_a_module_on_itself() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/28647"""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(WIDTH, WIDTH, device="cuda"))  # leaks
            self.f = lambda x: x @ self.weight  # leaks

    gc.disable()
    while True:
        Net().f(torch.randn(BATCH, WIDTH, device="cuda"))
        yield


@leak(grows=ACTIVATION, holder="cycle")
def bound_method_as_an_attribute() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/128211"""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.randn(BATCH, WIDTH, device="cuda"))  # leaks
            self.which = self.first  # leaks

        def first(self) -> torch.Tensor:
            return self.table * 2

    gc.disable()
    while True:
        Net().which()
        yield


@leak(grows=block(WIDTH, WIDTH), holder="cycle")
def forward_hook_with_self() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/46386"""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(WIDTH, WIDTH, bias=False, device="cuda")  # leaks
            self.register_forward_hook(lambda module, args, output: self.note(output))  # leaks

        def note(self, output: object) -> None:
            self.seen = type(output)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    gc.disable()
    while True:
        with torch.no_grad():
            Net()(torch.randn(BATCH, WIDTH, device="cuda"))
        yield


@leak(grows=2 * block(WIDTH, WIDTH), holder="cycle")
def scheduler_with_a_lambda_on_self() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/47589"""
    import torch

    weight = torch.nn.Linear(WIDTH, WIDTH, bias=False).cuda()

    class Trial:
        def __init__(self) -> None:
            self.rate = 1.0
            self.optimizer = torch.optim.Adam(weight.parameters())
            self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_lambda=lambda _: self.rate)  # leaks

        def run(self) -> None:
            self.optimizer.zero_grad()
            weight(torch.randn(BATCH, WIDTH, device="cuda")).mean().backward()
            self.optimizer.step()  # leaks
            self.schedule.step()

    gc.disable()
    while True:
        Trial().run()
        yield


@leak(grows=ACTIVATION, holder="cycle")
def nodes_that_know_their_parents() -> Iterator[None]:
    """https://github.com/TheStageAI/TorchIntegral/issues/34"""
    import torch

    class Node:
        def __init__(self, parent: Node | None = None) -> None:
            self.parent, self.children = parent, []
            self.value = torch.zeros(BATCH // 4, WIDTH, device="cuda")  # leaks
            if parent is not None:
                parent.children.append(self)

    gc.disable()
    while True:
        root = Node()
        for _ in range(3):
            Node(root)
        del root
        yield
