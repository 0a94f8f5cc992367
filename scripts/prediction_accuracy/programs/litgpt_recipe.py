"""One of LitGPT's recipes, `finetune_full` or `finetune_lora`, on one card: its model, its loss, Fabric's bf16."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch

STEPS = 2
CHUNK = 128  # tokens for which LoRA's recipes compute logits at once
BITSANDBYTES_CUDA = "123"  # the newest that bitsandbytes 0.42.0 has; it asks for the very one of torch


def run(*, recipe: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """One point: "trained" where it fits, "out of memory" (the whole card) where it does not."""
    told = json.loads(recipe)
    if told["devices"] > 1:
        failure = {"failure": f"sharded over {told['devices']} cards: was not written for them"}
        yield from (("trained", failure), ("out of memory", failure))
        return
    _, total_bytes = torch.cuda.mem_get_info()
    try:
        _finetune(told)
    except torch.cuda.OutOfMemoryError:
        yield "out of memory", {"allocated": total_bytes}
        yield "trained", {"failure": "out of memory"}
        return
    peak_bytes = torch.cuda.max_memory_allocated()
    yield "trained", {"allocated": peak_bytes}
    yield "out of memory", {"allocated": peak_bytes}


def _finetune(recipe: dict[str, Any]) -> None:
    """Every batch is as long as the longest: that one makes the peak."""
    from litgpt.utils import chunked_cross_entropy

    fabric = _fabric(recipe["quantize"])
    model, chunks = _model(fabric, recipe)
    optimizer = fabric.setup_optimizers(_optimizer(model.parameters(), recipe))
    model.max_seq_length = recipe["tokens"]
    shape = recipe["batch"], recipe["tokens"]
    for number in range(1, STEPS * recipe["batches_per_step"] + 1):
        inputs, targets = (torch.zeros(shape, dtype=torch.long).to(fabric.device) for _ in range(2))
        logits = model(inputs, **chunks)
        if chunks:
            logits[-1] = logits[-1][..., :-1, :]
        else:
            logits = logits[..., :-1, :]
        loss = chunked_cross_entropy(logits, targets[..., 1:])
        fabric.backward(loss / recipe["batches_per_step"])
        if number % recipe["batches_per_step"] == 0:
            optimizer.step()
            optimizer.zero_grad()


def _fabric(quantize: str) -> Any:
    import lightning
    from lightning.fabric.plugins import BitsandbytesPrecision

    if not quantize:
        return lightning.Fabric(accelerator="cuda", devices=1, precision="bf16-true")
    os.environ["BNB_CUDA_VERSION"] = BITSANDBYTES_CUDA
    plugin = BitsandbytesPrecision(quantize.removeprefix("bnb."), torch.bfloat16)
    return lightning.Fabric(accelerator="cuda", devices=1, plugins=plugin)


def _model(fabric: Any, recipe: dict[str, Any]) -> tuple[Any, dict[str, int]]:
    """The model on the card, and what its forward pass is told besides the tokens."""
    from litgpt import lora, model

    kind = lora if recipe["lora"] else model
    with fabric.init_module(empty_init=False):
        made = kind.GPT(kind.Config.from_name(recipe["model"], **recipe["lora"]))
    if recipe["lora"]:
        lora.mark_only_lora_as_trainable(made)
    return fabric.setup_module(made), {"lm_head_chunk_size": CHUNK} if recipe["lora"] else {}


def _optimizer(parameters: Iterable[torch.nn.Parameter], recipe: dict[str, Any]) -> torch.optim.Optimizer:
    if not recipe["quantize"]:
        return torch.optim.AdamW(parameters, **recipe["optimizer"])
    from bitsandbytes.optim import PagedAdamW

    return PagedAdamW(parameters, **recipe["optimizer"])
