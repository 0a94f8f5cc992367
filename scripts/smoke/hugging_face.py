"""Architectures of Hugging Face Transformers, of their true shape but small, built from configurations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from smoke.registry import program

TRANSFORMERS = ("transformers",)
SMALL = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
}


def train_text(model: Any, *, length: int = 512, **more: Any) -> Iterator[None]:
    """Three steps in bfloat16, the labels being the input."""
    import torch

    from smoke import models

    model = model.to("cuda", torch.bfloat16).train()
    ids = models.tokens(2, length)
    yield from models.train(lambda: model(input_ids=ids, labels=ids, **more).loss, model)


def causal(config: str, **changes: Any) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**{**SMALL, **changes}))


@program(subject="HF decoder", needs=TRANSFORMERS)
def llama() -> Iterator[None]:
    yield from train_text(causal("LlamaConfig", num_key_value_heads=2))


@program(subject="HF decoder", needs=TRANSFORMERS)
def llama_checkpointed() -> Iterator[None]:
    model = causal("LlamaConfig", num_key_value_heads=2, attn_implementation="eager")
    model.gradient_checkpointing_enable()
    yield from train_text(model)


@program(subject="HF decoder", needs=TRANSFORMERS)
def qwen3() -> Iterator[None]:
    yield from train_text(causal("Qwen3Config", num_key_value_heads=4, head_dim=64))


@program(subject="HF decoder", needs=TRANSFORMERS)
def mistral() -> Iterator[None]:
    yield from train_text(causal("MistralConfig", num_key_value_heads=2, sliding_window=128))


@program(subject="HF decoder", needs=TRANSFORMERS)
def gemma3() -> Iterator[None]:
    yield from train_text(causal("Gemma3TextConfig", num_key_value_heads=2, head_dim=64, sliding_window=128))


@program(subject="HF decoder", needs=TRANSFORMERS)
def gpt2() -> Iterator[None]:
    import transformers

    yield from train_text(transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=8192, n_layer=4)))


MLA = {"q_lora_rank": 256, "kv_lora_rank": 128, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64}
EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512, "first_k_dense_replace": 1}


@program(subject="HF decoder, MLA and experts", needs=TRANSFORMERS)
def deepseek_v2() -> Iterator[None]:
    yield from train_text(causal("DeepseekV2Config", **MLA, **EXPERTS, n_group=1, topk_group=1))


@program(subject="HF decoder, MLA and experts", needs=TRANSFORMERS)
def deepseek_v3() -> Iterator[None]:
    yield from train_text(causal("DeepseekV3Config", **MLA, **EXPERTS, n_group=2, topk_group=1))


@program(subject="HF decoder, experts", needs=TRANSFORMERS)
def mixtral() -> Iterator[None]:
    yield from train_text(causal("MixtralConfig", num_key_value_heads=2, num_local_experts=4))


@program(subject="HF state space", needs=TRANSFORMERS)
def mamba() -> Iterator[None]:
    yield from train_text(causal("MambaConfig", state_size=16), length=64)


@program(subject="HF encoder", needs=TRANSFORMERS)
def bert() -> Iterator[None]:
    import transformers

    yield from train_text(transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)))


@program(subject="HF encoder", needs=TRANSFORMERS)
def modernbert() -> Iterator[None]:
    import transformers

    config = transformers.ModernBertConfig(
        **SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    )
    yield from train_text(transformers.ModernBertForMaskedLM(config))


@program(subject="HF encoder-decoder", needs=TRANSFORMERS)
def t5() -> Iterator[None]:
    import transformers

    config = transformers.T5Config(vocab_size=8192, d_model=512, num_layers=4, decoder_start_token_id=0)
    yield from train_text(transformers.T5ForConditionalGeneration(config))


@program(subject="HF encoder-decoder", needs=TRANSFORMERS)
def bart() -> Iterator[None]:
    import transformers

    config = transformers.BartConfig(vocab_size=8192, d_model=512, encoder_layers=3, decoder_layers=3)
    yield from train_text(transformers.BartForConditionalGeneration(config))


def train_pictures(model: Any, side: int = 224, **more: Any) -> Iterator[None]:
    import torch

    from smoke import models

    model = model.to("cuda", torch.bfloat16).train()
    pixels = torch.randn(4, 3, side, side, dtype=torch.bfloat16, device="cuda")
    yield from models.train(lambda: model(pixel_values=pixels, **more).loss, model)


@program(subject="HF vision", needs=TRANSFORMERS)
def hf_vit() -> Iterator[None]:
    import torch
    import transformers

    model = transformers.ViTForImageClassification(transformers.ViTConfig(num_hidden_layers=4))
    yield from train_pictures(model, labels=torch.zeros(4, dtype=torch.long, device="cuda"))


@program(subject="HF vision", needs=TRANSFORMERS)
def segformer() -> Iterator[None]:
    import torch
    import transformers

    model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=10))
    yield from train_pictures(model, labels=torch.zeros(4, 224, 224, dtype=torch.long, device="cuda"))


@program(subject="HF vision", needs=TRANSFORMERS)
def clip() -> Iterator[None]:
    import transformers

    from smoke import models

    model = transformers.CLIPModel(transformers.CLIPConfig())
    ids = models.tokens(4, 32)
    yield from train_pictures(model, input_ids=ids, return_loss=True)


@program(subject="HF speech", needs=TRANSFORMERS)
def whisper() -> Iterator[None]:
    import torch
    import transformers

    from smoke import models

    config = transformers.WhisperConfig(
        vocab_size=8192, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1
    )
    model = transformers.WhisperForConditionalGeneration(config).to("cuda", torch.bfloat16)
    sound = torch.randn(2, 80, 3000, dtype=torch.bfloat16, device="cuda")
    ids = models.tokens(2, 64)
    yield from models.train(lambda: model(input_features=sound, labels=ids).loss, model)


@program(subject="HF speech", needs=TRANSFORMERS)
def wav2vec2() -> Iterator[None]:
    """Connectionist temporal classification, through cuDNN or torch's own kernel."""
    import torch
    import transformers

    from smoke import models

    config = transformers.Wav2Vec2Config(num_hidden_layers=4, apply_spec_augment=False, ctc_loss_reduction="mean")
    model = transformers.Wav2Vec2ForCTC(config).cuda().train()
    sound = torch.randn(2, 16000, device="cuda")
    labels = models.tokens(2, 12, vocabulary=31) + 1
    yield from models.train(lambda: model(sound, labels=labels).loss, model)
