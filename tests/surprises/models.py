"""The small models of the programs: what differs is in the programs."""

from __future__ import annotations

from typing import Any

BATCH, LENGTH, WIDTH, LAYERS, WORDS = 4, 512, 256, 3, 4096


def transformer(*, checkpointing: bool = False, width: int = WIDTH, words: int = WORDS) -> Any:
    """A language model by hand: embedding, blocks of attention and MLP, head."""
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812
    from torch.utils.checkpoint import checkpoint

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = 8
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)

        def forward(self, x: Any) -> Any:
            batch, length, _ = x.shape
            q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attention = Attention()
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(words, width)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.head = nn.Linear(width, words, bias=False)

        def forward(self, tokens: Any) -> Any:
            x = self.embedding(tokens)
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=False) if checkpointing else block(x)
            return self.head(x)

    torch.manual_seed(0)
    return Transformer().cuda()


def tokens(batch: int = BATCH, length: int = LENGTH) -> Any:
    import torch

    return torch.randint(0, WORDS, (batch, length)).cuda()


def loss_of(logits: Any, targets: Any) -> Any:
    from torch.nn import functional as F  # noqa: N812

    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def convolutions(width: int = 32) -> Any:
    """A small image model."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    ).cuda()  # fmt: skip


def perceptron(width: int = 1024, layers: int = 4, dtype: Any = None) -> Any:
    """Linear layers and nothing that varies."""
    from torch import nn

    steps = [module for _ in range(layers) for module in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*steps).to("cuda", dtype)
