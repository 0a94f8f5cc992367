"""What is done with a model, and on how many ranks; refuses what no machine could do, in one line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vramprof.errors import PlanError

BYTES = {
    "fp32": 4.0, "tf32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5, "nf4": 0.5 + 4 / 64,
}  # fmt: skip
"""Of one weight. tf32 is fp32 in memory. nf4: an fp32 scale for each 64, QLoRA, arXiv:2305.14314, section 3."""
QUANTISED = ("fp8", "int8", "int4", "nf4")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "adamw-fused", "adam8bit", "adafactor", "muon", "lion")
CHOICES = {
    "dtype": tuple(BYTES),
    "mixed": ("none", "amp", "masters"),
    "optimizer": OPTIMIZERS,
    "checkpointing": ("none", "selective", "full"),
    "attention": ("flash", "math"),
    "schedule": ("gpipe", "1f1b", "interleaved"),
    "lora_targets": ("attention", "all"),
}
OFFLOADS = ("optimizer", "parameters", "activations")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One rank's share is planned, of `ranks` in all.

    Args:
        batch: sequences (or images) of one micro-batch on one rank.
        seq: tokens of a sequence (2048, or as many as there are learned positions); what it can grow to, in inference.
        dtype: of the weights, and of what is computed unless `mixed` says otherwise.
        mixed: "amp" is autocast to bf16 over fp32 weights; "masters" are fp32 copies of 16-bit weights.
        accumulate: micro-batches before a step.
        zero: 0 is plain data parallelism, 3 what FSDP does.
        mean_seq: tokens that a sequence has on average, where a server packs them (paged cache); 0 reserves `seq` each.
        lora_rank: 0 trains all weights.
    """

    batch: int = 1
    seq: int = 2048
    dtype: str = "bf16"
    mixed: str = "none"
    optimizer: str = "adamw"
    accumulate: int = 1
    checkpointing: str = "none"
    attention: str = "flash"
    dropout: bool = True
    zero: int = 0
    dp: int = 1
    tp: int = 1
    sequence_parallel: bool = False
    pp: int = 1
    schedule: str = "1f1b"
    cp: int = 1
    ep: int = 1
    offload: tuple[str, ...] = ()
    sparse: bool = False
    lora_rank: int = 0
    lora_targets: str = "attention"
    inference: bool = False
    mean_seq: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "seq", "accumulate", "dp", "tp", "pp", "cp", "ep"):
            _whole(name, getattr(self, name), least=1)
        for name in ("zero", "lora_rank", "mean_seq"):
            _whole(name, getattr(self, name), least=0)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise PlanError(f"{name}: {getattr(self, name)!r} is none of {', '.join(known)}")
        for one in self.offload:
            if one not in OFFLOADS:
                raise PlanError(f"offload: {one!r} is none of {', '.join(OFFLOADS)}")
        for wrong, why in self._impossible():
            if wrong:
                raise PlanError(why)

    def _impossible(self) -> list[tuple[bool, str]]:
        training = not self.inference
        return [
            (self.zero > 3, f"zero: {self.zero} is none of 0, 1, 2, 3"),
            (training and self.dtype in QUANTISED and not self.lora_rank,
             f"{self.dtype} weights are not trained: add --lora-rank, or --inference, or train in bf16"),
            (self.mixed == "amp" and self.dtype not in ("fp32", "tf32"),
             f"autocast keeps fp32 weights: --mixed amp needs --dtype fp32, not {self.dtype}"),
            (self.mixed == "masters" and self.dtype not in ("bf16", "fp16"),
             f"fp32 masters belong to 16-bit weights: --mixed masters needs --dtype bf16 or fp16, not {self.dtype}"),
            (self.sequence_parallel and self.tp == 1, "sequence parallelism splits over tensor ranks: give --tp, too"),
            (self.zero > 0 and self.dp * self.cp == 1, f"ZeRO {self.zero} shards over data ranks: give --dp 2 or more"),
            (self.zero > 1 and self.pp > 1, f"ZeRO {self.zero} does not go with a pipeline: gradients of micro-batches"
             " add up on every rank; use --zero 1"),
            (self.inference and self.zero in (1, 2), "inference has no gradients or states to shard: use --tp"),
            (self.ep > self.dp * self.tp * self.cp, f"experts over {self.ep} ranks, but only"
             f" {self.dp * self.tp * self.cp} hold the same layers"),
            (self.seq % self.cp != 0, f"seq {self.seq} is no multiple of cp {self.cp}"),
            (self.mean_seq > self.seq, f"mean_seq {self.mean_seq} is above seq {self.seq}"),
            (self.mean_seq > 0 and training, "mean_seq is for --inference"),
            (self.inference and self.lora_rank > 0 and self.dtype == "int4", "int4 weights take no LoRA: use nf4"),
        ]  # fmt: skip

    @property
    def ranks(self) -> int:
        """GPUs in all."""
        return self.dp * self.tp * self.pp * self.cp

    @property
    def shards(self) -> int:
        """Ranks that ZeRO shards over."""
        return self.dp * self.cp

    @property
    def weight_bytes(self) -> float:
        """Of one weight that is quantised if any is; 2:4 keeps half of them and 2 bits of index for each kept."""
        size = BYTES[self.dtype]
        return size / 2 + 1 / 8 if self.sparse else size

    @property
    def plain_bytes(self) -> float:
        """Of one weight that quantisers leave alone: embeddings, norms, head."""
        return 2.0 if self.dtype in QUANTISED else BYTES[self.dtype]

    @property
    def compute_bytes(self) -> int:
        """Of what goes into a matrix product."""
        return 4 if self.dtype in ("fp32", "tf32") and self.mixed != "amp" else 2

    @property
    def stream_bytes(self) -> int:
        """Of the residual stream: fp32 under autocast, whose embeddings are not cast."""
        return 4 if self.mixed == "amp" else self.compute_bytes

    @property
    def in_flight(self) -> float:
        """Micro-batches whose activations the first stage holds: Narayanan et al., arXiv:2104.04473, section 2.2."""
        if self.pp == 1:
            return 1.0
        if self.schedule == "gpipe":
            return float(max(self.accumulate, self.pp))
        return self.pp + (self.pp - 1) / self.pp if self.schedule == "interleaved" else float(self.pp)

    def but(self, **changes: object) -> Workload:
        """With other values.

        Raises:
            PlanError: they do not go together.
        """
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def _whole(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PlanError(f"{name}: {value!r} is not a whole number of at least {least}")
