"""What `torch.randn` would have drawn on a card, computed on the host: an emulated kernel writes nothing.

From PyTorch's DistributionTemplates.h (which thread draws which element) and cuRAND's Philox4x32-10 with Box-Muller.
"""

from __future__ import annotations

import math

import torch

BLOCK_THREADS, PER_CALL = 256, 4
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS, WORD = 10, 1 << 32


class CardGenerator:
    """The card's generator after `torch.manual_seed(seed)`; every draw moves it on as one on the card would."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.counter = 0

    def skip(self, count: int) -> None:
        """Passes over a draw of `count` numbers."""
        self.counter += -(-count // (_threads(count) * PER_CALL))

    def normal(self, *shape: int) -> torch.Tensor:
        """`torch.randn(*shape)` on the card, up to the rounding of its logarithm and sine."""
        count = math.prod(shape)
        threads = _threads(count)
        calls = -(-count // (threads * PER_CALL))
        counters = torch.arange(self.counter, self.counter + calls).repeat_interleave(threads)
        words = _philox(counters, torch.arange(threads).repeat(calls), self.seed)
        pairs = [_box_muller(words[at], words[at + 1]) for at in (0, 2)]
        numbers = torch.stack([number for pair in pairs for number in pair])  # call, lane and thread make the place
        self.counter += calls
        return numbers.view(PER_CALL, calls, threads).transpose(0, 1).reshape(-1)[:count].view(shape)


def _threads(count: int) -> int:
    card = torch.cuda.get_device_properties(0)
    most = card.multi_processor_count * (card.max_threads_per_multi_processor // BLOCK_THREADS)
    return min(most, -(-count // BLOCK_THREADS)) * BLOCK_THREADS


def _philox(counters: torch.Tensor, threads: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Four words of 32 bits for each counter and thread, in int64."""
    a, b, c, d = counters, torch.zeros_like(counters), threads, torch.zeros_like(threads)
    key = [seed % WORD, seed // WORD]
    for _ in range(ROUNDS):
        (high_a, low_a), (high_c, low_c) = _product(a, MULTIPLIERS[0]), _product(c, MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ key[0], low_c, high_a ^ d ^ key[1], low_a
        key = [(word + step) % WORD for word, step in zip(key, KEY_STEPS, strict=True)]
    return [a, b, c, d]


def _product(word: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low half of a product of 32-bit words, without leaving int64."""
    low = word * (factor & 0xFFFF)
    middle = word * (factor >> 16) + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def _box_muller(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    length = (-2 * torch.log((first.double() + 0.5) / WORD)).sqrt()
    angle = (second.double() + 0.5) / WORD * 2 * math.pi
    return (angle.sin() * length).float(), (angle.cos() * length).float()
