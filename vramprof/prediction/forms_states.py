"""Closed forms of what lives as long as the training: weights, gradients, optimizer states, and its buffers."""

from __future__ import annotations

from collections.abc import Iterator

from vramprof.prediction.case import Case
from vramprof.prediction.forms import ALWAYS, TRAINING, Moment, form
from vramprof.prediction.forms_activations import gone_with_a_layer
from vramprof.prediction.parameters import convolutions, matrices

_ZERO = "Rajbhandari et al., arXiv:1910.02054, section 5"


@form(
    "weights",
    category="weights",
    alive=ALWAYS,
    source="units of the dtype; arXiv:2305.14314 for nf4; " + _ZERO,
    formula="N_layers·B(dtype) + N_other·B(16 or 32 bit), /tp /pp, /n under ZeRO 3; experts /ep",
)
def _weights(case: Case) -> float:
    load = case.load
    size = case.matrix_parameters * load.weight_bytes + case.plain_parameters * load.plain_bytes
    if "parameters" in load.offload:
        return 2 * case.layer_parameters * load.weight_bytes  # the layer in use and the next one
    return size / (load.shards if load.zero == 3 else 1)


@form(
    "LoRA weights",
    category="weights",
    alive=TRAINING,
    source="Hu et al., arXiv:2106.09685, section 4",
    formula="r·Σ(in + out) over the targets, in the compute dtype",
)
def _adapters(case: Case) -> float:
    return case.adapters * case.trained_bytes


@form(
    "gathered weights",
    category="temporaries",
    alive=(Moment.LOSS, Moment.LOSS_BACKWARD, Moment.HEAD),
    source="torch.distributed.fsdp fully_shard: the root, and the unit in use; measured",
    formula="(V·h of embedding and head + N_layer)·B(compute) (ZeRO 3)",
)
def _gathered(case: Case) -> float:
    return _gathered_units(case, case.layer_parameters)


@form(
    "gathered weights",
    category="temporaries",
    alive=(Moment.LAST_LAYER,),
    source="torch.distributed.fsdp fully_shard: the root, the unit in use and the prefetched one",
    formula="(V·h of embedding and head + 2·N_layer)·B(compute) (ZeRO 3)",
)
def _gathered_in_backward(case: Case) -> float:
    return _gathered_units(case, 2 * case.layer_parameters)


@form(
    "gathered weights",
    category="temporaries",
    alive=(Moment.FIRST_LAYER,),
    source="torch.distributed.fsdp fully_shard: the root, the unit in use and the prefetched one",
    formula="(V·h of embedding and head + 2·N_layer)·B(compute); with two large layers, 1 (ZeRO 3)",
)
def _gathered_at_the_end(case: Case) -> float:
    return _gathered_units(case, min(2, case.large_layers - 1) * case.layer_parameters)


@form(
    "gathered weights",
    category="temporaries",
    alive=(Moment.EMBEDDING,),
    source="torch.distributed.fsdp fully_shard: the root",
    formula="V·h·B(compute) of embedding and head (ZeRO 3)",
)
def _gathered_root(case: Case) -> float:
    return _gathered_units(case, 0)


def _gathered_units(case: Case, layers: float) -> float:
    root = (case.parameters.embedding + case.parameters.head) / case.load.tp
    return (root + layers) * case.load.compute_bytes if case.load.zero == 3 else 0


@form(
    "gradients",
    category="gradients",
    alive=(Moment.EMBEDDING, Moment.STEP),
    source="torch.autograd; " + _ZERO,
    formula="N_trained·B(weight), /n under ZeRO 2 and 3",
)
def _gradients(case: Case) -> float:
    return _gradient_bytes(case)


def _gradient_bytes(case: Case) -> float:
    return case.trained * case.trained_bytes / (case.load.shards if case.load.zero >= 2 else 1)


@form(
    "gradients",
    category="gradients",
    alive=(Moment.LOSS, Moment.LOSS_BACKWARD),
    source="torch.autograd",
    formula="those of earlier micro-batches: all of them where accumulate > 1, else none; GPipe: none before backward",
)
def _earlier_gradients(case: Case) -> float:
    all_forward_first = case.load.pp > 1 and case.load.schedule == "gpipe"
    return _gradient_bytes(case) if case.load.accumulate > 1 and not all_forward_first else 0


@form(
    "gradients",
    category="gradients",
    alive=(Moment.HEAD,),
    source="torch.autograd",
    formula="the head's; all where accumulate > 1",
)
def _head_gradient(case: Case) -> float:
    return _gradients_of(case, case.table)


@form(
    "gradients",
    category="gradients",
    alive=(Moment.LAST_LAYER,),
    source="torch.autograd",
    formula="the head's, and of the layer's what outweighs the activations gone by then; all where accumulate > 1",
)
def _last_gradients(case: Case) -> float:
    return _gradients_of(case, case.table + _late(case))


@form(
    "gradients",
    category="gradients",
    alive=(Moment.FIRST_LAYER,),
    source="torch.autograd; " + _ZERO,
    formula="N_trained·B(weight) less an embedding of its own and the layer; accumulate > 1: all; ZeRO 2, 3: /n",
)
def _all_but_the_embeddings(case: Case) -> float:
    own = case.table if not case.model.tied and case.first else 0
    return _gradients_of(case, case.trained - own - case.first_layer_parameters + _late(case))


def _late(case: Case) -> float:
    """Elements of a layer's gradients that come on top: they are complete when its activations are gone."""
    if case.model.family == "resnet":
        return max(_outweighing(case), default=0.0)
    return max(0, case.first_layer_parameters - gone_with_a_layer(case) / case.trained_bytes)


def _outweighing(case: Case) -> Iterator[float]:
    """Of a ResNet, from its end to each convolution: elements of gradients less those of activations gone by then."""
    own = list(convolutions(case.model))
    each = case.load.batch * case.load.compute_bytes / case.trained_bytes
    found: float = case.parameters.total - sum(one.parameters for one in own)
    for one in reversed(own):
        found += one.parameters - each * (1 if one.shortcut else 2) * one.elements
        yield max(0, found)


def _gradients_of(case: Case, elements: float) -> float:
    whole = _gradient_bytes(case)
    if case.load.accumulate > 1 or case.load.lora_rank:
        return whole
    return min(whole, elements * case.trained_bytes / (case.load.shards if case.load.zero >= 2 else 1))


@form(
    "gradient in flight",
    category="temporaries",
    alive=(Moment.HEAD,),
    source="torch.autograd, measured",
    formula="autocast: the head's gradient in 16 bit beside its fp32 copy",
)
def _cast_gradient(case: Case) -> float:
    return 2 * case.table if case.load.mixed == "amp" and not case.load.lora_rank else 0


@form(
    "gradient in flight",
    category="temporaries",
    alive=(Moment.EMBEDDING,),
    source="torch.autograd, measured",
    formula="a tied embedding's gradient, V·h·B, and its sum with the head's (autocast: added in place)",
)
def _tied_gradient(case: Case) -> float:
    tied = case.model.tied and case.model.vocab and case.first and not case.load.lora_rank
    return case.table * case.trained_bytes * (1 if case.load.mixed == "amp" else 2) if tied else 0


@form(
    "gradient in flight",
    category="temporaries",
    alive=(Moment.LAST_LAYER,),
    source="torch.autograd",
    formula="accumulate > 1: the largest tensor's gradient before it is added",
)
def _added_gradient(case: Case) -> float:
    if case.load.accumulate == 1 or case.load.lora_rank:
        return 0
    sizes = [one.elements for one in matrices(case.model) if one.count > 1]
    return max(sizes, default=0) / case.load.tp * case.trained_bytes


@form(
    "gradient buckets",
    category="temporaries",
    alive=TRAINING,
    source="torch DistributedDataParallel, ZeroRedundancyOptimizer over it; DeepSpeed's config",
    formula="DDP, ZeRO 1: N·B, a copy of all (gradient_as_bucket_view=False); ZeRO 2: 2 buckets of 5e8·2 B",
)
def _buckets(case: Case) -> float:
    load = case.load
    if load.dp * load.cp == 1 or load.zero == 3:
        return 0
    return case.trained * case.trained_bytes if load.zero <= 1 else min(2 * 5e8, 2 * case.trained) * 2


@form(
    "whole gradients before they are sharded",
    category="temporaries",
    alive=(Moment.HEAD,),
    source="torch.distributed.fsdp fully_shard, measured",
    formula="V·h·B: the root's stay whole until backward ends (ZeRO 3)",
)
def _whole_head_gradient(case: Case) -> float:
    return case.table * case.trained_bytes if case.load.zero == 3 else 0


@form(
    "whole gradients before they are sharded",
    category="temporaries",
    alive=(Moment.LAST_LAYER,),
    source="torch.distributed.fsdp fully_shard, measured",
    formula="V·h·B: the root's, and of the layer's what outweighs the activations gone by then (ZeRO 3)",
)
def _whole_layer_gradients(case: Case) -> float:
    late = max(0, case.layer_parameters * case.trained_bytes - gone_with_a_layer(case))
    return case.table * case.trained_bytes + late if case.load.zero == 3 else 0


@form(
    "whole gradients before they are sharded",
    category="temporaries",
    alive=(Moment.FIRST_LAYER,),
    source="torch.distributed.fsdp fully_shard, measured",
    formula="(V·h + N_layer)·B, and of the layer before in reduce-scatter what outweighs the activations gone by then",
)
def _two_layers_gradients(case: Case) -> float:
    layer = case.layer_parameters * case.trained_bytes
    late = max(0, layer - gone_with_a_layer(case))
    return case.table * case.trained_bytes + layer + late if case.load.zero == 3 else 0


@form(
    "whole gradients before they are sharded",
    category="temporaries",
    alive=(Moment.EMBEDDING,),
    source="torch.distributed.fsdp fully_shard, measured",
    formula="V·h·B, three times; once more than a tied embedding's own: the root's, and the copy for reduce-scatter",
)
def _whole_root_gradients(case: Case) -> float:
    root = (case.parameters.embedding + case.parameters.head) / case.load.tp
    copies = root if case.model.tied else 2 * root - case.table
    return copies * case.trained_bytes if case.load.zero == 3 else 0


def _states(case: Case) -> float:
    """Elements times bytes, before sharding."""
    load, n = case.load, case.trained
    size = 4 if load.mixed == "masters" else case.trained_bytes
    whole = {"sgd": 0, "momentum": 1, "lion": 1, "adam": 2, "adamw": 2, "adamw-fused": 2}
    if load.optimizer in whole:
        return whole[load.optimizer] * n * size
    if load.optimizer == "adam8bit":
        return 2 * n * (1 + 4 / 256)
    if load.optimizer == "muon":
        plain = 0 if load.lora_rank else case.plain_parameters
        return (n + plain) * size
    sides = sum(one.count * one.sides for one in matrices(case.model)) or case.parameters.total / 50
    return size * n / max(case.parameters.total, 1) * sides


@form(
    "optimizer states",
    category="optimizer",
    alive=ALWAYS,
    source="torch.optim; bitsandbytes (8 bit, blocks of 256); "
    "Shazeer and Stern, arXiv:1804.04235 (Adafactor); torch.optim.Muon (matrices; AdamW for the rest)",
    formula="copies·N·B: SGD 0, momentum, Lion, Muon 1, Adam 2; 8 bit 2·(1 + 4/256) B; Adafactor B·(rows + columns); "
    "ZeRO: /n",
)
def _optimizer_states(case: Case) -> float:
    return 0 if "optimizer" in case.load.offload else _states(case) / _state_shards(case)


def _state_shards(case: Case) -> int:
    return case.load.shards if case.load.zero else 1


@form(
    "fp32 masters",
    category="optimizer",
    alive=ALWAYS,
    source="Micikevicius et al., arXiv:1710.03740, section 3.1; " + _ZERO,
    formula="4·N where 16-bit weights have masters; /n under ZeRO",
)
def _masters(case: Case) -> float:
    on_card = case.load.mixed == "masters" and "optimizer" not in case.load.offload
    return 4 * case.trained / _state_shards(case) if on_card else 0


@form(
    "inside step()",
    category="temporaries",
    alive=(Moment.STEP,),
    source="torch.optim.adam _multi_tensor_adam: exp_avg_sq_sqrt; torch.optim._adafactor, _muon",
    formula="Adam, foreach: N·B(state); Adafactor: the updates of the largest tensor and the next; "
    "Muon: 4 16-bit copies of the largest matrix; fused, SGD, 8 bit: none",
)
def _inside_step(case: Case) -> float:
    load, n = case.load, case.trained / _state_shards(case)
    if "optimizer" in load.offload:
        return 0
    if load.optimizer in ("adam", "adamw"):
        return n * (4 if load.mixed == "masters" else case.trained_bytes)
    if load.optimizer == "adafactor":
        sizes: list[float] = [one.elements for one in matrices(case.model)] or [case.trained]
        pairs = [one + other for one, other in zip(sizes, [*sizes[1:], 0], strict=True)]
        return max(pairs) / case.load.tp / _state_shards(case) * case.trained_bytes
    largest = case.model.hidden * max(case.model.ffn, case.model.expert_ffn)
    return 8 * largest if load.optimizer == "muon" else 0
