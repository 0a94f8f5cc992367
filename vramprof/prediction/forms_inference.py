"""Closed forms of serving: the KV cache, and what a prefill or a decoding step needs besides."""

from __future__ import annotations

import math

from vramprof.prediction.case import Case
from vramprof.prediction.forms import INFERENCE, Moment, form

PAGE_TOKENS = 16
"""vLLM's block."""


def cache_bytes_per_token(case: Case) -> float:
    """On this rank, with no sliding window: two vectors a KV head and layer, or MLA's one latent.

    A KV head is not split further than one a rank, and a latent is on every tensor rank.
    """
    model, size = case.model, case.load.compute_bytes
    if not model.causal:
        return 0
    layers = math.ceil(model.layers / case.load.pp)
    if model.kv_rank:
        return float(layers * (model.kv_rank + model.rope_dim + model.index_dim * bool(model.index_heads)) * size)
    return 2.0 * layers * math.ceil(model.kv_heads / case.load.tp) * model.head_dim * size


def cached_tokens(case: Case) -> float:
    """Of all sequences: each at its longest, or at the average in whole pages; less what windows drop."""
    load, model = case.load, case.model
    length = math.ceil(load.mean_seq / PAGE_TOKENS) * PAGE_TOKENS if load.mean_seq else load.seq
    length = math.ceil(length / load.cp)
    if not model.window or length <= model.window or not model.layers:
        return load.batch * length
    sliding = min(model.window_layers, model.layers) / model.layers
    return load.batch * (sliding * model.window + (1 - sliding) * length)


@form(
    "KV cache",
    category="activations",
    alive=INFERENCE,
    source="Shazeer, arXiv:1911.02150; MLA: DeepSeek-V2, arXiv:2405.04434, table 1; pages: vLLM, arXiv:2309.06180",
    formula="tokens·2·L·k·d·B, MLA tokens·L·(c + rope)·B; dynamic batches: average length, in pages of 16",
)
def _cache(case: Case) -> float:
    return cached_tokens(case) * cache_bytes_per_token(case) if case.load.inference else 0


@form(
    "activations",
    category="activations",
    alive=(Moment.PREFILL,),
    source="one layer at a time, no gradients: transformers 5 on the emulated device",
    formula="t·e·(4·h + 3·f) gated, t·e·(4·h + 2·f) else, 4·f where GELU is written out; experts: t·e·(4·h + "
    "top_k·(2·h + 4·f_e) + 4·f_shared); unfused attention: + t·a·s·(4 + 2·e)",
)
def _prefill(case: Case) -> float:
    model, e = case.model, case.load.compute_bytes
    if not case.load.inference:
        return 0
    dense = (3 if model.gated else 4 if model.composite_gelu else 2) * model.ffn if case.parameters.dense_layers else 0
    experts = model.top_k * (2 * model.hidden + 4 * model.expert_ffn) + 4 * model.shared_ffn
    scores = model.heads * case.length * (4 + 2 * e) if case.load.attention == "math" or model.softcap else 0
    return case.tokens * (e * (4 * model.hidden + max(dense, experts) / case.load.tp) + scores / case.load.tp)


@form(
    "logits",
    category="activations",
    alive=INFERENCE,
    source="transformers' generate: those of the last token, and in fp32",
    formula="batch·V·(e + 4)",
)
def _last_logits(case: Case) -> float:
    return (
        case.load.batch * case.model.vocab * (case.load.compute_bytes + 4) / case.load.tp if case.load.inference else 0
    )


@form(
    "a layer's cache, copied",
    category="temporaries",
    alive=(Moment.DECODE,),
    source="transformers' DynamicCache: torch.cat",
    formula="KV cache / L, where it is not paged",
)
def _copied(case: Case) -> float:
    paged = case.load.mean_seq or not case.load.inference or not case.model.layers
    return (
        0 if paged else cached_tokens(case) * cache_bytes_per_token(case) / math.ceil(case.model.layers / case.load.pp)
    )
