"""Programs that do something else than the prediction did, of which nobody need be told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from surprises.models import convolutions, loss_of, perceptron, tokens, transformer
from surprises.registry import no_surprise


def _optimizer(model: Any) -> Any:
    import torch

    return torch.optim.AdamW(model.parameters(), fused=True)


def _train(model: Any, optimizer: Any, batch: Any) -> Any:
    optimizer.zero_grad()
    loss = loss_of(model(batch), batch)
    loss.backward()
    optimizer.step()
    return loss


@no_surprise()
def the_same_again(actual: bool) -> Iterator[None]:
    model = transformer()
    optimizer = _optimizer(model)
    while True:
        _train(model, optimizer, tokens())
        yield


@no_surprise()
def another_seed(actual: bool) -> Iterator[None]:
    import torch

    model = transformer()
    torch.manual_seed(7 if actual else 3)
    optimizer = _optimizer(model)
    while True:
        _train(model, optimizer, tokens())
        yield


@no_surprise(actual_steps=40)
def ten_times_the_steps(actual: bool) -> Iterator[None]:
    model = transformer()
    optimizer = _optimizer(model)
    while True:
        _train(model, optimizer, tokens())
        yield


@no_surprise(expected_steps=2, actual_steps=12)
def states_made_in_the_first_step(actual: bool) -> Iterator[None]:
    import torch

    model = perceptron(2048)
    optimizer = torch.optim.Adam(model.parameters())
    while True:
        optimizer.zero_grad()
        model(torch.randn(64, 2048, device="cuda")).square().mean().backward()
        optimizer.step()
        yield


@no_surprise()
def convolutions_without_benchmark(actual: bool) -> Iterator[None]:
    import torch

    torch.backends.cudnn.deterministic = actual
    model = convolutions()
    optimizer = _optimizer(model)
    try:
        while True:
            optimizer.zero_grad()
            model(torch.randn(32, 3, 64, 64, device="cuda")).square().mean().backward()
            optimizer.step()
            yield
    finally:
        torch.backends.cudnn.deterministic = False


@no_surprise(actual_steps=20)
def a_cache_by_length_that_fills(actual: bool) -> Iterator[None]:
    """Masks of eight lengths; four of them are seen by the prediction."""
    import torch

    model = transformer()
    optimizer = _optimizer(model)
    masks: dict[int, Any] = {}
    for step in itertools.count():
        length = 64 * (step % 8 + 1)
        if length not in masks:
            masks[length] = torch.ones(length, length, device="cuda").tril()
        _train(model, optimizer, tokens())
        yield


@no_surprise()
def batches_from_workers(actual: bool) -> Iterator[None]:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.randint(0, 4096, (64, 512)))
    model = transformer()
    optimizer = _optimizer(model)
    while True:
        for (batch,) in DataLoader(data, batch_size=4, num_workers=1 if actual else 0, pin_memory=actual):
            _train(model, optimizer, batch.cuda(non_blocking=actual))
            yield


@no_surprise(actual_steps=12)
def gradient_accumulation(actual: bool) -> Iterator[None]:
    model = transformer()
    optimizer = _optimizer(model)
    while True:
        for _ in range(4):
            batch = tokens(batch=2)
            (loss_of(model(batch), batch) / 4).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


@no_surprise(expected_steps=3, actual_steps=12)
def evaluation_between_steps(actual: bool) -> Iterator[None]:
    """The first evaluation comes after the last step that was predicted."""
    import torch

    model = transformer()
    optimizer = _optimizer(model)
    for step in itertools.count():
        _train(model, optimizer, tokens())
        if step % 5 == 4:
            model.eval()
            with torch.no_grad():
                batch = tokens()
                loss_of(model(batch), batch)
            model.train()
        yield


@no_surprise()
def mixed_precision_with_a_scaler(actual: bool) -> Iterator[None]:
    import torch

    model = transformer()
    optimizer = _optimizer(model)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**16 if actual else 2.0**8)
    while True:
        batch = tokens()
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = loss_of(model(batch), batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        yield


@no_surprise(actual_steps=12)
def a_learning_rate_schedule_and_clipping(actual: bool) -> Iterator[None]:
    import torch

    model = transformer()
    optimizer = _optimizer(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    while True:
        batch = tokens()
        optimizer.zero_grad()
        loss_of(model(batch), batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5 if actual else 1.0)
        optimizer.step()
        schedule.step()
        yield


@no_surprise(actual_steps=10)
def losses_logged_as_numbers(actual: bool) -> Iterator[None]:
    model = transformer()
    optimizer = _optimizer(model)
    logged: list[float] = []
    while True:
        loss = _train(model, optimizer, tokens())
        if actual:
            logged.append(loss.item())
        yield


@no_surprise(actual_steps=10)
def shorter_texts_now_and_then(actual: bool) -> Iterator[None]:
    """The prediction saw the longest; a run has shorter ones, too."""
    model = transformer()
    optimizer = _optimizer(model)
    for step in itertools.count():
        _train(model, optimizer, tokens(length=500 if actual and step % 4 == 3 else 512))
        yield


@no_surprise()
def checkpointing_on_both_sides(actual: bool) -> Iterator[None]:
    import torch

    model = transformer(checkpointing=True)
    optimizer = _optimizer(model)
    with torch.random.fork_rng(devices=[0] if actual else []):
        while True:
            _train(model, optimizer, tokens())
            yield


@no_surprise(actual_steps=10)
def generation_with_a_cache(actual: bool) -> Iterator[None]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).cuda().eval()
    while True:
        model.generate(torch.ones(4, 64, dtype=torch.long).cuda(), max_new_tokens=8, do_sample=False)
        yield


@no_surprise(actual_steps=10)
def a_moving_average_of_the_weights(actual: bool) -> Iterator[None]:
    import torch

    model = perceptron()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    optimizer = _optimizer(model)
    while True:
        optimizer.zero_grad()
        model(torch.randn(64, 1024, device="cuda")).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(model)
        yield


@no_surprise()
def prefetch_on_another_stream(actual: bool) -> Iterator[None]:
    import torch

    model = transformer()
    optimizer = _optimizer(model)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        following = tokens()
    while True:
        torch.cuda.current_stream().wait_stream(stream)
        batch, following = following, None
        batch.record_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            following = tokens()
        _train(model, optimizer, batch)
        yield


@no_surprise(actual_steps=8)
def a_program_that_prints_and_saves(actual: bool) -> Iterator[None]:
    import io

    import torch

    model = perceptron()
    optimizer = _optimizer(model)
    while True:
        optimizer.zero_grad()
        model(torch.randn(64, 1024, device="cuda")).square().mean().backward()
        optimizer.step()
        if actual:
            torch.save(model.state_dict(), io.BytesIO())
            torch.cuda.memory_summary()
        yield
