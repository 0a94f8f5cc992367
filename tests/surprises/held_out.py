"""Programs that were written after the rules: people's own models, of libraries, with what goes wrong in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from surprises.registry import no_surprise, surprise


def _gpt2(attention: str = "sdpa") -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=4, n_embd=256, n_head=8, n_positions=512, vocab_size=8192, attn_implementation=attention
    )
    return GPT2LMHeadModel(config).cuda()


def _llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=8192, **sizes, **changes)).cuda()


def _batch(rows: int = 8, length: int = 256) -> Any:
    import torch

    return torch.randint(0, 8192, (rows, length)).cuda()


def _optimizer(model: Any) -> Any:
    import torch

    return torch.optim.AdamW(model.parameters(), fused=True)


def _train(model: Any, optimizer: Any, batch: Any) -> Any:
    optimizer.zero_grad()
    output = model(input_ids=batch, labels=batch, use_cache=False)
    output.loss.backward()
    optimizer.step()
    return output


@surprise("VP501")
def gpt2_with_eager_attention(actual: bool) -> Iterator[None]:
    model = _gpt2("eager" if actual else "sdpa")
    optimizer = _optimizer(model)
    while True:
        _train(model, optimizer, _batch())
        yield


@surprise("VP504")
def llama_whose_output_lives_on(actual: bool) -> Iterator[None]:
    model = _llama()
    optimizer = _optimizer(model)
    output = None
    while True:
        output = _train(model, optimizer, _batch())
        if not actual:
            output = None
        yield
    del output


@surprise("VP507")
def llama_without_gradient_checkpointing(actual: bool) -> Iterator[None]:
    model = _llama()
    if not actual:
        model.gradient_checkpointing_enable()
    optimizer = _optimizer(model)
    model.train()
    while True:
        _train(model, optimizer, _batch())
        yield


@surprise("VP502")
def llama_in_full_precision(actual: bool) -> Iterator[None]:
    import torch

    model = _llama().to(torch.float32 if actual else torch.bfloat16)
    optimizer = _optimizer(model)
    while True:
        _train(model, optimizer, _batch())
        yield


@surprise("VP503")
def resnet_with_larger_images(actual: bool) -> Iterator[None]:
    import torch
    from torchvision.models import resnet18

    model = resnet18().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    while True:
        optimizer.zero_grad()
        model(torch.randn(8, 3, 160 if actual else 128, 160, device="cuda")).mean().backward()
        optimizer.step()
        yield


@surprise("VP505")
def resnet_with_gradients_kept(actual: bool) -> Iterator[None]:
    import torch
    from torchvision.models import resnet18

    model = resnet18().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    while True:
        optimizer.zero_grad(set_to_none=not actual)
        model(torch.randn(8, 3, 96, 96, device="cuda")).mean().backward()
        optimizer.step()
        yield


@surprise("VP512", actual_steps=12)
def gpt2_whose_logits_are_collected(actual: bool) -> Iterator[None]:
    model = _gpt2()
    optimizer = _optimizer(model)
    logits: list[Any] = []
    while True:
        output = _train(model, optimizer, _batch(2))
        if actual:
            logits.append(output.logits.detach())
        del output
        yield


@no_surprise(actual_steps=10)
def llama_for_longer(actual: bool) -> Iterator[None]:
    model = _llama()
    optimizer = _optimizer(model)
    while True:
        _train(model, optimizer, _batch())
        yield


@no_surprise(actual_steps=10)
def resnet_with_evaluation(actual: bool) -> Iterator[None]:
    import torch
    from torchvision.models import resnet18

    model = resnet18().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = 0
    while True:
        optimizer.zero_grad()
        model(torch.randn(8, 3, 96, 96, device="cuda")).mean().backward()
        optimizer.step()
        if step % 4 == 3:
            model.eval()
            with torch.no_grad():
                model(torch.randn(8, 3, 96, 96, device="cuda")).argmax(1).tolist()
            model.train()
        step += 1
        yield


@no_surprise(expected_steps=2, actual_steps=8)
def gpt2_under_autocast(actual: bool) -> Iterator[None]:
    import torch

    model = _gpt2()
    optimizer = _optimizer(model)
    while True:
        with torch.autocast("cuda", torch.bfloat16):
            _train(model, optimizer, _batch())
        yield


@no_surprise(actual_steps=8)
def a_gan(actual: bool) -> Iterator[None]:
    import torch
    from torch import nn

    generator = nn.Sequential(nn.Linear(128, 1024), nn.ReLU(), nn.Linear(1024, 3072)).cuda()
    judge = nn.Sequential(nn.Linear(3072, 1024), nn.LeakyReLU(), nn.Linear(1024, 1)).cuda()
    optimizers = [torch.optim.Adam(model.parameters()) for model in (generator, judge)]
    while True:
        fake = generator(torch.randn(256, 128, device="cuda"))
        optimizers[1].zero_grad()
        (judge(torch.randn(256, 3072, device="cuda")).mean() - judge(fake.detach()).mean()).backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        judge(fake).mean().backward()
        optimizers[0].step()
        yield
