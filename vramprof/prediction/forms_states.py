"""Closed forms of what lives as long as the training: weights, gradients, optimizer states, and its buffers."""

from __future__ import annotations

from vramprof.prediction.case import Case
from vramprof.prediction.forms import ALWAYS, FORWARD, TRAINING, Moment, form
from vramprof.units import MIB

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
    alive=(*FORWARD, Moment.FIRST_LAYER),
    source="torch.distributed.fsdp fully_shard: the unit in use and the prefetched one",
    formula="2·N_layer·B(compute), or the root's embedding and head where larger (ZeRO 3)",
)
def _gathered(case: Case) -> float:
    if case.load.zero != 3:
        return 0
    root = (case.parameters.embedding + case.parameters.head) / case.load.tp
    return max(2 * case.layer_parameters, root) * case.load.compute_bytes


@form(
    "gradients",
    category="gradients",
    alive=(Moment.FIRST_LAYER, Moment.STEP),
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
    formula="those of earlier micro-batches: all of them where accumulate > 1, else none",
)
def _earlier_gradients(case: Case) -> float:
    return _gradient_bytes(case) if case.load.accumulate > 1 else 0


@form(
    "gradients",
    category="gradients",
    alive=(Moment.HEAD,),
    source="torch.autograd",
    formula="those of the head and the last layer; all where accumulate > 1",
)
def _first_gradients(case: Case) -> float:
    whole = _gradient_bytes(case)
    if case.load.accumulate > 1 or case.load.lora_rank:
        return whole
    return min(whole, (case.table + case.layer_parameters) * case.trained_bytes / _gradient_shards(case))


def _gradient_shards(case: Case) -> int:
    return case.load.shards if case.load.zero >= 2 else 1


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
    alive=(Moment.FIRST_LAYER,),
    source="torch.autograd, measured",
    formula="a tied embedding's second gradient, V·h·B, before it is added to the head's",
)
def _tied_gradient(case: Case) -> float:
    tied = case.model.tied and case.first and not case.load.lora_rank
    return case.table * case.trained_bytes if tied else 0


@form(
    "gradient buckets",
    category="temporaries",
    alive=TRAINING,
    source="torch DistributedDataParallel; DeepSpeed's config",
    formula="DDP: N·B, a copy of all (gradient_as_bucket_view=False); ZeRO 1 and 2: 2 buckets of 5e8·2 B",
)
def _buckets(case: Case) -> float:
    load = case.load
    if load.dp * load.cp == 1 or load.zero == 3:
        return 0
    return case.trained * case.trained_bytes if load.zero == 0 else min(2 * 5e8, 2 * case.trained) * 2


@form(
    "reduce-scatter buffer",
    category="temporaries",
    alive=(Moment.HEAD, Moment.FIRST_LAYER),
    source="torch.distributed.fsdp fully_shard",
    formula="N_layer·B(compute): a layer's whole gradient (ZeRO 3)",
)
def _reduce_scatter(case: Case) -> float:
    return case.layer_parameters * case.load.compute_bytes if case.load.zero == 3 else 0


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
    h = max(case.model.hidden, 1)  # adafactor: a row and a column for each matrix, of which h is one side
    return 4 * n * (1 / h + h / max(case.layer_parameters / 7, h * h))


@form(
    "optimizer states",
    category="optimizer",
    alive=ALWAYS,
    source="torch.optim; bitsandbytes (8 bit, blocks of 256); "
    "Shazeer and Stern, arXiv:1804.04235 (Adafactor); torch.optim.Muon (matrices; AdamW for the rest)",
    formula="copies·N·B: SGD 0, momentum, Lion and Muon 1, Adam 2; 8 bit 2·(1 + 4/256) B; /n under ZeRO",
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
    formula="Adam, foreach: N·B(state); Adafactor: N·4; "
    "Muon: 4 16-bit copies of the largest matrix; fused, SGD, 8 bit: none",
)
def _inside_step(case: Case) -> float:
    load, n = case.load, case.trained / _state_shards(case)
    if "optimizer" in load.offload:
        return 0
    if load.optimizer in ("adam", "adamw"):
        return n * (4 if load.mixed == "masters" else case.trained_bytes)
    if load.optimizer == "adafactor":
        return 4 * n
    largest = case.model.hidden * max(case.model.ffn, case.model.expert_ffn)
    return 8 * largest if load.optimizer == "muon" else 0


@form(
    "cuBLAS workspace",
    category="workspaces",
    alive=(*FORWARD, Moment.FIRST_LAYER, Moment.PREFILL, Moment.DECODE),
    source="torch CublasHandlePool.cpp; released after each call from torch 2.15 on (pytorch#194311)",
    formula="before torch 2.15: 2 of 8.125 MiB, of 32 MiB from compute capability 9 on",
)
def _cublas(case: Case) -> float:
    if case.torch_version >= (2, 15):
        return 0
    one = 32 * MIB if case.gpu.compute_capability[0] in (9, 10, 12) else 8_519_680
    return one if case.load.inference else 2 * one


@form(
    "allocator rounding",
    category="unattributed",
    alive=ALWAYS,
    source="c10/cuda/CUDACachingAllocator.cpp: kMinBlockSize, kSmallSize",
    formula="256 B for each of about 12 tensors a layer and state",
)
def _rounding(case: Case) -> float:
    return 256 * 12 * case.layers * (1 if case.load.inference else 4)


@form(
    "CUDA context",
    category="outside",
    alive=ALWAYS,
    source="the catalog: `vramprof gpus NAME`",
    formula="context + modules of the card",
)
def _context(case: Case) -> float:
    context = case.gpu.context
    return context[max(context)] + case.gpu.modules
