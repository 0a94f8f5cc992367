"""Closed forms of what stands outside layers: embedding, head, inputs, convolutions, logits, loss, communication."""

from __future__ import annotations

from vramprof.prediction.case import Case
from vramprof.prediction.forms import ALWAYS, FORWARD, Moment, form
from vramprof.prediction.forms_activations import MEASURED, is_trained_in_layers, norm_bytes
from vramprof.prediction.parameters import convolutions


@form(
    "embedding, final norm, head input",
    category="activations",
    alive=FORWARD,
    source=MEASURED,
    formula="t·h·(4 + r + e); BERT: and its head's, t·h·(r + 3·e)",
)
def _outside(case: Case) -> float:
    if not is_trained_in_layers(case):
        return 0
    model, load, h = case.model, case.load, case.model.hidden
    final = norm_bytes(case, h, stream=load.stream_bytes) + (load.compute_bytes * h if model.vocab else 0)
    embedding: float = (h if load.dropout and model.masks else 0) + 8
    if model.family == "bert":
        embedding += norm_bytes(case, h, stream=load.stream_bytes) + 3 * load.compute_bytes * h
    return case.tokens * (final * case.last + embedding * case.first)


@form(
    "inputs",
    category="inputs",
    alive=ALWAYS,
    source="a batch: 8-byte token numbers; an image in the dtype of the weights, and cast",
    formula="8·t, or images·C·H·W·B (autocast: and 2 B)",
)
def _batch(case: Case) -> float:
    model, load = case.model, case.load
    if model.image:
        cast = 2 if load.mixed == "amp" and not load.inference else 0
        return load.batch * model.channels * model.image**2 * (load.plain_bytes + cast)
    return 8 * case.tokens if model.layers else 0


@form(
    "convolutions",
    category="activations",
    alive=FORWARD,
    source="torchvision.models.resnet, saved tensors: measured",
    formula="Σ e·C·H·W: each convolution's output, each ReLU's, the pooled with 8-byte indices",
)
def _convolutions(case: Case) -> float:
    model, e = case.model, case.load.compute_bytes
    if model.family != "resnet" or case.load.inference:
        return 0
    own = list(convolutions(model))
    outputs = sum((1 if one.shortcut else 2) * one.elements for one in own)
    pooled = 64 * (model.image // 4) ** 2
    return case.load.batch * (e * (outputs + pooled) + 8 * pooled)


def _logits(case: Case) -> int:
    return case.tokens * case.model.vocab // case.load.tp if case.last and not case.load.inference else 0


def loss_bytes(case: Case) -> tuple[int, int, int]:
    """Of one logit: at the loss, in its backward, in the head's. Causal models compute the loss in fp32."""
    e, autocast = case.load.compute_bytes, case.load.mixed == "amp"
    if case.model.family in ("bert", "t5"):
        return (2 + 4 + 2, 2 + 4 + 4, 4) if autocast else (2 * e, 3 * e, e)
    kept = e if case.model.logit_softcap else 0
    return (8 if e == 4 else 10) + kept, 12 + kept, (4 if e == 4 else 6) + kept


@form(
    "logits and loss",
    category="temporaries",
    alive=(Moment.LOSS,),
    source="torch cross_entropy: log_softmax; " + MEASURED,
    formula="t·V·(e + 4 + 4): logits, in fp32, log-probabilities; fp32: t·V·8",
)
def _loss(case: Case) -> float:
    return _logits(case) * loss_bytes(case)[0]


@form(
    "logits and loss",
    category="temporaries",
    alive=(Moment.LOSS_BACKWARD,),
    source="torch nll_loss_backward, _log_softmax_backward",
    formula="t·V·(4 + 4 + 4): log-probabilities and two gradients",
)
def _loss_backward(case: Case) -> float:
    return _logits(case) * loss_bytes(case)[1]


@form(
    "logits and loss",
    category="temporaries",
    alive=(Moment.HEAD,),
    source="torch.autograd, measured",
    formula="t·V·(4 + e): the gradient in fp32 and cast",
)
def _logit_gradients(case: Case) -> float:
    return _logits(case) * (case.load.compute_bytes if case.load.compute_bytes == 2 else 4)


@form(
    "communication",
    category="temporaries",
    alive=(*FORWARD, Moment.FIRST_LAYER),
    source="Megatron-LM (SP, PP); ring attention, arXiv:2310.01889; DeepSpeed-MoE, arXiv:2201.05596",
    formula="SP: t·h·e gathered; PP: 2·t·h·e; CP: 2·2·t·k·d·e; EP: 2·t·top_k·h·e",
)
def _communication(case: Case) -> float:
    model, load = case.model, case.load
    if load.inference or not model.hidden:
        return 0
    each = case.tokens * load.compute_bytes
    size: float = each * model.hidden * (bool(load.sequence_parallel) + 2 * (load.pp > 1))
    size += 4 * each * model.kv_heads * model.head_dim * (load.cp > 1)
    return size + 2 * each * model.top_k * model.hidden * (load.ep > 1)
