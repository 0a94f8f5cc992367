"""Nets written in torch alone, and the loop that trains anything: what several programs share.

The one file that imports torch at its top: programs import it inside their bodies."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional

STEPS = 3


def train(
    loss: Callable[[], torch.Tensor], model: nn.Module, *, optimizer: torch.optim.Optimizer | None = None
) -> Iterator[None]:
    """Three steps of training."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(STEPS):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def mlp(width: int = 1024, depth: int = 4) -> nn.Sequential:
    """Takes and gives (batch, width)."""
    layers = [
        layer for _ in range(depth) for layer in (nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    ]
    return nn.Sequential(*layers).cuda()


class Block(nn.Module):
    """A pre-norm transformer block: (batch, tokens, width) to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*split, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """A decoder: token ids (batch, tokens) to logits (batch, tokens, vocabulary)."""

    def __init__(self, *, width: int = 512, heads: int = 8, depth: int = 4, vocabulary: int = 8192) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def run_block(self, block: Block, x: torch.Tensor) -> torch.Tensor:
        return block(x)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = self.run_block(block, x)
        return self.head(x)


def tokens(batch: int = 4, length: int = 512, *, vocabulary: int = 8192) -> torch.Tensor:
    """Token ids, made on the host, so that they are the same with and without a card."""
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(0)).cuda()


def next_token_loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of each token given those before it."""
    return functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def convnet(classes: int = 100) -> nn.Sequential:
    """Takes (batch, 3, side, side), gives (batch, classes)."""
    layers: list[nn.Module] = []
    channels = [3, 32, 64, 128, 256]
    for into, out in itertools.pairwise(channels):
        layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, classes)).cuda()
