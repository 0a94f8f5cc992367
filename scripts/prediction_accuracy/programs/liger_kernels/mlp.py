"""Feed-forward layers: gated, tiled, and a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from prediction_accuracy.programs.liger_kernels.bench import (
    DEVICE,
    Bench,
    bench,
    of_random,
    of_sum,
    on_device,
    random_input,
)
from prediction_accuracy.programs.liger_kernels.drawn import CardGenerator

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class GatedMLP(nn.Module):
    """As in Llama."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACTIVATIONS[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class RecomputedTiles(torch.autograd.Function):
    """A layer run tile by tile without a graph, and again with one in backward, as DeepSpeed does."""

    @staticmethod
    def forward(ctx: Any, layer: nn.Module, x: torch.Tensor, tiles: int, *weights: torch.Tensor) -> torch.Tensor:
        ctx.layer, ctx.tiles, ctx.unused = layer, tiles, len(weights)
        ctx.save_for_backward(x)
        parts = list(torch.chunk(x, chunks=tiles, dim=-2))
        with torch.no_grad():
            done = [layer(part) for part in parts]
        return torch.cat(done, dim=-2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_(True)
        shape = x.shape
        x = x.view(-1, shape[-1])
        gradient = gradients[0].view(-1, shape[-1])
        x_gradient = torch.zeros_like(x)
        parts = list(torch.chunk(x, chunks=ctx.tiles, dim=0))
        for number, part in enumerate(parts):
            part.requires_grad_(True)
            start, length = number * parts[0].shape[0], part.shape[0]
            part.grad = x_gradient.narrow(0, start, length).view_as(part)
            wanted = gradient.narrow(0, start, length).view_as(part)
            with torch.enable_grad():
                out = ctx.layer(part)
            torch.autograd.backward(out, wanted)
        return (None, x_gradient.view(shape), None, *[None] * ctx.unused)


class TiledMLP(nn.Module):
    """A gated layer by tiles."""

    def __init__(self, config: Any, tiles: int) -> None:
        super().__init__()
        self.mlp = GatedMLP(config)
        self.tiles = tiles

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return RecomputedTiles.apply(self.mlp, x, self.tiles)


@bench("geglu", "swiglu", "tiled_geglu", "tiled_swiglu")
def gated(
    provider: str,
    x: int,
    *,
    hidden_size: int,
    intermediate_size: int,
    hidden_act: str,
    dtype: torch.dtype,
    bsz: int = 0,
    b: int = 0,
    num_shards: int = 0,
    activation_type: str = "",
) -> Bench:
    config = SimpleNamespace(
        hidden_size=hidden_size, intermediate_size=intermediate_size, hidden_act=hidden_act, pretraining_tp=1
    )
    states = random_input(bsz or b, x, hidden_size, dtype=dtype)
    layer = on_device(_gated_layer(provider, config, num_shards), dtype)
    return Bench(lambda: layer(states), of_random)


def _gated_layer(provider: str, config: Any, tiles: int) -> nn.Module:
    swiglu = config.hidden_act == "silu"
    if provider == "liger":
        from liger_kernel.transformers.geglu import LigerGEGLUMLP
        from liger_kernel.transformers.swiglu import LigerSwiGLUMLP

        return (LigerSwiGLUMLP if swiglu else LigerGEGLUMLP)(config=config)
    if provider == "liger_tiled":
        from liger_kernel.transformers.tiled_mlp import LigerTiledGEGLUMLP, LigerTiledSwiGLUMLP

        return (LigerTiledSwiGLUMLP if swiglu else LigerTiledGEGLUMLP)(config=config, num_shards=tiles)
    return TiledMLP(config, tiles) if provider == "deepspeed_tiled" else GatedMLP(config)


@bench("megatron_swiglu")
def megatron_swiglu(provider: str, x: int, *, s: int, b: int) -> Bench:
    layer = _megatron_swiglu(provider)
    states = random_input(s, b, 2 * x, dtype=torch.bfloat16)

    def forward() -> torch.Tensor:
        states.grad = None
        return layer(states)

    return Bench(forward, of_sum)


def _megatron_swiglu(provider: str) -> Callable[[torch.Tensor], torch.Tensor]:
    if provider == "megatron":
        from megatron.core.fusions.fused_bias_swiglu import bias_swiglu_impl

        return lambda y: bias_swiglu_impl(y, None, False, False)
    if provider == "torch":
        return _chunked_swiglu
    from liger_kernel.megatron import LigerMegatronSwiGLU

    module = LigerMegatronSwiGLU(in_place=True) if provider == "liger_in_place" else LigerMegatronSwiGLU()
    return lambda y: module(y, None, False, False)


def _chunked_swiglu(y: torch.Tensor) -> torch.Tensor:
    gate, up = torch.chunk(y, 2, -1)
    return F.silu(gate) * up


@bench("fused_moe")
def fused_moe(
    provider: str,
    x: int,
    *,
    sweep_dim: str,
    t: int | None,
    e: int | None,
    h: int,
    intermediate_dim: int,
    k: int,
    dtype: torch.dtype,
) -> Bench:
    """The router's choices are those that the card would have drawn: they size everything in the loop over experts."""
    tokens, experts = (x, e) if sweep_dim == "T" else (t, x)
    tokens, experts = int(tokens or 0), int(experts or 0)
    states = random_input(tokens, h, dtype=dtype)
    gate_up = random_input(experts, 2 * intermediate_dim, h, dtype=dtype) * 0.02
    down = random_input(experts, h, intermediate_dim, dtype=dtype) * 0.02
    logits = torch.randn(tokens, experts, device=DEVICE)
    generator = CardGenerator(42)
    for earlier in (states, gate_up, down):
        generator.skip(earlier.numel())
    drawn = torch.topk(generator.normal(tokens, experts), k, dim=-1).indices
    chosen = drawn.to(DEVICE).to(torch.int32)
    weights = torch.softmax(torch.gather(logits, 1, chosen.long()), dim=-1).to(dtype).requires_grad_(True)
    del logits
    if provider == "liger":
        from liger_kernel.ops.fused_moe import LigerFusedMoEFunction

        return Bench(lambda: LigerFusedMoEFunction.apply(states, gate_up, down, chosen, weights), of_random)
    return Bench(lambda: _expert_by_expert(states, gate_up, down, chosen, weights, drawn), of_random)


def _expert_by_expert(
    states: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    chosen: torch.Tensor,
    weights: torch.Tensor,
    drawn: torch.Tensor,
) -> torch.Tensor:
    """A loop over experts, each on its own tokens; `drawn` are the choices on the host."""
    final = torch.zeros_like(states)
    with torch.no_grad():
        mask = F.one_hot(chosen.long(), num_classes=gate_up.shape[0])
        mask = mask.permute(2, 1, 0)
    for expert in drawn.unique().tolist():
        positions, rows = torch.stack(torch.where((drawn == expert).T)).to(DEVICE)
        current = states[rows]
        gate, up = F.linear(current, gate_up[expert]).chunk(2, dim=-1)
        current = F.silu(gate) * up
        current = F.linear(current, down[expert])
        current = current * weights[rows, positions, None]
        final.index_add_(0, rows, current.to(final.dtype))
    return final
