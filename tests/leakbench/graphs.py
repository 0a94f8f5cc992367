"""Leaks that autograd's graph keeps alive: somebody holds a tensor that holds its whole history."""

from __future__ import annotations

from collections.abc import Iterator

from leakbench.registry import block, leak

BATCH, WIDTH = 64, 1024
ACTIVATION = block(BATCH, WIDTH)
SCALAR = block(1)


@leak(grows=2 * ACTIVATION, holder="total")
def validation_loss_without_no_grad() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/1840"""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.ReLU()).cuda()
    total = torch.zeros((), device="cuda")
    while True:
        x = torch.randn(BATCH, WIDTH, device="cuda")  # leaks
        loss = model(x).mean()  # leaks
        total = total + loss  # leaks
        yield


@leak(grows=2 * ACTIVATION, holder="running_loss")
def running_loss_with_retained_graph() -> Iterator[None]:
    """https://github.com/GBLin5566/toward-controlled-generation-of-text-pytorch/issues/9"""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.ReLU()).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    running_loss = 0
    while True:
        optimizer.zero_grad()
        loss = model(torch.randn(BATCH, WIDTH, device="cuda")).mean()  # leaks
        loss.backward(retain_graph=True)
        optimizer.step()
        running_loss += loss  # leaks
        yield


@leak(grows=2 * block(BATCH, 256), holder="hidden")
def hidden_state_never_detached() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/2198"""
    import torch

    mix = torch.nn.Linear(256, 256, bias=False).cuda()
    hidden = torch.zeros(BATCH, 256, device="cuda")
    while True:
        x = torch.randn(BATCH, 256, device="cuda")
        hidden = torch.sigmoid(mix(hidden) * x)  # leaks
        hidden.sum().item()
        yield


@leak(grows=2 * ACTIVATION + SCALAR, holder="losses")
def losses_kept_with_their_graphs() -> Iterator[None]:
    """https://github.com/BatsResearch/labelmodels/issues/4"""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.ReLU()).cuda()
    losses = []
    while True:
        x = torch.randn(BATCH, WIDTH, device="cuda")  # leaks
        loss = model(x).mean()  # leaks
        losses.append(loss)  # leaks
        yield


@leak(grows=SCALAR, holder="losses")
def losses_kept_after_backward() -> Iterator[None]:
    """https://github.com/cornellius-gp/gpytorch/issues/550"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    losses = []
    while True:
        optimizer.zero_grad()
        loss = model(torch.randn(BATCH, WIDTH, device="cuda")).square().mean()  # leaks
        loss.backward()
        optimizer.step()
        losses.append(loss)  # leaks
        yield


@leak(grows=ACTIVATION, holder="running_mean")
def batch_norm_written_by_hand() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/20275"""
    import torch

    class Norm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(WIDTH))
            self.running_mean = torch.zeros(WIDTH, device="cuda")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scaled = x * self.scale
            self.running_mean = 0.9 * self.running_mean + 0.1 * scaled.mean(0)  # leaks
            return scaled - self.running_mean.detach()

    model = Norm().cuda()
    while True:
        batch = torch.randn(BATCH, WIDTH, device="cuda")  # leaks
        with torch.no_grad():
            batch = batch * 2  # leaks
        model(batch).mean().backward()
        model(batch).detach()
        yield


@leak(grows=2 * ACTIVATION, holder="average")
def moving_average_of_the_loss() -> Iterator[None]:
    """https://github.com/alexhernandezgarcia/gflownet/pull/133"""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.ReLU()).cuda()
    average = None
    while True:
        loss = model(torch.randn(BATCH, WIDTH, device="cuda")).mean()  # leaks
        average = loss if average is None else 0.9 * average + 0.1 * loss  # leaks
        yield


@leak(grows=ACTIVATION + 2 * block(BATCH, 256) + SCALAR, holder="weight")
def inner_loop_with_create_graph() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/4661"""
    import torch

    weight = torch.randn(WIDTH, 256, device="cuda", requires_grad=True)
    while True:
        x = torch.randn(BATCH, WIDTH, device="cuda")  # leaks
        loss = torch.tanh(x @ weight).square().sum()  # leaks
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)  # leaks
        weight = weight - 0.1 * gradient  # leaks
        yield


@leak(grows=4 * ACTIVATION, holder="C++")
def backward_with_create_graph() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/7343"""
    import torch

    while True:
        weight = torch.randn(BATCH, WIDTH, device="cuda", requires_grad=True)  # leaks
        weight.tanh().backward(torch.ones_like(weight), create_graph=True)  # leaks
        del weight
        yield


@leak(grows=ACTIVATION, holder="CopyBackward")
def output_kept_on_ctx() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/25340"""
    import gc

    import torch

    class Copy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            result = x.clone()  # leaks
            ctx.result = result  # leaks
            return result

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    gc.disable()
    x = torch.randn(BATCH, WIDTH, device="cuda", requires_grad=True)
    while True:
        Copy.apply(x)
        yield


@leak(grows=ACTIVATION, holder="gradients")
def gradients_from_a_tensor_hook() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/4661"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH).cuda()
    gradients = []
    while True:
        out = model(torch.randn(BATCH, WIDTH, device="cuda"))
        out.register_hook(lambda gradient: gradients.append(gradient))  # leaks
        out.square().mean().backward()  # leaks
        yield


@leak(grows=block(WIDTH, WIDTH), holder="history")
def gradients_kept_in_a_history() -> Iterator[None]:
    """https://github.com/jacobgil/pytorch-grad-cam/issues/71"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH, bias=False).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    while True:
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(BATCH, WIDTH, device="cuda")).square().mean().backward()  # leaks
        optimizer.step()
        history.append([parameter.grad for parameter in model.parameters()])  # leaks
        yield


@leak(grows=2 * ACTIVATION, holder="sum")
def meter_that_sums_tensors() -> Iterator[None]:
    """https://github.com/pfnet/pytorch-pfn-extras/pull/49"""
    import torch

    class AverageMeter:
        def __init__(self) -> None:
            self.sum, self.count = 0, 0

        def update(self, value: torch.Tensor, n: int = 1) -> None:
            self.sum += value * n  # leaks
            self.count += n

    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.ReLU()).cuda()
    meter = AverageMeter()
    while True:
        meter.update(model(torch.randn(BATCH, WIDTH, device="cuda")).mean())  # leaks
        yield


@leak(grows=ACTIVATION + block(BATCH, 16), holder="buffer")
def log_probabilities_in_a_replay_buffer() -> Iterator[None]:
    """https://github.com/oxwhirl/pymarl/pull/73"""
    import torch

    policy = torch.nn.Linear(WIDTH, 16, bias=False).cuda()
    buffer = []
    while True:
        state = torch.randn(BATCH, WIDTH, device="cuda")  # leaks
        buffer.append(torch.log_softmax(policy(state), dim=-1))  # leaks
        yield


@leak(grows=2 * ACTIVATION, holder="accumulated")
def accumulated_gradient_loss_never_reset() -> Iterator[None]:
    """https://github.com/samuelyu2002/ImVisible/issues/2"""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH, bias=False), torch.nn.Tanh()).cuda()
    accumulated = torch.zeros((), device="cuda")
    while True:
        for _ in range(2):
            x = torch.randn(BATCH // 2, WIDTH, device="cuda")  # leaks
            accumulated = accumulated + model(x).square().mean() / 2  # leaks
        yield
