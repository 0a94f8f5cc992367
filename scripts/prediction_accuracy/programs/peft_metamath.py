"""Fine-tuning of Llama-3.2-3B as PEFT's MetaMathQA comparison does it, on batches of stated lengths.

The weights are loaded as transformers loads them: one block of the model's size is asked for and let go, and the
parameters then fill it. Before the training the base model reads texts of 768 tokens, four at a time.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

BATCH, READ_TOKENS, READ_BATCHES = 4, 768, 3
EMPTY_CACHE_EVERY = 10
LLAMA = {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "tie_word_embeddings": True,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "bos_token_id": 128000, "eos_token_id": 128001,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "high_freq_factor": 4.0,
        "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
    },
}  # fmt: skip


def run(*, peft: str, train: str, lengths: Sequence[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One point, "grown": the peak of reserved memory less what a first small layer had reserved.

    Args:
        peft: PEFT's configuration as JSON, `null` for full fine-tuning.
        train: the benchmark's training parameters as JSON.
        lengths: of the longest text of each batch, in tokens.
    """
    settings, adapter = json.loads(train), json.loads(peft)
    nn.Linear(1, 1).cuda()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_reserved()
    model = _with_adapter(_llama(), adapter, settings)
    optimizer = _optimizer(model, settings)
    model.eval()
    with torch.inference_mode(), model.disable_adapter() if adapter else nullcontext():
        for _ in range(READ_BATCHES):
            _read(model)
    model.train()
    stepwise = adapter and adapter["peft_type"] in ("ADALORA", "ADAMSS")
    for number, length in enumerate(lengths, 1):
        _step(model, optimizer, length, clip=settings["grad_norm_clip"])
        if stepwise:
            model.base_model.update_and_allocate(number)
        if number % EMPTY_CACHE_EVERY == 0:
            torch.cuda.empty_cache()
    yield "grown", {"reserved": torch.cuda.max_memory_reserved() - before}


def _llama() -> nn.Module:
    import transformers

    config = transformers.LlamaConfig(**LLAMA)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    weights = dict(model.named_parameters())
    block = torch.empty(sum(weight.numel() for weight in weights.values()), dtype=torch.bfloat16, device="cuda")
    del block
    for name, weight in weights.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(torch.empty_like(weight, device="cuda")))
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config, device="cuda")
    return model


def _with_adapter(model: nn.Module, adapter: dict[str, Any] | None, settings: dict[str, Any]) -> nn.Module:
    if adapter is None:
        return model
    import peft

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "adapter_config.json").write_text(json.dumps(adapter))
        config = peft.PeftConfig.from_pretrained(folder)
    return peft.get_peft_model(model, config, autocast_adapter_dtype=settings["autocast_adapter_dtype"])


def _optimizer(model: nn.Module, settings: dict[str, Any]) -> torch.optim.Optimizer:
    kind, options = settings["optimizer_type"], settings["optimizer_kwargs"]
    if kind == "lora-fa":
        from peft.optimizers import create_lorafa_optimizer

        return create_lorafa_optimizer(model, **options)
    return getattr(torch.optim, kind)(model.parameters(), **options)


def _read(model: nn.Module) -> None:
    tokens = torch.ones(BATCH, READ_TOKENS, dtype=torch.long).cuda()
    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    for one, target in zip(logits, tokens, strict=True):
        nn.functional.cross_entropy(one[:-1], target[1:], reduction="none")


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, length: int, *, clip: float) -> None:
    tokens = torch.ones(BATCH, length, dtype=torch.long)
    mask = tokens.clone()
    mask[-1, length - 3 :] = 0
    batch = {"input_ids": tokens.cuda(), "attention_mask": mask.cuda()}
    batch["labels"] = batch["input_ids"].clone()
    optimizer.zero_grad()
    outputs = model(**batch, num_items_in_batch=int(mask.sum()))
    outputs.loss.backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
