"""Closed forms of what the layers keep for backward, and of gradients on their way through them.

Bytes are those of one layer and one rank. They follow Hugging Face's transformers 5 in eager mode, as read off with
torch's saved-tensor hooks on the emulated device (`scripts/measure_plan`): e is the size of what goes into a matrix
product, r that of the residual stream, t = batch x seq tokens. Tensor ranks (`tp`) split what is between the
two norms; sequence parallelism splits the norms and the residual stream too: Korthikanti et al., arXiv:2205.05198.
"""

from __future__ import annotations

from collections.abc import Iterator

from vramprof.prediction.case import Case
from vramprof.prediction.forms import FORWARD, Moment, form
from vramprof.prediction.model_config import Architecture
from vramprof.prediction.parameters import convolutions

MEASURED = "saved tensors of transformers 5, on the emulated device"
_KORTHIKANTI = "Korthikanti et al., arXiv:2205.05198, section 4; " + MEASURED
_BACKWARD = (Moment.LAST_LAYER, Moment.FIRST_LAYER)


def norm_bytes(case: Case, width: int, *, stream: int) -> float:
    """A token's, for one norm: RMSNorm keeps an fp32 copy, what is normalised for its weight's gradient if that is
    trained, and 1/rms; LayerNorm its input."""
    if case.model.layer_norm:
        return stream * width + 8
    normalised = 4 if case.model.fp32_norm_output else stream
    return (4 + (0 if case.load.lora_rank else normalised)) * width + 4


def norms(case: Case) -> float:
    """Of one layer. GPT-NeoX and Phi keep the one input that attention and MLP share once."""
    kept = 1 if case.model.parallel else case.model.norms
    return case.tokens * kept * norm_bytes(case, case.model.hidden, stream=case.load.stream_bytes) / _sequence(case)


def _sequence(case: Case) -> int:
    return case.load.tp if case.load.sequence_parallel else 1


def attention(case: Case) -> float:
    """Of one layer, with its input: q, k, v, output, and the log-sum-exp or the scores."""
    model, load, e = case.model, case.load, case.load.compute_bytes
    casts = (2 if model.kv_rank else 1 if model.fused_qkv else 3) if load.mixed == "amp" else 1
    inside = _latent(case) if model.kv_rank else _heads(case)
    return case.tokens * (casts * e * model.hidden / _sequence(case) + inside / load.tp)


def _heads(case: Case) -> float:
    """A token's."""
    model, e = case.model, case.load.compute_bytes
    wide, narrow = model.heads * model.head_dim, model.kv_heads * model.head_dim
    queries = 3 * wide if model.fused_kept else 2 * wide if model.fused_qkv and e == 2 else wide
    unfused = case.load.attention == "math" or model.softcap
    keys = 2 * (wide if unfused else narrow)
    qk_norm = 0.0
    if model.qk_norm:
        qk_norm = (4 + (4 if model.fp32_norm_output else e)) * (wide + narrow) + 4 * (model.heads + model.kv_heads)
    return e * (queries + keys + wide) + qk_norm + _scores(case)


def _scores(case: Case) -> float:
    """A token's: fp32 log-sum-exp of a flash kernel, or every score of an unfused one."""
    model, e = case.model, case.load.compute_bytes
    if case.load.attention == "flash" and not model.softcap:
        return 4 * model.heads
    softmax = 4 + (e if e < 4 else 0) + (e if model.softcap else 0)
    dropout = 1 + e if case.load.dropout and model.masks else 0
    return model.heads * case.length * (softmax + dropout)


def _latent(case: Case) -> float:
    """A token's, of multi-head latent attention."""
    model, e = case.model, case.load.compute_bytes
    q = model.heads * (model.nope_dim + model.rope_dim)
    up = model.heads * (model.nope_dim + model.v_dim)
    latents = (4 + e + e) * model.q_rank + (4 + e + e) * model.kv_rank + 8
    return e * (2 * q + up + model.heads * model.v_dim) + latents + _scores(case)


def dense_mlp(case: Case) -> float:
    """Of one layer, with its input."""
    model, load, e = case.model, case.load, case.load.compute_bytes
    shared = model.norm_outputs_shared and load.mixed != "amp"
    casts = 0 if shared else 2 if load.mixed == "amp" and model.gated and not model.fused_gate_up else 1
    inside = mlp_inside(model, e, autocast=load.mixed == "amp") * model.ffn
    if load.lora_rank and load.lora_targets == "attention":  # frozen matrices need no inputs for their gradients
        casts, inside = 0, inside - e * model.ffn
    return case.tokens * (casts * e * model.hidden / _sequence(case) + inside / load.tp)


def mlp_inside(model: Architecture, e: int, *, autocast: bool) -> float:
    """Bytes for each token and unit of width."""
    if model.gated:
        return 4 * e  # gate, up, activation, product
    if model.composite_gelu:
        return 3 * 4 + 2 * e if autocast else 5 * e  # autocast computes the cube in fp32
    return 2 * e


def experts(case: Case) -> float:
    """Of one layer, with its input: rows are tokens times experts chosen. Grouped products stay fp32 under autocast."""
    model, load, e = case.model, case.load, case.load.compute_bytes
    rows = case.tokens * model.top_k
    wide = 4 if load.mixed == "amp" else e
    routed = rows * (wide * (2 * model.hidden + 4 * model.expert_ffn) + 28 + wide)
    router = case.tokens * (e * model.hidden + 4 * model.experts)
    if model.fp32_router and load.mixed != "amp" and e < 4:
        router += case.tokens * 4 * model.hidden
    shared = 0.0
    if model.shared_ffn:
        casts = 2 if load.mixed == "amp" else 0
        shared = case.tokens * (4 * e * model.shared_ffn / load.tp + casts * e * model.hidden)
    return routed / (load.tp if load.ep < load.tp else 1) + router + shared


def masks(case: Case) -> float:
    """Of one layer."""
    return case.tokens * case.model.masks * case.model.hidden / _sequence(case) if case.load.dropout else 0


def dense_layer(case: Case) -> float:
    """All that one layer without experts keeps."""
    if case.model.family in ("resnet", "parameters"):
        return 0
    return norms(case) + attention(case) + dense_mlp(case) + masks(case)


def moe_layer(case: Case) -> float:
    """All that one layer with experts keeps."""
    return norms(case) + attention(case) + experts(case) + masks(case) if case.model.moe_layers else 0


def largest_layer(case: Case) -> float:
    """That of a layer that is recomputed or the last to go."""
    return max(dense_layer(case) if case.parameters.dense_layers else 0, moe_layer(case))


def _stacks(case: Case) -> Iterator[tuple[float, str]]:
    """Layers on this rank, times the micro-batches that they hold, by kind."""
    p, held = case.parameters, case.share * case.micro_batches
    yield p.dense_layers * held, "dense"
    yield p.moe_layers * held, "moe"


def _kept(case: Case, *, dense: float, moe: float) -> float:
    """Bytes of all layers; none where they go to the host, tensor by tensor (`torch.autograd.graph.save_on_cpu`)."""
    whole = sum(count * (dense if kind == "dense" else moe) for count, kind in _stacks(case))
    return 0 if "activations" in case.load.offload else whole


def is_trained_in_layers(case: Case) -> bool:
    """Whether there are layers that keep something for backward."""
    return not case.load.inference and case.model.layers > 0


@form(
    "norms",
    category="activations",
    alive=FORWARD,
    source=_KORTHIKANTI,
    formula="t·h·(4 + r) a RMSNorm (fp32 copy, normalised), t·h·r a LayerNorm; all layers",
)
def _norms(case: Case) -> float:
    return _whole_layers(case, norms(case), norms(case))


@form(
    "attention",
    category="activations",
    alive=FORWARD,
    source=_KORTHIKANTI + "; DeepSeek-V2, arXiv:2405.04434",
    formula="t·e·(c·h + 2·a·d + 2·k·d) + 4·t·a; c = casts of the input: 1, or q, k, v each under autocast; "
    "fused q, k, v: + t·e·a·d in 16 bit; MLA: "
    "t·e·a·(3·nope + 2·rope + 2·v) + latents; unfused: + t·a·s·(4 + e)",
)
def _attention(case: Case) -> float:
    return _whole_layers(case, attention(case), attention(case))


@form(
    "MLP",
    category="activations",
    alive=FORWARD,
    source=_KORTHIKANTI + "; Shazeer, arXiv:2002.05202",
    formula="t·e·(c·h + 4·f) gated, t·e·(h + 2·f) GELU, t·e·(h + 5·f) GELU written out; layers without experts",
)
def _mlp(case: Case) -> float:
    return _whole_layers(case, dense_mlp(case), 0)


@form(
    "experts",
    category="activations",
    alive=FORWARD,
    source=MEASURED,
    formula="t·top_k·e·(2·h + 4·f_e) + t·(e·h + 4·E) + t·e·4·f_shared; routing taken as even",
)
def _experts(case: Case) -> float:
    return _whole_layers(case, 0, experts(case)) if case.model.moe_layers else 0


@form("dropout masks", category="activations", alive=FORWARD, source=_KORTHIKANTI, formula="t·h·1 B each")
def _masks(case: Case) -> float:
    return _whole_layers(case, masks(case), masks(case))


def _whole_layers(case: Case, dense: float, moe: float) -> float:
    if not is_trained_in_layers(case) or case.load.checkpointing != "none":
        return 0
    return _kept(case, dense=dense, moe=moe)


@form(
    "keys and values in the output",
    category="activations",
    alive=(Moment.LOSS,),
    source="transformers: use_cache is on by default; its DynamicCache takes rotated keys' dtype; measured",
    formula="autocast: t·2·k·d·4, all layers, until the output is dropped; else they are those that backward needs",
)
def _cached(case: Case) -> float:
    model, load = case.model, case.load
    rotated = model.causal and not model.positions and not model.kv_rank
    if load.mixed != "amp" or not rotated:
        return 0
    each = case.tokens * 2 * model.kv_heads * model.head_dim * 4 / load.tp
    return _whole_layers(case, each, each)


@form(
    "layer inputs",
    category="activations",
    alive=FORWARD,
    source="torch.utils.checkpoint; " + _KORTHIKANTI,
    formula="checkpointing: t·h·r a layer; selective: and the outputs of matrix products and attention",
)
def _inputs(case: Case) -> float:
    load, model = case.load, case.model
    if not is_trained_in_layers(case) or load.checkpointing == "none":
        return 0
    each = case.tokens * model.hidden * load.stream_bytes / _sequence(case)
    if load.checkpointing == "selective":
        wide, narrow = model.heads * model.head_dim, model.kv_heads * model.head_dim
        width = model.top_k * model.expert_ffn + model.shared_ffn if model.moe_layers else model.ffn
        outputs = 2 * wide + 2 * narrow + 2 * model.hidden + (2 if model.gated else 1) * width
        each += case.tokens * load.compute_bytes * outputs / load.tp
    return _kept(case, dense=each, moe=each)


@form(
    "one layer, recomputed",
    category="activations",
    alive=_BACKWARD,
    source="torch.utils.checkpoint",
    formula="checkpointing: all that one layer keeps",
)
def _recomputed(case: Case) -> float:
    if not is_trained_in_layers(case) or case.load.checkpointing == "none":
        return 0
    cast = case.layer_parameters - (case.parameters.experts_layer / case.load.tp if case.model.moe_layers else 0)
    return largest_layer(case) + (2 * cast if case.load.mixed == "amp" else 0)


@form(
    "one layer, the last",
    category="activations",
    alive=(Moment.FIRST_LAYER,),
    source="torch.autograd",
    formula="what the first layer keeps",
)
def _last_layer(case: Case) -> float:
    if case.model.family == "resnet" and not case.load.inference:
        first = next(convolutions(case.model))
        return case.load.batch * 2 * case.load.compute_bytes * first.elements
    if not is_trained_in_layers(case) or case.load.checkpointing != "none":
        return 0
    return dense_layer(case) if case.model.dense_layers or not case.model.moe_layers else moe_layer(case)


@form(
    "gradients of activations",
    category="temporaries",
    alive=(Moment.LAST_LAYER,),
    source="torch.autograd, measured",
    formula="t·e·(3·h + 2·f) gated, t·e·(3·h + f) else: in flight through an MLP; a convolution: 2·e·C·H·W, the last's",
)
def _in_flight(case: Case) -> float:
    return in_flight(case, -1)


@form(
    "gradients of activations",
    category="temporaries",
    alive=(Moment.FIRST_LAYER,),
    source="torch.autograd, measured",
    formula="t·e·(3·h + 2·f) gated, t·e·(3·h + f) else: in flight through an MLP; convolution: 2·e·C·H·W, the first's",
)
def _in_flight_at_the_end(case: Case) -> float:
    return in_flight(case, 0)


def gone_with_a_layer(case: Case) -> float:
    """What is alive when backward of a layer begins, and is not when the layer's gradients are complete."""
    return largest_layer(case) + in_flight(case, 0)


def in_flight(case: Case, place: int) -> float:
    """Gradients of activations on their way through one layer."""
    model, e = case.model, case.load.compute_bytes
    if model.family == "resnet" and not case.load.inference:
        return 2 * case.load.batch * e * list(convolutions(model))[place].elements
    if not is_trained_in_layers(case):
        return 0
    width = max(model.ffn if case.parameters.dense_layers else 0, model.top_k * model.expert_ffn)
    return case.tokens * e * (3 * model.hidden + (2 if model.gated else 1) * width / case.load.tp)


@form(
    "weights cast by autocast",
    category="activations",
    alive=(Moment.LOSS,),
    source="torch.autocast's cache, until autocast ends",
    formula="2·N of matrices, experts aside",
)
def _casts(case: Case) -> float:
    if case.load.mixed != "amp" or case.load.inference:
        return 0
    if case.model.family == "resnet":
        return 2 * case.on_rank
    experts = case.parameters.experts * case.share / case.load.ep
    return 2 * (case.matrix_parameters - experts + case.table * case.last)


@form(
    "weights cast by autocast",
    category="activations",
    alive=(Moment.LOSS_BACKWARD, Moment.HEAD, Moment.LAST_LAYER),
    source="torch.autograd: saved for backward",
    formula="2·N of matrices, experts aside; the head's alone where layers are recomputed",
)
def _saved_casts(case: Case) -> float:
    if case.load.checkpointing == "none":
        return _casts(case)
    return 2 * case.table * case.last if case.load.mixed == "amp" and not case.load.inference else 0
