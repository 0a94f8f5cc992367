"""Embeddings, norms, rotary embeddings and activations."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import nn

from prediction_accuracy.programs.liger_kernels.bench import (
    DEVICE,
    Bench,
    bench,
    of,
    of_sum,
    on_device,
    random_input,
)

Turn = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@bench("embedding")
def embedding(provider: str, x: int, *, b: int, t: int, d: int, dtype: torch.dtype) -> Bench:
    from liger_kernel.transformers.experimental.embedding import LigerEmbedding

    plain = on_device(nn.Embedding(x, d), dtype)
    liger = on_device(LigerEmbedding(x, d), dtype)
    layers = {"liger": liger, "huggingface": plain, "torch_compile": torch.compile(plain)}
    tokens = torch.randint(0, x, (b, t), device=DEVICE)
    return Bench(lambda: layers[provider](tokens), lambda out: out.backward(torch.randn_like(out)))


@bench("layer_norm")
def layer_norm(provider: str, x: int, *, m: int, dtype: torch.dtype, eps: float) -> Bench:
    from liger_kernel.transformers.layer_norm import LigerLayerNorm

    layers = {"liger": LigerLayerNorm(hidden_size=x), "huggingface": nn.LayerNorm(x, eps=eps)}
    return _of_norms(layers, provider, m, x, dtype=dtype)


@bench("rms_norm")
def rms_norm(provider: str, x: int, *, m: int, dtype: torch.dtype, eps: float) -> Bench:
    from liger_kernel.transformers.rms_norm import LigerRMSNorm

    layers = {"liger": LigerRMSNorm(hidden_size=x, eps=eps), "huggingface": RMSNorm(x, eps)}
    return _of_norms(layers, provider, m, x, dtype=dtype)


@bench("group_norm")
def group_norm(
    provider: str, x: int, *, m: int, h: int, channels_per_group: int, dtype: torch.dtype, eps: float
) -> Bench:
    from liger_kernel.transformers.group_norm import LigerGroupNorm

    groups = x // channels_per_group
    layers = {
        "liger": LigerGroupNorm(num_channels=x, num_groups=groups, eps=eps),
        "huggingface": nn.GroupNorm(num_groups=groups, num_channels=x, eps=eps),
    }
    return _of_norms(layers, provider, m, x, h, dtype=dtype)


def _of_norms(layers: dict[str, nn.Module], provider: str, *shape: int, dtype: torch.dtype) -> Bench:
    """Every layer is on the card, one of them runs; the gradient is resident."""
    for layer in layers.values():
        on_device(layer)
    x = torch.randn(*shape, dtype=dtype, device=DEVICE)
    gradient = torch.randn_like(x)
    x.requires_grad_(True)
    return Bench(lambda: layers[provider](x), of(gradient), only_full=True)


class RMSNorm(nn.Module):
    """As in Llama: in single precision, then back."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = x.dtype
        x = x.to(torch.float32)
        variance = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(variance + self.eps)
        return self.weight * x.to(dtype)


@bench("fused_add_rms_norm")
def fused_add_rms_norm(provider: str, x: int, *, m: int, dtype: torch.dtype, eps: float) -> Bench:
    from liger_kernel.transformers.fused_add_rms_norm import LigerFusedAddRMSNorm
    from liger_kernel.transformers.rms_norm import LigerRMSNorm

    layers = {
        "liger_fused_add_rms_norm": on_device(LigerFusedAddRMSNorm(hidden_size=x, eps=eps)),
        "huggingface": on_device(AddRMSNorm(x, RMSNormOfFloats(eps))),
        "liger_rms_norm": on_device(AddRMSNorm(x, LigerRMSNorm(x, eps, in_place=False))),
    }
    states, residual = (torch.randn(m, x, dtype=dtype, device=DEVICE) for _ in range(2))
    gradients = torch.randn_like(states), torch.randn_like(residual)
    states.requires_grad_(True)
    residual.requires_grad_(True)
    return Bench(
        lambda: layers[provider](states, residual),
        lambda both: torch.autograd.backward(both, gradients),
    )


class RMSNormOfFloats(nn.Module):
    """Without a weight."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(variance + self.eps)


class AddRMSNorm(nn.Module):
    """Adds the residual in single precision, then a norm; the weight is applied here."""

    def __init__(self, size: int, norm: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.norm = norm

    def forward(self, states: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = states.dtype
        states = states.to(torch.float32)
        residual = residual.to(torch.float32)
        states = states + residual
        residual = states
        states = self.norm(states)
        return self.weight * states.to(dtype), residual.to(dtype)


@bench("megatron_rms_norm")
def megatron_rms_norm(provider: str, x: int, *, s: int, b: int) -> Bench:
    """Megatron's own is `torch.nn.RMSNorm`."""
    layer = nn.RMSNorm(x, eps=1e-6)
    if provider == "liger":
        from liger_kernel.megatron import LigerMegatronRMSNorm

        config = SimpleNamespace(
            normalization="RMSNorm",
            sequence_parallel=False,
            layernorm_zero_centered_gamma=False,
            persist_layer_norm=False,
            memory_efficient_layer_norm=False,
        )
        layer = LigerMegatronRMSNorm(config=config, hidden_size=x, eps=1e-6)
    layer = on_device(layer, torch.bfloat16)
    states = random_input(s, b, x, dtype=torch.bfloat16)
    return Bench(lambda: layer(states), of_sum)


@bench("rope", "llama4_rope")
def rope(
    provider: str,
    x: int,
    *,
    kernel: str,
    dtype: torch.dtype,
    num_q_heads: int,
    num_kv_heads: int,
    hidden_size: int = 0,
    seq_len: int = 0,
) -> Bench:
    """By cosine and sine with the heads in front, or by complex numbers with the tokens in front."""
    length, size = seq_len or x, (hidden_size or x) // num_q_heads
    frequencies = _frequencies(size)
    q, k = (random_input(1, length, heads, size, dtype=dtype) for heads in (num_q_heads, num_kv_heads))
    if kernel == "rope":
        q, k = q.transpose(1, 2), k.transpose(1, 2)
    gradients = torch.randn_like(q), torch.randn_like(k)
    positions = torch.arange(length, device=DEVICE).unsqueeze(0)
    turn = (_by_cos_and_sin if kernel == "rope" else _by_complex)(provider, frequencies, positions, dtype)
    return Bench(
        lambda: (frequencies, positions, turn(q, k))[2],
        lambda out: torch.autograd.grad(out, (q, k), gradients, allow_unused=True, retain_graph=True),
    )


def _by_cos_and_sin(provider: str, frequencies: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype) -> Turn:
    cos, sin = _cos_and_sin(frequencies, positions, dtype)
    rotate: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _rotate
    if provider == "liger":
        from liger_kernel.transformers.rope import liger_rotary_pos_emb as rotate
    return lambda q, k: rotate(q, k, cos, sin, positions)


def _by_complex(provider: str, frequencies: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype) -> Turn:
    angles = _angles(frequencies, positions)
    turns = torch.polar(torch.ones_like(angles), angles) * 1.0
    rotate = _rotate_complex
    if provider == "liger":
        from liger_kernel.transformers.llama4_rope import liger_llama4_text_rotary_pos_emb as rotate
    return lambda q, k: rotate(q, k, turns)


def _frequencies(size: int) -> torch.Tensor:
    return 1.0 / (10000.0 ** (torch.arange(0, size, 2, dtype=torch.int64).float().to(DEVICE) / size))


@torch.no_grad()
def _angles(frequencies: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """By a matrix product, as in Transformers; it leaves cuBLAS's workspace behind."""
    columns = frequencies[None, :, None].float().expand(positions.shape[0], -1, 1)
    return (columns @ positions[:, None, :].float()).transpose(1, 2)


@torch.no_grad()
def _cos_and_sin(
    frequencies: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    angles = _angles(frequencies, positions)
    both = torch.cat((angles, angles), dim=-1)
    return both.cos().to(dtype), both.sin().to(dtype)


def _rotate(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return (q * cos) + (_half_turned(q) * sin), (k * cos) + (_half_turned(k) * sin)


def _half_turned(x: torch.Tensor) -> torch.Tensor:
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-second, first), dim=-1)


def _rotate_complex(q: torch.Tensor, k: torch.Tensor, turns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pairs_q = torch.view_as_complex(q.float().reshape(*q.shape[:-1], -1, 2))
    pairs_k = torch.view_as_complex(k.float().reshape(*k.shape[:-1], -1, 2))
    q_out = torch.view_as_real(pairs_q * turns[:, :, None, :]).flatten(3)
    k_out = torch.view_as_real(pairs_k * turns[:, :, None, :]).flatten(3)
    return q_out.type_as(q), k_out.type_as(k)


@bench("softmax")
def softmax(provider: str, x: int, *, m: int, dtype: torch.dtype) -> Bench:
    """One row only, whatever the table's M says."""
    layer: nn.Module = nn.Softmax(dim=-1)
    if provider == "liger":
        from liger_kernel.transformers.softmax import LigerSoftmax

        layer = LigerSoftmax()
    states = random_input(x, dtype=dtype)
    return Bench(lambda: layer(states), lambda out: out.backward(torch.ones_like(out), retain_graph=True))


@bench("relu_squared")
def relu_squared(provider: str, x: int, *, m: int, dtype: torch.dtype) -> Bench:
    """One row only, whatever the table's M says."""

    def layer(states: torch.Tensor) -> torch.Tensor:
        return torch.square(nn.functional.relu(states))

    if provider == "liger":
        from liger_kernel.transformers.relu_squared import LigerReLUSquared

        layer = LigerReLUSquared()
    states = random_input(x, dtype=dtype)
    return Bench(lambda: layer(states), lambda out: out.backward(torch.ones_like(out), retain_graph=True))


@bench("sparsemax")
def sparsemax(provider: str, x: int, *, b: int, t: int, dim: int, dtype: torch.dtype) -> Bench:
    layer: Callable[[torch.Tensor], torch.Tensor] = sparsemax_of
    if provider == "liger":
        from liger_kernel.transformers.sparsemax import LigerSparsemax

        layer = LigerSparsemax(dim=dim)
    states = torch.randn(b * t, x, dtype=dtype, device=DEVICE)
    gradient = torch.randn_like(states)
    states.requires_grad_(True)
    return Bench(lambda: layer(states), of(gradient))


def sparsemax_of(x: torch.Tensor) -> torch.Tensor:
    """Over the last dimension."""
    ordered, _ = torch.sort(x, dim=-1, descending=True)
    sums = torch.cumsum(ordered, dim=-1)
    counts = torch.arange(1, x.size(-1) + 1, device=x.device, dtype=x.dtype).view(1, -1)
    bound = 1 + counts * ordered
    support = bound > sums
    chosen = support.sum(dim=-1, keepdim=True).clamp(min=1)
    total = (ordered * support).sum(dim=-1, keepdim=True)
    tau = (total - 1) / chosen
    return torch.clamp(x - tau, min=0)
