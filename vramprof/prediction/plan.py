"""Turns a model, a card and a way of training or serving into what memory will be, by closed forms, in milliseconds.

Nothing here needs torch. The peak is not the plain sum of all terms: each form says at which moments of a step its term
is alive, and the peak is that of the moment at which the living add up to most.

Blind to: what a program does besides (outputs kept alive, copies of its own), NCCL's own buffers, cuDNN's workspaces,
and how even the routing to experts is.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vramprof.errors import PlanError
from vramprof.prediction.architecture import find_architecture
from vramprof.prediction.case import Case
from vramprof.prediction.catalog import find_gpu, gpu_names
from vramprof.prediction.forms import INFERENCE, TRAINING, Moment, all_forms
from vramprof.prediction.forms_inference import cache_bytes_per_token
from vramprof.prediction.gpu_file import Gpu
from vramprof.prediction.model_config import Architecture
from vramprof.prediction.workload import Workload

FRAGMENTATION = (1.02, 1.22)
"""Reserved over allocated memory at the peak: 5th and 90th percentile of the 67 programs of reports/smoke_models.md
that allocate more than 256 MiB; their median is 1.10."""

NEWEST_TORCH = (2, 15)
_MOST_CARDS = 1024


@dataclass(frozen=True)
class Term:
    """One term at one moment."""

    term: str
    category: str
    bytes: int
    formula: str
    source: str


@dataclass(frozen=True)
class CardFit:
    """Whether a card holds one rank, and how many cards it takes where it does not (None: more than 1024)."""

    gpu: str
    total_bytes: int
    fits: bool
    margin_bytes: int
    cards: int | None
    how: str


@dataclass(frozen=True)
class Advice:
    """A change and the bytes of one rank's peak that it saves, by the same closed forms."""

    change: str
    option: str
    saving_bytes: int


@dataclass(frozen=True)
class Plan:
    """What is PREDICTED for one rank; sizes in bytes."""

    model: Architecture
    workload: Workload
    gpu: Gpu
    gpu_name: str
    torch_version: tuple[int, int]
    parameters: int
    active_parameters: int
    cache_bytes_per_token: int
    peak_moment: Moment
    moments: Mapping[Moment, tuple[Term, ...]]
    cards: tuple[CardFit, ...]
    advice: tuple[Advice, ...]
    not_counted: tuple[str, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """Those alive at the peak, largest first."""
        return self.moments[self.peak_moment]

    @property
    def allocated_bytes(self) -> int:
        """The peak of what torch allocates."""
        return _allocated(self.terms)

    @property
    def outside_bytes(self) -> int:
        """What torch does not count."""
        return sum(term.bytes for term in self.terms if term.category == "outside")

    @property
    def reserved_bytes(self) -> tuple[int, int]:
        """The peak of what torch reserves, least and most."""
        low, high = FRAGMENTATION
        return int(low * self.allocated_bytes), int(high * self.allocated_bytes)

    @property
    def device_bytes(self) -> tuple[int, int]:
        """What the card must hold, least and most."""
        low, high = self.reserved_bytes
        return low + self.outside_bytes, high + self.outside_bytes

    @property
    def by_category(self) -> dict[str, int]:
        """Sums to `allocated_bytes`."""
        sizes: dict[str, int] = {}
        for term in self.terms:
            if term.category != "outside":
                sizes[term.category] = sizes.get(term.category, 0) + term.bytes
        return sizes

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "schema_version": 1, "origin": "predicted", "method": "closed forms", "model": self.model.name,
            "model_source": self.model.source, "parameters": self.parameters,
            "active_parameters": self.active_parameters, "cache_bytes_per_token": self.cache_bytes_per_token,
            "gpu": self.gpu_name, "gpu_total_bytes": self.gpu.total, "ranks": self.workload.ranks,
            "torch_version": "{}.{}".format(*self.torch_version), "workload": dataclasses.asdict(self.workload),
            "peak_moment": self.peak_moment.name.lower(), "peak_allocated_bytes": self.allocated_bytes,
            "peak_reserved_bytes": list(self.reserved_bytes), "outside_torch_bytes": self.outside_bytes,
            "device_bytes": list(self.device_bytes), "by_category": self.by_category,
            "moments": {
                moment.name.lower(): {
                    "allocated_bytes": _allocated(terms), "terms": [dataclasses.asdict(term) for term in terms],
                }
                for moment, terms in self.moments.items()
            },
            "cards": [dataclasses.asdict(card) for card in self.cards],
            "advice": [dataclasses.asdict(one) for one in self.advice], "not_counted": list(self.not_counted),
        }  # fmt: skip


def plan(model: str | Path | Architecture, *, gpu: str, torch_version: str | None = None, **workload: Any) -> Plan:
    """What a model's memory would be on a card, by closed forms: no GPU and no torch is needed.

    `vramprof.plan("llama-3.1-8b", gpu="h100-80gb", batch=2, seq=4096, zero=3, dp=8)`

    Args:
        model: a name of the catalog, a path to a `config.json`, `20B`, or `hidden_size=4096,num_hidden_layers=32,...`.
        gpu: a name of the catalog, or a TOML file.
        torch_version: whose workspaces; the installed one's unless given.
        workload: the fields of `Workload`: batch, seq, dtype, optimizer, zero, tp, inference ...

    Raises:
        ArchitectureError: no such model, or its config lacks a field.
        UnknownGpuError: no such card.
        PlanError: values that do not go together.
    """
    architecture = model if isinstance(model, Architecture) else find_architecture(str(model))
    unknown = set(workload) - {field.name for field in dataclasses.fields(Workload)}
    if unknown:
        raise PlanError(f"plan() has no {min(unknown)!r}: it takes {', '.join(Workload.__dataclass_fields__)}")
    if architecture.positions and "seq" not in workload:
        workload["seq"] = min(Workload.seq, architecture.positions)
    load = Workload(**workload)
    card, version = find_gpu(gpu), _version(torch_version)
    case = _worst_stage(architecture, load, card, version)
    moments = moments_of(case)
    peak = max(moments, key=lambda moment: _allocated(moments[moment]))
    return Plan(
        model=architecture, workload=load, gpu=card, gpu_name=gpu, torch_version=version,
        parameters=case.parameters.total, active_parameters=case.parameters.active,
        cache_bytes_per_token=round(cache_bytes_per_token(case)), peak_moment=peak, moments=moments,
        cards=tuple(_cards(case)), advice=tuple(_advice(case)), not_counted=tuple(_not_counted(case)),
    )  # fmt: skip


def _version(text: str | None) -> tuple[int, int]:
    if text is None:
        try:
            text = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            return NEWEST_TORCH
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        raise PlanError(f"torch_version: {text!r} is not a version such as 2.15")
    return int(match[1]), int(match[2])


def _allocated(terms: tuple[Term, ...]) -> int:
    return sum(term.bytes for term in terms if term.category != "outside")


def _worst_stage(model: Architecture, load: Workload, gpu: Gpu, version: tuple[int, int]) -> Case:
    """The pipeline's first stage holds most micro-batches, the last one the logits."""
    if load.pp == 1:
        return Case(model, load, gpu, version)
    ends = [
        Case(model, load, gpu, version, last=False),
        Case(model, load, gpu, version, first=False),
    ]
    return max(ends, key=_peak)


def moments_of(case: Case) -> dict[Moment, tuple[Term, ...]]:
    """The terms that are alive at each moment, on one rank."""
    terms: dict[Moment, list[Term]] = {moment: [] for moment in (INFERENCE if case.load.inference else TRAINING)}
    for form in all_forms().values():
        here = [moment for moment in form.alive if moment in terms]
        size = round(form.size(case)) if here else 0
        for moment in here if size else ():
            terms[moment].append(Term(form.term, form.category, size, form.formula, form.source))
    return {moment: tuple(sorted(found, key=lambda term: -term.bytes)) for moment, found in terms.items()}


def _peak(case: Case) -> int:
    """Of what torch allocates."""
    return max(map(_allocated, moments_of(case).values()))


def _cards(case: Case) -> Iterator[CardFit]:
    peaks: dict[tuple[int, int], int] = {}  # by ranks and compute capability, which decides workspaces
    for name in gpu_names():
        gpu = find_gpu(name)
        context = gpu.context[max(gpu.context)] + gpu.modules
        size, cards, how = 0, None, ""
        for count, load, words in _splits(case.load):
            key = (count, gpu.compute_capability[0])
            try:
                if key not in peaks:
                    peaks[key] = _peak(_worst_stage(case.model, load, gpu, case.torch_version))
            except PlanError:
                continue
            need = int(FRAGMENTATION[1] * peaks[key]) + context
            size = size or need
            if need <= gpu.total:
                cards, how = count, words
                break
        yield CardFit(name, gpu.total, size <= gpu.total, gpu.total - size, cards, how)


def _splits(load: Workload) -> Iterator[tuple[int, Workload, str]]:
    """As asked, then over twice as many cards, and so on."""
    yield load.ranks, load, "as asked"
    factor = 2
    while load.ranks * factor <= _MOST_CARDS:
        try:
            if load.inference:
                yield load.ranks * factor, load.but(tp=load.tp * factor), f"--tp {load.tp * factor}"
            else:
                zero = 3 if load.pp == 1 else 1
                split = load.but(zero=zero, dp=load.dp * factor)
                yield load.ranks * factor, split, f"--zero {zero} --dp {load.dp * factor}"
        except PlanError:
            pass
        factor *= 2


_TRAINING_ADVICE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("compute and keep everything in 16 bit", "--dtype bf16", {"dtype": "bf16", "mixed": "none"}),
    ("16-bit activations under autocast", "--dtype fp32 --mixed amp", {"dtype": "fp32", "mixed": "amp"}),
    ("recompute activations in backward", "--checkpointing full", {"checkpointing": "full"}),
    ("recompute what is cheap to compute", "--checkpointing selective", {"checkpointing": "selective"}),
    ("a flash kernel instead of written-out scores", "--attention flash", {"attention": "flash"}),
    ("optimizer states in 8 bit", "--optimizer adam8bit", {"optimizer": "adam8bit"}),
    ("no temporary inside step()", "--optimizer adamw-fused", {"optimizer": "adamw-fused"}),
    ("optimizer states in host memory", "--offload optimizer", {"offload": ("optimizer",)}),
    ("train adapters alone", "--lora-rank 16", {"lora_rank": 16}),
    (
        "train adapters of a 4-bit model",
        "--lora-rank 16 --dtype nf4",
        {"lora_rank": 16, "dtype": "nf4", "mixed": "none"},
    ),
    ("shard over 8 cards (FSDP)", "--zero 3 --dp 8", {"zero": 3, "dp": 8}),
)
_INFERENCE_ADVICE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("weights in 8 bit", "--dtype int8", {"dtype": "int8"}),
    ("weights in 4 bit", "--dtype nf4", {"dtype": "nf4"}),
    ("2:4 sparse weights", "--sparse", {"sparse": True}),
    ("split over two cards", "--tp 2", {"tp": 2}),
)


def _advice(case: Case) -> Iterator[Advice]:
    """What saves most stands first."""
    load, now = case.load, _peak(case)
    options = list(_INFERENCE_ADVICE if load.inference else _TRAINING_ADVICE)
    if load.batch > 1 and not load.inference:
        halved = {"batch": load.batch // 2, "accumulate": 2 * load.accumulate}
        words = f"--batch {load.batch // 2} --accumulate {2 * load.accumulate}"
        options.append(("half the micro-batch, accumulated", words, halved))
    if load.inference and not load.mean_seq and case.model.causal:
        options.append(("pages for what sequences have, not for what they could",
                        f"--mean-seq {load.seq // 2}", {"mean_seq": max(load.seq // 2, 1)}))  # fmt: skip
    found = []
    for text, option, changes in options:
        if any(name in changes and getattr(load, name) not in (1, 0, False) for name in ("dp", "tp", "lora_rank")):
            continue  # decided already
        try:
            saving = now - _peak(_worst_stage(case.model, load.but(**changes), case.gpu, case.torch_version))
        except PlanError:
            continue
        if saving > now // 100:
            found.append(Advice(text, option, saving))
    yield from sorted(found, key=lambda advice: -advice.saving_bytes)[:5]


def _not_counted(case: Case) -> Iterator[str]:
    model, load = case.model, case.load
    if model.family == "parameters":
        yield "activations: nothing but the number of parameters is known; give a config.json"
    if model.family == "resnet":
        yield "cuDNN's workspaces, up to hundreds of MiB; images are taken as 224 x 224"
    if model.family == "t5":
        yield "cross attention's activations are taken as those of one more layer's share; not checked by dry runs"
    if model.experts:
        yield "uneven routing: the busiest expert's rank needs more"
    if load.ranks > 1:
        yield "NCCL's own buffers, tens to hundreds of MiB outside torch"
    yield "outputs that the program keeps alive, and its own copies"
