"""A model, a workload and a card, and what all closed forms derive from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vramprof.errors import PlanError
from vramprof.prediction.gpu_file import Gpu
from vramprof.prediction.model_config import Architecture
from vramprof.prediction.parameters import Parameters, count_parameters
from vramprof.prediction.workload import Workload


@dataclass(frozen=True)
class Case:
    """One rank of a workload. `stage` is the pipeline's first or last; both where there is one."""

    model: Architecture
    load: Workload
    gpu: Gpu
    torch_version: tuple[int, int]
    first: bool = True
    last: bool = True

    def __post_init__(self) -> None:
        model, load = self.model, self.load
        for wrong, why in (
            (load.pp > max(model.layers, 1), f"{load.pp} pipeline stages for {model.layers} layers"),
            (model.heads and model.heads % load.tp, f"{model.heads} heads do not split over tp {load.tp}"),
            (load.ep > 1 and not model.experts, f"{model.name} has no experts to spread over ep {load.ep}"),
            (model.experts and model.experts % load.ep, f"{model.experts} experts do not split over ep {load.ep}"),
            (model.positions and load.seq > model.positions,
             f"{model.name} has {model.positions} learned positions: seq {load.seq} is above"),
            (load.inference and model.family in ("vit", "resnet", "bert") and load.mean_seq,
             f"{model.name} has no KV cache to page"),
            (load.lora_rank and not model.layers, f"{model.name}: LoRA needs the layers, and only their sum is known"),
        ):  # fmt: skip
            if wrong:
                raise PlanError(why)

    @property
    def parameters(self) -> Parameters:
        """Of the whole model."""
        return count_parameters(self.model)

    @property
    def tokens(self) -> int:
        """On this rank in one micro-batch."""
        model, load = self.model, self.load
        if model.family == "vit":
            return load.batch * ((model.image // model.patch) ** 2 + 1)
        return load.batch * load.seq // load.cp

    @property
    def length(self) -> int:
        """Of one sequence."""
        return (self.model.image // self.model.patch) ** 2 + 1 if self.model.family == "vit" else self.load.seq

    @property
    def share(self) -> float:
        """Of the layers, on this rank."""
        layers = self.model.layers
        return math.ceil(layers / self.load.pp) / layers if layers else 1.0

    @property
    def micro_batches(self) -> float:
        """Whose activations this stage holds at the same time; one forward and one backward: the last holds one."""
        return self.load.in_flight if self.first or self.load.schedule == "gpipe" else 1.0

    @property
    def layers(self) -> float:
        """On this rank, those of a decoder behind an encoder too."""
        return (self.parameters.dense_layers + self.parameters.moe_layers) * self.share

    @property
    def matrix_parameters(self) -> float:
        """On this rank, in layers: what quantisers touch, and LoRA freezes."""
        p = self.parameters
        experts = p.experts * self.share / self.load.ep
        experts /= self.load.tp if self.load.ep < self.load.tp else 1
        return (
            p.dense_layer * p.dense_layers + p.moe_layer * p.moe_layers - p.experts
        ) * self.share / self.load.tp + experts

    @property
    def plain_parameters(self) -> float:
        """On this rank: embeddings, head and what stands outside layers."""
        p = self.parameters
        tied_twice = self.model.tied and self.load.pp > 1 and self.last and not self.first
        embedding = p.embedding if self.first or tied_twice else 0
        outside = p.outside * self.share if self.model.family in ("parameters", "resnet") else p.outside * self.last
        return (embedding + (p.head if self.last else 0)) / self.load.tp + outside / (
            self.load.tp if self.model.family == "parameters" else 1
        )

    @property
    def on_rank(self) -> float:
        """Parameters, before ZeRO."""
        return self.matrix_parameters + self.plain_parameters

    @property
    def adapters(self) -> float:
        """LoRA's parameters on this rank: two thin matrices a target, Hu et al., arXiv:2106.09685."""
        load, model = self.load, self.model
        if not load.lora_rank:
            return 0
        h, wide, narrow = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
        ends = [h + wide, h + narrow, h + narrow, wide + h]
        if load.lora_targets == "all":
            ends += [h + model.ffn] * (3 if model.gated else 2)
        return load.lora_rank * sum(ends) * self.layers / load.tp

    @property
    def trained(self) -> float:
        """Parameters that get a gradient, on this rank before ZeRO."""
        if self.load.inference:
            return 0
        return self.adapters if self.load.lora_rank else self.on_rank

    @property
    def trained_bytes(self) -> float:
        """Of one of them."""
        return self.load.plain_bytes

    @property
    def table(self) -> int:
        """Elements of the matrix that logits come from, on this rank."""
        return self.model.vocab * self.model.hidden // self.load.tp

    @property
    def layer_parameters(self) -> float:
        """Of the largest layer, on this rank."""
        return (
            max(self.parameters.dense_layer, self.parameters.moe_layer if self.model.moe_layers else 0) / self.load.tp
        )

    @property
    def first_layer_parameters(self) -> float:
        """Of the first layer, which often has no experts where others have."""
        p = self.parameters
        return p.dense_layer / self.load.tp if p.dense_layers else self.layer_parameters

    @property
    def large_layers(self) -> float:
        """How many layers on this rank are as large as the largest."""
        return (self.parameters.moe_layers or self.parameters.dense_layers) * self.share
