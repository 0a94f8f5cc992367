"""A transformer language model of four layers whose every part is written by hand, with its own Adam: three rounds.

The allocator's events are recorded from before the model is built, and come out as `[action, bytes]` in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from prediction_accuracy.events import peaks

DEVICE = torch.device("cuda")
VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS, HIDDEN = 10_000, 256, 512, 4, 16, 1344
BATCH, ROUNDS = 10, 3


class Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device=DEVICE))
        spread = math.sqrt(2 / (inputs + outputs))
        nn.init.trunc_normal_(self.weight, mean=0, std=spread, a=-3 * spread, b=3 * spread)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("...i,oi->...o", x, self.weight)


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(VOCABULARY, WIDTH, device=DEVICE))
        nn.init.trunc_normal_(self.weight, mean=0, std=1, a=-3, b=3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.weight[tokens]


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH, device=DEVICE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = x.dtype
        x = x.to(torch.float32)
        size = torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True) + 1e-5)
        out = x / size * self.weight
        return out.to(dtype)


class Rotation(nn.Module):
    """Its tables stay on the host; the rows in use are copied at every call."""

    def __init__(self, size: int) -> None:
        super().__init__()
        steps = torch.tensor([1 / (10_000 ** (2 * k / size)) for k in range(size // 2)])
        angles = torch.einsum("i,j->ij", torch.arange(CONTEXT), steps)
        self.register_buffer("sin", torch.sin(angles), persistent=False)
        self.register_buffer("cos", torch.cos(angles), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[-2])
        sin = self.sin[positions].to(DEVICE)[..., None]
        cos = self.cos[positions].to(DEVICE)[..., None]
        pairs = x.unflatten(-1, (-1, 2))
        first = cos * pairs[..., :1] - sin * pairs[..., 1:]
        second = sin * pairs[..., :1] + cos * pairs[..., 1:]
        turned = torch.cat([first, second], dim=-1)
        return turned.flatten(-2)


def softmax(x: torch.Tensor) -> torch.Tensor:
    largest, _ = torch.max(x, dim=-1, keepdim=True)
    return torch.exp(x - largest) / torch.sum(torch.exp(x - largest), dim=-1, keepdim=True)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    mask = mask.to(query.device)
    products = torch.einsum("...qd,...kd->...qk", query, key)
    scores = products / torch.sqrt(torch.tensor(query.shape[-1], device=products.device))
    scores = scores.masked_fill_(~mask.bool(), -float("inf"))
    shares = softmax(scores)
    return torch.einsum("...qk,...kd->...qd", shares, value)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rotation = Rotation(WIDTH // HEADS)
        self.query, self.key, self.value, self.out = (Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[-2]
        query = self.query(x)
        key = self.key(x)
        value = self.value(x)
        query = query.unflatten(-1, (HEADS, -1)).transpose(-2, -3)
        key = key.unflatten(-1, (HEADS, -1)).transpose(-2, -3)
        value = value.unflatten(-1, (HEADS, -1)).transpose(-2, -3)
        query = self.rotation(query)
        key = self.rotation(key)
        out = attend(query, key, value, torch.tril(torch.ones(length, length)))
        out = out.transpose(-2, -3).flatten(-2)
        return self.out(out)


def silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.down, self.up = Linear(WIDTH, HIDDEN), Linear(HIDDEN, WIDTH), Linear(WIDTH, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.gate(x)
        opened = silu(gate)
        up = self.up(x)
        both = opened * up
        return self.down(both)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(), RMSNorm()
        self.attention, self.feed_forward = Attention(), FeedForward()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x)
        attended = self.attention(normed)
        middle = attended + x
        normed_again = self.norm2(middle)
        fed = self.feed_forward(normed_again)
        return fed + middle


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = Embedding()
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm, self.head = RMSNorm(), Linear(WIDTH, VOCABULARY)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x)


def cross_entropy(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    largest, _ = torch.max(x, dim=-1, keepdim=True)
    logs = x - largest - torch.log(torch.sum(torch.exp(x - largest), dim=-1, keepdim=True))
    wanted = torch.zeros_like(logs)
    wanted.scatter_(-1, target.unsqueeze(-1), 1)
    return -torch.sum(wanted * logs) / x.shape[0]


class Adam(torch.optim.Optimizer):
    """Out of place throughout: every step makes new moments and new parameters."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8})
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["m"], state["v"], state["t"] = torch.zeros_like(parameter.data), torch.zeros_like(parameter.data), 0

    def step(self, closure: Any = None) -> None:
        group = self.param_groups[0]
        (beta1, beta2), rate = group["betas"], group["lr"]
        for parameter in group["params"]:
            state = self.state[parameter]
            time = state["t"] + 1
            scaled = rate * math.sqrt(1 - beta2**time) / (1 - beta1**time)
            gradient = parameter.grad.data
            m = state["m"]
            new_m = beta1 * m + (1 - beta1) * gradient
            state["m"] = new_m
            v = state["v"]
            new_v = beta2 * v + (1 - beta2) * gradient**2
            state["v"] = new_v
            state["t"] = time
            parameter.data = parameter.data - scaled * (new_m / (torch.sqrt(new_v) + group["eps"]))
            parameter.data = parameter.data - rate * 0.0 * parameter.data


def run(*, length: int, train: bool, mixed: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Three forward passes, or three training steps; yields the events up to there, while all tensors live."""
    torch.cuda.memory._record_memory_history(max_entries=1_000_000)
    precision: Any = torch.amp.autocast(device_type="cuda", dtype=torch.bfloat16) if mixed else nullcontext()
    events = (_train if train else _forward)(LanguageModel(), length, precision)
    yield "events", {"events": events}
    yield "peaks", peaks(events)


def _forward(model: LanguageModel, length: int, precision: Any) -> list[tuple[str, int]]:
    tokens = torch.randint(0, VOCABULARY, (BATCH, length)).to(DEVICE)
    for _ in range(ROUNDS):
        with precision:
            model(tokens)
    return _events()


def _train(model: LanguageModel, length: int, precision: Any) -> list[tuple[str, int]]:
    optimizer = Adam(model.parameters())
    tokens = torch.randint(0, VOCABULARY, (BATCH, length)).to(DEVICE)
    labels = torch.randint(0, VOCABULARY, (BATCH,)).to(DEVICE)
    with precision:
        for _ in range(ROUNDS):
            optimizer.zero_grad()
            logits = model(tokens)
            last = logits[:, -1, :]
            loss = cross_entropy(last, labels)
            loss.backward()
            optimizer.step()
    return _events()


def _events() -> list[tuple[str, int]]:
    (trace,) = torch.cuda.memory._snapshot()["device_traces"]
    return [(entry["action"], entry["size"]) for entry in trace if entry["action"] != "snapshot"]
