"""Turns an architecture into the number of its parameters, part by part; the parts sum to the whole."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from vramprof.prediction.model_config import Architecture


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters. `matrix` ones take part in matrix products, and are cast under autocast."""

    embedding: int
    head: int
    """Of its own; a tied one is in `embedding`."""
    outside: int
    """Final norm, image patches and the like."""
    dense_layer: int
    moe_layer: int
    dense_layers: int
    moe_layers: int
    experts_layer: int
    """Routed experts of one layer, within `moe_layer`."""
    active: int
    """That one token passes through."""

    @property
    def total(self) -> int:
        """Every one is resident."""
        layers = self.dense_layer * self.dense_layers + self.moe_layer * self.moe_layers
        return self.embedding + self.head + self.outside + layers

    @property
    def experts(self) -> int:
        """Routed experts of all layers."""
        return self.experts_layer * self.moe_layers


@functools.cache
def count_parameters(model: Architecture) -> Parameters:
    """Of the class with its head: causal or masked language model, image classifier."""
    if model.family == "parameters":
        stated = model.parameters_stated
        return Parameters(0, 0, stated, 0, 0, 0, 0, 0, stated)
    if model.family == "resnet":
        total = sum(convolution.parameters for convolution in convolutions(model)) + _resnet_head(model)
        return Parameters(0, 0, total, 0, 0, 0, 0, 0, total)
    h = model.hidden
    norm = 2 * h if model.layer_norm else h
    attention = _latent_attention(model) if model.kv_rank else _attention(model)
    frame = attention + model.norms * norm
    dense = frame + mlp(model, model.ffn)
    experts = model.experts * 3 * h * model.expert_ffn
    router = model.experts * (h + model.router_bias) + (h if model.shared_gate else 0)
    moe = frame + experts + router + (3 * h * model.shared_ffn if model.shared_ffn else 0)
    embedding = model.vocab * h + (model.positions + model.token_types) * h
    head = 0 if model.tied or not model.vocab else model.vocab * h
    outside = norm
    dense_total, dense_layers = dense, model.layers - model.moe_layers
    if model.family == "bert":  # its norm is that of the embeddings; the head has a matrix, a norm and a bias
        outside += h * h + h + norm + model.vocab
    elif model.family == "vit":
        patches = (model.image // model.patch) ** 2
        outside += model.channels * model.patch**2 * h + h + h + (patches + 1) * h
        head = model.classes * (h + 1)
    elif model.family == "t5":
        cross = attention + h
        outside += norm + 2 * model.buckets * model.heads
        outside += (model.decoder_layers - model.layers) * dense + model.decoder_layers * cross
        dense_layers = 2 * model.layers
    if model.head_bias:
        outside += model.vocab
    total = embedding + head + outside + dense_total * dense_layers + moe * model.moe_layers
    idle = (model.experts - model.top_k) * 3 * h * model.expert_ffn * model.moe_layers if model.experts else 0
    return Parameters(
        embedding, head, outside, dense_total, moe, dense_layers, model.moe_layers, experts, total - idle
    )  # fmt: skip


def _attention(model: Architecture) -> int:
    h, wide, narrow = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
    biases = (wide + 2 * narrow if model.qkv_bias else 0) + (h if model.out_bias else 0)
    return 2 * h * wide + 2 * h * narrow + biases + (2 * model.head_dim if model.qk_norm else 0)


def _latent_attention(model: Architecture) -> int:
    """Multi-head latent attention: DeepSeek-V2, arXiv:2405.04434, section 2.1; with V3.2's indexer."""
    h, a, q, c = model.hidden, model.heads, model.q_rank, model.kv_rank
    query_dim = model.nope_dim + model.rope_dim
    queries = h * q + q + q * a * query_dim if q else h * a * query_dim
    keys = h * (c + model.rope_dim) + c + c * a * (model.nope_dim + model.v_dim)
    index = 0
    if model.index_heads:
        index = q * model.index_heads * model.index_dim + h * model.index_dim + 2 * model.index_dim
        index += h * model.index_heads
    return queries + keys + a * model.v_dim * h + index


def mlp(model: Architecture, width: int) -> int:
    """Of one MLP of that width."""
    h = model.hidden
    matrices = 3 if model.gated else 2
    return matrices * h * width + ((matrices - 1) * width + h if model.mlp_bias else 0)


@dataclass(frozen=True)
class Matrix:
    """A large tensor of weights, as transformers lays it out; experts are a stack in one tensor."""

    rows: int
    columns: int
    count: int
    stack: int = 1

    @property
    def elements(self) -> int:
        """Of one such tensor."""
        return self.rows * self.columns * self.stack

    @property
    def sides(self) -> int:
        """Rows and columns, as Adafactor keeps a number for each."""
        return (self.rows + self.columns) * self.stack


@functools.cache
def matrices(model: Architecture) -> tuple[Matrix, ...]:
    """In the order in which a model has them."""
    if not model.layers:
        return ()
    h, layers, dense = model.hidden, model.layers, model.layers - model.moe_layers
    found = [Matrix(model.vocab, h, 1)]
    found += [Matrix(rows, columns, layers) for rows, columns in _attention_shapes(model)]
    up, down = Matrix(model.ffn, h, dense), Matrix(h, model.ffn, dense)
    found += [Matrix(2 * model.ffn, h, dense), down] if model.fused_gate_up else [*[up] * (1 + model.gated), down]
    if model.moe_layers:
        wide, narrow = model.expert_ffn, model.shared_ffn
        found += [
            Matrix(2 * wide, h, model.moe_layers, model.experts),
            Matrix(h, wide, model.moe_layers, model.experts),
        ]
        found += [Matrix(narrow, h, 2 * model.moe_layers), Matrix(h, narrow, model.moe_layers)]
    found.append(Matrix(model.vocab, h, 0 if model.tied else 1))
    return tuple(one for one in found if one.elements and one.count)


def _attention_shapes(model: Architecture) -> list[tuple[int, int]]:
    h, wide, narrow = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
    if model.kv_rank:
        q = model.q_rank
        queries = [(q, h), (wide, q)] if q else [(wide, h)]
        up = (model.heads * (model.nope_dim + model.v_dim), model.kv_rank)
        return [*queries, (model.kv_rank + model.rope_dim, h), up, (h, model.heads * model.v_dim)]
    inputs = [(wide + 2 * narrow, h)] if model.fused_qkv else [(wide, h), (narrow, h), (narrow, h)]
    return [*inputs, (h, wide)]


@dataclass(frozen=True)
class Convolution:
    """One convolution with its batch norm, for images of 224 x 224."""

    inputs: int
    outputs: int
    kernel: int
    side: int
    """Height and width of what comes out."""
    shortcut: bool = False

    @property
    def parameters(self) -> int:
        """Of the convolution, without bias, and of the norm."""
        return self.inputs * self.outputs * self.kernel**2 + 2 * self.outputs

    @property
    def elements(self) -> int:
        """That come out, per image."""
        return self.outputs * self.side**2


def convolutions(model: Architecture) -> Iterator[Convolution]:
    """Of a ResNet, in order: He et al., arXiv:1512.03385, table 1; stride on the 3 x 3 as torchvision has it."""
    side, channels, expansion = model.image // 4, 64, 4 if model.bottleneck else 1
    yield Convolution(3, 64, 7, model.image // 2)
    for stage, count in enumerate(model.blocks):
        width = 64 * 2**stage
        for block in range(count):
            before, side = side, side // 2 if stage and not block else side
            if model.bottleneck:
                yield Convolution(channels, width, 1, before)
                yield Convolution(width, width, 3, side)
                yield Convolution(width, 4 * width, 1, side)
            else:
                yield Convolution(channels, width, 3, side)
                yield Convolution(width, width, 3, side)
            if not block and channels != expansion * width:
                yield Convolution(channels, expansion * width, 1, side, shortcut=True)
            channels = expansion * width


def _resnet_head(model: Architecture) -> int:
    return (512 * (4 if model.bottleneck else 1) + 1) * model.classes
