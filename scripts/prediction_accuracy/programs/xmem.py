"""Four steps of fp32 training as xMem's experiments do them: an image classifier, or a language model from a config.

What is measured is how much NVML's figure grows from before the model is moved to the card, the context being open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

STEPS, RATE = 4, 0.001
IMAGE_PIXELS, TOKENS = 86, 128
CLASSIFIERS = {
    "VGG11": "vgg11", "VGG16": "vgg16", "VGG19": "vgg19",
    "ResNet50": "resnet50", "ResNet101": "resnet101", "ResNet152": "resnet152",
    "MobileNetV2": "mobilenet_v2", "ConvNeXtTiny": "convnext_tiny", "ConvNeXtBase": "convnext_base",
    "RegNetX400MF": "regnet_x_400mf", "RegNetY400MF": "regnet_y_400mf",
}  # fmt: skip
GPT_NEO = {
    "hidden_size": 768, "num_layers": 12, "num_heads": 12, "attention_types": [[["global", "local"], 6]],
}  # fmt: skip
OPT_350M = {
    "hidden_size": 1024, "num_hidden_layers": 24, "ffn_dim": 4096, "num_attention_heads": 16,
    "do_layer_norm_before": False, "word_embed_proj_dim": 512,
}  # fmt: skip
CEREBRAS_111M = {"n_layer": 10, "n_inner": 3072, "n_positions": 2048, "activation_function": "gelu"}
LANGUAGE_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-community/gpt2": ("GPT2", {}),
    "distilbert/distilgpt2": ("GPT2", {"n_layer": 6}),
    "cerebras/Cerebras-GPT-111M": ("GPT2", CEREBRAS_111M),
    "EleutherAI/gpt-neo-125M": ("GPTNeo", GPT_NEO),
    "facebook/opt-125m": ("OPT", {}),
    "facebook/opt-350m": ("OPT", OPT_350M),
    "T5-small": ("T5", {"decoder_start_token_id": 0}),
    "t5-base": ("T5", {"decoder_start_token_id": 0, "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}),
}


def run(*, model: str, optimizer: str, batch: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """One point: "grown" where the training fits, "out of memory" (the whole card) where it does not."""
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    train = _train_language_model if model in LANGUAGE_MODELS else _train_classifier
    try:
        train(model, getattr(torch.optim, optimizer), batch)
    except torch.cuda.OutOfMemoryError:
        yield "out of memory", {"process": total_bytes}
        yield "grown", {"failure": "out of memory"}
        return
    handed_back = torch.cuda.max_memory_reserved() - torch.cuda.memory_reserved()
    grown_bytes = free_bytes - torch.cuda.mem_get_info()[0] + handed_back
    yield "grown", {"process": grown_bytes}
    yield "out of memory", {"process": grown_bytes}


def _train_classifier(name: str, optimizer_type: Callable[..., torch.optim.Optimizer], batch: int) -> None:
    model = _classifier(name).cuda().train()
    optimizer = optimizer_type(model.parameters(), lr=RATE)
    loss_of = torch.nn.CrossEntropyLoss()
    for _ in range(STEPS):
        images = torch.zeros(batch, 3, IMAGE_PIXELS, IMAGE_PIXELS).cuda()
        labels = torch.zeros(batch, dtype=torch.long).cuda()
        outputs = model(images)
        loss = loss_of(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.max(outputs, 1)


def _train_language_model(name: str, optimizer_type: Callable[..., torch.optim.Optimizer], batch: int) -> None:
    model = _language_model(name).train()
    optimizer = optimizer_type(model.parameters(), lr=RATE)
    model.cuda()
    tokens = torch.ones(batch, TOKENS, dtype=torch.long)
    mask = tokens.clone()
    mask[0, TOKENS // 2 :] = 0  # lines differ in length, so that there is always padding
    for _ in range(STEPS):
        inputs = {"input_ids": tokens.cuda(), "attention_mask": mask.cuda(), "labels": tokens.cuda()}
        outputs = model(**inputs)
        loss = outputs.loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _classifier(name: str) -> torch.nn.Module:
    from torchvision import models
    from torchvision.models.mobilenetv3 import _mobilenet_v3_conf

    if name == "MnasNet":
        return models.MNASNet(alpha=1.0, num_classes=10)
    if name.startswith("MobeNetV3"):
        size, last_channel = name.removeprefix("MobeNetV3").lower(), {"Small": 1024, "Large": 1280}[name[9:]]
        blocks, _ = _mobilenet_v3_conf(f"mobilenet_v3_{size}")
        return models.MobileNetV3(blocks, last_channel=last_channel, num_classes=10)
    return getattr(models, CLASSIFIERS[name])(weights=None)


def _language_model(name: str) -> torch.nn.Module:
    import transformers

    family, changes = LANGUAGE_MODELS[name]
    config = getattr(transformers, f"{family}Config")(**changes)
    kind = transformers.AutoModelForSeq2SeqLM if family == "T5" else transformers.AutoModelForCausalLM
    return kind.from_config(config)
