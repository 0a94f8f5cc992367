"""Turns the content of a Hugging Face `config.json` into the dimensions that memory depends on, by its `model_type`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vramprof.errors import ArchitectureError


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a model is made of. Sizes are in elements; zero where a model has no such thing."""

    name: str
    family: str
    """The `model_type` of config.json; "parameters" where nothing but their number is known."""
    source: str
    parameters_stated: int = 0
    """As published; what the closed form is checked against, or all that is known."""
    hidden: int = 0
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    ffn: int = 0
    vocab: int = 0
    positions: int = 0
    """Learned positions."""
    token_types: int = 0
    gated: bool = True
    """SwiGLU or GeGLU: three matrices; else two."""
    composite_gelu: bool = False
    """GELU written out in Python (gelu_new), each of whose steps is kept for backward."""
    layer_norm: bool = False
    """LayerNorm; else RMSNorm."""
    fp32_norm_output: bool = False
    """Gemma's RMSNorm multiplies by its weight in fp32."""
    norms: int = 2
    """A layer."""
    parallel: bool = False
    """Attention and MLP read the same input (GPT-NeoX, Phi-2)."""
    norm_outputs_shared: bool = False
    tied: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: bool = False
    fused_qkv: bool = False
    fused_gate_up: bool = False
    fused_kept: bool = False
    """Queries stay a view of the fused output, which is so kept whole (GPT-2)."""
    masks: int = 0
    """Dropout masks that a layer keeps where dropout is on."""
    softcap: bool = False
    logit_softcap: bool = False
    window: int = 0
    window_layers: int = 0
    experts: int = 0
    top_k: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    shared_gate: bool = False
    dense_layers: int = 0
    """Layers without experts."""
    router_bias: bool = False
    fp32_router: bool = False
    q_rank: int = 0
    kv_rank: int = 0
    nope_dim: int = 0
    rope_dim: int = 0
    v_dim: int = 0
    index_heads: int = 0
    index_dim: int = 0
    decoder_layers: int = 0
    buckets: int = 0
    patch: int = 0
    image: int = 0
    channels: int = 0
    classes: int = 0
    blocks: tuple[int, ...] = ()
    """Residual blocks of each of the four stages of a ResNet."""
    bottleneck: bool = False

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def causal(self) -> bool:
        """Whether it generates, and so has a KV cache."""
        return self.family not in ("bert", "vit", "resnet", "parameters")


def read_config(config: Mapping[str, Any], *, name: str, where: str) -> Architecture:
    """The architecture of the content of a `config.json`.

    Raises:
        ArchitectureError: its `model_type` is unknown, or a field is missing, or is no number above 0.
    """
    if isinstance(config.get("text_config"), Mapping):  # a multimodal model: its language model is what fills the card
        config = {**config["text_config"], "source": config.get("source", f"{where}, its text_config alone")}
    family = str(config.get("model_type", "llama" if "hidden_size" in config else ""))
    family = _ALIASES.get(family, family)
    if family not in _FAMILIES:
        near = difflib.get_close_matches(family, _FAMILIES, n=2)
        known = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(_FAMILIES)}"
        raise ArchitectureError(f"{where}: no closed form for model_type {family!r}: {known}")
    reader = _Reader(config, where)
    values = _FAMILIES[family](reader)
    stated = config.get("parameters", 0)
    return Architecture(
        name=name, family=family, source=str(config.get("source", where)), parameters_stated=int(stated), **values
    )


class _Reader:
    """Numbers out of a config, under any of the names that they go by."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._config, self.where = config, where

    def number(self, *names: str, default: int | None = None, least: int = 1) -> int:
        value = next((self._config[name] for name in names if self._config.get(name) is not None), default)
        if value is None:
            raise ArchitectureError(f"{self.where}: {names[0]} is not given")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArchitectureError(f"{self.where}: {names[0]}: {value!r} is not a whole number of at least {least}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._config.get(name)
        return default if value is None else bool(value)

    def positive(self, *names: str) -> bool:
        return any(isinstance(self._config.get(name), (int, float)) and self._config[name] > 0 for name in names)

    def names(self, name: str) -> list[Any]:
        value = self._config.get(name)
        return list(value) if isinstance(value, (list, tuple)) else []

    def text(self, name: str) -> str:
        return str(self._config.get(name) or "")


def _sizes(read: _Reader) -> dict[str, Any]:
    """What every transformer has."""
    hidden, heads = read.number("hidden_size", "n_embd", "d_model"), read.number(
        "num_attention_heads", "n_head", "num_heads"
    )  # fmt: skip
    if not read.positive("head_dim", "d_kv") and hidden % heads:
        raise ArchitectureError(f"{read.where}: hidden_size {hidden} is no multiple of {heads} heads")
    return {
        "hidden": hidden,
        "layers": read.number("num_hidden_layers", "n_layer", "num_layers"),
        "heads": heads,
        "kv_heads": read.number("num_key_value_heads", default=heads),
        "head_dim": read.number("head_dim", "d_kv", default=max(hidden // heads, 1)),
        "ffn": read.number("intermediate_size", "n_inner", "d_ff", default=4 * hidden),
        "vocab": read.number("vocab_size", default=0, least=0),
    }


def _llama(read: _Reader) -> dict[str, Any]:
    bias = read.flag("attention_bias")
    return {
        **_sizes(read), "tied": read.flag("tie_word_embeddings"), "qkv_bias": bias, "out_bias": bias,
        "mlp_bias": read.flag("mlp_bias"), **_window(read),
    }  # fmt: skip


def _window(read: _Reader) -> dict[str, Any]:
    if not read.positive("sliding_window") or not read.flag("use_sliding_window", True):
        return {}
    kinds = read.names("layer_types")
    layers = read.number("num_hidden_layers")
    pattern = read.number("sliding_window_pattern", default=1)
    sliding = kinds.count("sliding_attention") if kinds else layers if pattern == 1 else layers - layers // pattern
    return {"window": read.number("sliding_window"), "window_layers": sliding}


def _qwen2(read: _Reader) -> dict[str, Any]:
    off = {} if read.flag("use_sliding_window") else {"window": 0, "window_layers": 0}
    return {**_llama(read), "qkv_bias": True, "out_bias": False, **off}


def _qwen3(read: _Reader) -> dict[str, Any]:
    off = {} if read.flag("use_sliding_window") else {"window": 0, "window_layers": 0}
    return {**_llama(read), "qk_norm": True, **off}


def _experts(read: _Reader, **given: Any) -> dict[str, Any]:
    return {
        "experts": read.number("n_routed_experts", "num_experts", "num_local_experts"),
        "top_k": read.number("num_experts_per_tok"),
        "expert_ffn": read.number("moe_intermediate_size", "intermediate_size"),
        **given,
    }


def _deepseek(read: _Reader) -> dict[str, Any]:
    expert = read.number("moe_intermediate_size")
    second = read.text("topk_method") == "noaux_tc" or "v3" in read.text("model_type")
    return {
        **_sizes(read), "head_dim": read.number("qk_nope_head_dim") + read.number("qk_rope_head_dim"),
        **_experts(read, dense_layers=read.number("first_k_dense_replace", default=0, least=0)),
        "shared_ffn": expert * read.number("n_shared_experts", default=0, least=0),
        "q_rank": read.number("q_lora_rank", default=0, least=0), "kv_rank": read.number("kv_lora_rank"),
        "nope_dim": read.number("qk_nope_head_dim"), "rope_dim": read.number("qk_rope_head_dim"),
        "v_dim": read.number("v_head_dim"), "router_bias": second, "fp32_router": True,
        "index_heads": read.number("index_n_heads", default=0, least=0),
        "index_dim": read.number("index_head_dim", default=0, least=0),
        "tied": read.flag("tie_word_embeddings"),
    }  # fmt: skip


def _gpt2(read: _Reader) -> dict[str, Any]:
    return {
        **_sizes(read), "positions": read.number("n_positions", "n_ctx", default=1024), "gated": False,
        "composite_gelu": read.text("activation_function") in ("", "gelu_new"), "layer_norm": True,
        "tied": read.flag("tie_word_embeddings", True), "qkv_bias": True, "out_bias": True, "mlp_bias": True,
        "fused_qkv": True, "fused_kept": True, "masks": 2,
    }  # fmt: skip


def _neox(read: _Reader) -> dict[str, Any]:
    return {
        **_sizes(read), "gated": False, "layer_norm": True, "parallel": read.flag("use_parallel_residual", True),
        "tied": read.flag("tie_word_embeddings"), "qkv_bias": True, "out_bias": True, "mlp_bias": True,
        "fused_qkv": True,
    }  # fmt: skip


def _phi(read: _Reader) -> dict[str, Any]:
    return {
        **_sizes(read), "gated": False, "composite_gelu": True, "layer_norm": True, "norms": 1, "parallel": True,
        "tied": read.flag("tie_word_embeddings"), "qkv_bias": True, "out_bias": True, "mlp_bias": True,
        "head_bias": True, "norm_outputs_shared": True,
    }  # fmt: skip


def _phi3(read: _Reader) -> dict[str, Any]:
    return {**_sizes(read), "tied": read.flag("tie_word_embeddings"), "fused_qkv": True, "fused_gate_up": True}


def _gemma(read: _Reader) -> dict[str, Any]:
    return {**_llama(read), "tied": read.flag("tie_word_embeddings", True), "fp32_norm_output": True}


def _gemma2(read: _Reader) -> dict[str, Any]:
    caps = read.text("attn_logit_softcapping") != "" or read.text("model_type") == "gemma2"
    layers = read.number("num_hidden_layers")
    sliding = {"window": read.number("sliding_window", default=4096), "window_layers": (layers + 1) // 2}
    return {**_gemma(read), "norms": 4, "softcap": caps, "logit_softcap": caps, **sliding}


def _gemma3(read: _Reader) -> dict[str, Any]:
    return {**_gemma(read), "norms": 4, "qk_norm": True}


def _bert(read: _Reader) -> dict[str, Any]:
    return {
        **_sizes(read), "positions": read.number("max_position_embeddings", default=512),
        "token_types": read.number("type_vocab_size", default=2), "gated": False, "layer_norm": True, "tied": True,
        "qkv_bias": True, "out_bias": True, "mlp_bias": True, "masks": 2,
    }  # fmt: skip


def _vit(read: _Reader) -> dict[str, Any]:
    return {
        **_sizes(read), "vocab": 0, "gated": False, "layer_norm": True, "qkv_bias": True, "out_bias": True,
        "mlp_bias": True, "patch": read.number("patch_size", default=16),
        "image": read.number("image_size", default=224),
        "channels": read.number("num_channels", default=3), "classes": read.number("num_labels", default=1000),
    }  # fmt: skip


def _t5(read: _Reader) -> dict[str, Any]:
    layers = read.number("num_layers")
    return {
        **_sizes(read), "gated": "gated" in read.text("feed_forward_proj"),
        "decoder_layers": read.number("num_decoder_layers", default=layers),
        "buckets": read.number("relative_attention_num_buckets", default=32), "softcap": True,
        "tied": read.flag("tie_word_embeddings", True),
    }  # fmt: skip


def _resnet(read: _Reader) -> dict[str, Any]:
    blocks = tuple(read.names("depths"))
    if len(blocks) != 4 or not all(isinstance(count, int) and count > 0 for count in blocks):
        raise ArchitectureError(f"{read.where}: depths: a ResNet has four stages, as in [3, 4, 6, 3]")
    return {
        "blocks": blocks, "bottleneck": read.text("layer_type") != "basic", "channels": 3, "image": 224,
        "classes": read.number("num_labels", default=1000),
    }  # fmt: skip


def _stated(read: _Reader) -> dict[str, Any]:
    read.number("parameters")
    return {}


_FAMILIES = {
    "llama": _llama, "mistral": _llama, "qwen2": _qwen2, "qwen3": _qwen3, "gemma": _gemma, "gemma2": _gemma2,
    "gemma3_text": _gemma3, "phi": _phi, "phi3": _phi3, "gpt2": _gpt2, "gpt_neox": _neox,
    "mixtral": lambda read: {**_llama(read), **_experts(read)},
    "qwen3_moe": lambda read: {**_qwen3(read), **_experts(read)},
    "qwen2_moe": lambda read: {
        **_qwen2(read), **_experts(read, shared_ffn=read.number("shared_expert_intermediate_size"), shared_gate=True)
    },
    "deepseek_v2": _deepseek, "deepseek_v3": _deepseek, "deepseek_v32": _deepseek, "bert": _bert, "vit": _vit,
    "t5": _t5, "resnet": _resnet, "parameters": _stated,
}  # fmt: skip
_ALIASES = {"gemma3": "gemma3_text", "kimi_k2": "deepseek_v3"}
