"""Clean programs that look as if they leaked: caches that fill, warm-up, lazy states, and memory that comes back."""

from __future__ import annotations

import collections
import copy
import functools
import gc
import itertools
import random
from collections.abc import Iterator
from typing import Any

from leakbench.registry import clean

BATCH, WIDTH = 64, 1024


def _model(width: int = WIDTH) -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, width)).cuda()


def _train(model: Any, optimizer: Any, x: Any) -> Any:
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss


@clean(steps=12)
def plain_training() -> Iterator[None]:
    import torch

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    while True:
        loss = _train(model, optimizer, torch.randn(BATCH, WIDTH, device="cuda"))
        yield
        del loss


@clean(steps=12)
def optimizer_that_starts_late() -> Iterator[None]:
    import torch

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    for step in itertools.count():
        model(torch.randn(BATCH, WIDTH, device="cuda")).square().mean().backward()
        if step % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
        yield


@clean(steps=30)
def evaluation_every_five_steps() -> Iterator[None]:
    import torch

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    for step in itertools.count():
        _train(model, optimizer, torch.randn(BATCH, WIDTH, device="cuda"))
        if step % 5 == 4:
            with torch.no_grad():
                outputs = [model(torch.randn(BATCH, WIDTH, device="cuda")) for _ in range(6)]
            torch.cat(outputs).mean()
        yield


@clean(steps=40)
def shapes_that_vary_at_random() -> Iterator[None]:
    import torch

    chance = random.Random(1)
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    while True:
        _train(model, optimizer, torch.randn(chance.randrange(8, 256), WIDTH, device="cuda"))
        yield


@clean(steps=16)
def batches_sorted_by_length() -> Iterator[None]:
    import torch

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    for length in itertools.count(16, 8):
        x = torch.randn(length, WIDTH, device="cuda")
        out = model(x)
        out.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


@clean(steps=12)
def loss_of_the_last_step_is_kept() -> Iterator[None]:
    import torch

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    last = []
    while True:
        last = [*last[-1:], _train(model, optimizer, torch.randn(BATCH, WIDTH, device="cuda"))]
        yield


def _attention(width: int = 128) -> Any:
    import torch

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = torch.nn.Linear(width, 3 * width)
            self.keys = self.values = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            query, key, value = self.project(x).chunk(3, dim=-1)
            self.keys = key if self.keys is None else torch.cat([self.keys, key], dim=1)
            self.values = value if self.values is None else torch.cat([self.values, value], dim=1)
            return torch.nn.functional.scaled_dot_product_attention(query, self.keys, self.values)

    return Attention().cuda().eval()


@clean()
def key_value_cache_of_one_sequence() -> Iterator[None]:
    import torch

    layers = torch.nn.Sequential(_attention(), _attention())
    x = torch.randn(8, 1, 128, device="cuda")
    with torch.no_grad():
        while True:
            x = layers(x)
            yield


@clean(steps=36)
def key_value_cache_of_many_sequences() -> Iterator[None]:
    import torch

    layer = _attention()
    x = torch.randn(8, 1, 128, device="cuda")
    with torch.no_grad():
        for step in itertools.count():
            if step % 10 == 0:
                layer.keys = layer.values = None
            x = layer(x)
            yield


@clean()
def generation_with_transformers() -> Iterator[None]:
    import torch
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=128)).cuda().eval()
    token = torch.zeros(4, 1, dtype=torch.long, device="cuda")
    cache = DynamicCache()
    with torch.no_grad():
        while True:
            token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            yield


@clean(steps=30)
def ring_of_six_batches() -> Iterator[None]:
    import torch

    recent = collections.deque(maxlen=6)
    while True:
        recent.append(torch.randn(BATCH, WIDTH, device="cuda"))
        yield


@clean(steps=20)
def ring_longer_than_the_run() -> Iterator[None]:
    import torch

    recent = collections.deque(maxlen=64)
    while True:
        recent.append(torch.randn(BATCH, WIDTH, device="cuda"))
        yield


@clean(steps=36)
def replay_list_that_is_popped() -> Iterator[None]:
    import torch

    memory = []
    while True:
        memory.append(torch.randn(BATCH, WIDTH, device="cuda"))
        if len(memory) > 12:
            memory.pop(0)
        yield


@clean()
def replay_buffer_made_at_once() -> Iterator[None]:
    import torch

    memory = torch.zeros(100, BATCH, WIDTH, device="cuda")
    for step in itertools.count():
        memory[step % 100] = torch.randn(BATCH, WIDTH, device="cuda")
        yield


@clean(steps=40)
def bounded_lru_cache() -> Iterator[None]:
    import torch

    @functools.lru_cache(maxsize=8)
    def mask(length: int) -> torch.Tensor:
        return torch.ones(length, 256, device="cuda")

    for length in itertools.count(200):
        mask(length).sum()
        yield


@clean(steps=48)
def cache_by_shape_that_fills() -> Iterator[None]:
    import torch

    chance, masks = random.Random(3), {}
    while True:
        length = chance.randrange(1, 11) * 64
        if length not in masks:
            masks[length] = torch.ones(length, 256, device="cuda")
        masks[length].sum()
        yield


@clean(steps=30)
def cycles_that_the_collector_frees() -> Iterator[None]:
    import torch

    class Node:
        def __init__(self) -> None:
            self.me, self.value = self, torch.randn(BATCH, WIDTH, device="cuda")

    for step in itertools.count():
        Node()
        if step % 8 == 7:
            gc.collect()
        yield


@clean(steps=33)
def outputs_of_an_epoch() -> Iterator[None]:
    import torch

    model, outputs = _model(), []
    with torch.no_grad():
        for step in itertools.count():
            outputs.append(model(torch.randn(BATCH, WIDTH, device="cuda")))
            if step % 10 == 9:
                torch.cat(outputs).mean().item()
                outputs.clear()
            yield


@clean(steps=33)
def metric_that_is_reset() -> Iterator[None]:
    import torch

    preds = None
    for step in itertools.count():
        new = torch.rand(BATCH, WIDTH, device="cuda")
        preds = new if preds is None else torch.cat([preds, new])
        if step % 11 == 10:
            preds = None
        yield


@clean()
def workspaces_and_benchmarks() -> Iterator[None]:
    import torch

    torch.backends.cudnn.benchmark = True
    convolution = torch.nn.Conv2d(16, 32, 3).cuda()
    streams = [torch.cuda.Stream() for _ in range(4)]
    for step in itertools.count():
        convolution(torch.randn(8, 16, 32 + step % 4, 32, device="cuda")).mean().backward()
        with torch.cuda.stream(streams[min(step // 2, 3)]):
            a = torch.randn(256, 256, device="cuda")
            a @ a
        yield


@clean()
def learning_rate_schedule() -> Iterator[None]:
    import torch

    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=1000)
    rates = []
    while True:
        _train(model, optimizer, torch.randn(BATCH, WIDTH, device="cuda"))
        schedule.step()
        rates.append(schedule.get_last_lr())
        yield


@clean()
def gradient_accumulation() -> Iterator[None]:
    import torch

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    for step in itertools.count():
        (model(torch.randn(BATCH, WIDTH, device="cuda")).square().mean() / 4).backward()
        if step % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
        yield


@clean(steps=20)
def layers_unfrozen_one_by_one() -> Iterator[None]:
    import torch

    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(8))).cuda().requires_grad_(False)
    model[-1].requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in itertools.count():
        if step % 2 == 1 and step // 2 < 7:
            model[6 - step // 2].requires_grad_(True)
        _train(model, optimizer, torch.randn(BATCH, 512, device="cuda"))
        yield


@clean()
def moving_average_of_the_weights() -> Iterator[None]:
    import torch

    model = _model()
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters())
    while True:
        _train(model, optimizer, torch.randn(BATCH, WIDTH, device="cuda"))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.01)
        yield


@clean()
def best_weights_are_replaced() -> Iterator[None]:
    import torch

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    for step in itertools.count():
        _train(model, optimizer, torch.randn(BATCH, WIDTH, device="cuda"))
        if step % 3 == 0:
            best = copy.deepcopy(model.state_dict())
        yield
        len(best)


@clean()
def activation_checkpointing() -> Iterator[None]:
    import torch
    from torch.utils.checkpoint import checkpoint

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    while True:
        x = torch.randn(BATCH, WIDTH, device="cuda")
        checkpoint(model, x, use_reentrant=False).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


@clean()
def running_loss_done_right() -> Iterator[None]:
    import torch

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    total, history = torch.zeros((), device="cuda"), []
    while True:
        loss = _train(model, optimizer, torch.randn(BATCH, WIDTH, device="cuda"))
        total += loss.detach()
        history.append(loss.item())
        yield


@clean()
def prefetch_on_another_stream() -> Iterator[None]:
    import torch

    model, side = _model(), torch.cuda.Stream()
    ahead = torch.randn(BATCH, WIDTH, device="cuda")
    while True:
        batch = ahead
        with torch.cuda.stream(side):
            ahead = torch.randn(BATCH, WIDTH, device="cuda")
        model(batch).mean().backward()
        batch.record_stream(side)
        yield


@clean()
def two_backward_passes_per_step() -> Iterator[None]:
    import torch

    maker, judge = _model(), _model()
    optimizers = [torch.optim.AdamW(one.parameters()) for one in (maker, judge)]
    while True:
        fake = maker(torch.randn(BATCH, WIDTH, device="cuda"))
        score = judge(fake).mean()
        score.backward(retain_graph=True)
        (-score).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        yield


@clean()
def lbfgs_with_a_history() -> Iterator[None]:
    import torch

    weight = torch.nn.Parameter(torch.randn(512, 512, device="cuda"))
    optimizer = torch.optim.LBFGS([weight], max_iter=1, history_size=5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight @ weight).square().mean()
        loss.backward()
        return loss

    while True:
        optimizer.step(closure)
        yield


@clean()
def mixed_precision() -> Iterator[None]:
    import torch

    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler("cuda")
    while True:
        with torch.autocast("cuda", torch.float16):
            loss = model(torch.randn(BATCH, WIDTH, device="cuda")).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        yield


@clean()
def truncated_backpropagation() -> Iterator[None]:
    import torch

    cell = torch.nn.LSTMCell(128, 128).cuda()
    state = (torch.zeros(16, 128, device="cuda"), torch.zeros(16, 128, device="cuda"))
    while True:
        for _ in range(4):
            state = cell(torch.randn(16, 128, device="cuda"), state)
        state[0].mean().backward()
        state = tuple(part.detach() for part in state)
        yield


@clean()
def errors_that_are_handled() -> Iterator[None]:
    import torch

    def step(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        if y.shape[0] % 2:
            raise ValueError("odd batch")
        return y

    for size in itertools.count(32):
        try:
            step(torch.randn(size % 40 + 1, WIDTH, device="cuda"))
        except ValueError as error:
            str(error)
        yield


@clean(steps=24)
def curriculum_of_longer_sequences() -> Iterator[None]:
    import torch

    model = _model(256)
    optimizer = torch.optim.AdamW(model.parameters())
    hidden = None
    for step in itertools.count():
        hidden = model(torch.randn(4, 32 + 16 * step, 256, device="cuda"))
        hidden.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield
