"""Judges what was held when memory ran out: changes to the program, what each saves then, and whether that is enough.

A lever is computed from the recording and not run; `vramprof diagnose --try` runs some of them. What comes after the
failing request is not in the recording: that the request fits does not say that the step does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vramprof.analyses.causes import OomFigures
from vramprof.analyses.held import Held
from vramprof.units import format_bytes

_MICRO_BATCHES = (2, 4, 8, 16, 32, 64)
_LOSS_PARTS = 8
_LEAST_PART = 50
"""A saving of less than a fiftieth of what is held is not worth a change."""
_OTHERS = r"(?!.*(?:eval|val|test|log))-{0,2}(?:[\w.-]*[-_.])?"
_BATCH = re.compile(_OTHERS + r"(?:batch(?:[-_]?size)?|bs|mbs|bsz)", re.IGNORECASE)
_SEQUENCE = re.compile(
    _OTHERS + r"(?:seq(?:uence)?(?:[-_]?len(?:gth)?)?|ctx|context|block[-_]size|length)", re.IGNORECASE
)
SAME, SMALLER, ROUNDED = "same results", "another batch", "rounded states"


@dataclass(frozen=True)
class Lever:
    """A change to the program, with the bytes it saves when memory ran out and how they were computed.

    `numerics` is SAME (up to the order of sums), SMALLER or ROUNDED. `margin_bytes` is what would be left after the
    failing request if what lay idle stays as useless as it was, negative where that is too little, and
    `most_margin_bytes` if nothing lies idle; None where the card's figures are unknown. `code` is a line to paste,
    `modules` the lists whose modules to checkpoint, `argument` the script's argument to change and what to.
    """

    name: str
    action: str
    saving_bytes: int
    how: str
    numerics: str = SAME
    code: str | None = None
    margin_bytes: int | None = None
    most_margin_bytes: int | None = None
    modules: tuple[str, ...] = ()
    argument: tuple[str, int] | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the failing request then fits; None where it depends on what lies idle, or is not known."""
        if self.margin_bytes is None or self.most_margin_bytes is None:
            return None
        return True if self.margin_bytes >= 0 else None if self.most_margin_bytes >= 0 else False


@dataclass(frozen=True, eq=False)
class Case:
    """What levers are judged by: what was held, the error's figures if there was one, and the program's command."""

    held: Held
    figures: OomFigures | None
    command: Sequence[str]
    kept_outputs_bytes: int
    old_gradients_bytes: int
    optimizer_copies_bytes: int
    world_size: int

    @property
    def missing_bytes(self) -> int | None:
        """What has to go for the request to fit, if idle bytes stay idle; None where that is not known."""
        f = self.figures
        if f is None or f.free_bytes is None:
            return None
        missing = f.tried_bytes - f.free_bytes
        if f.allowed_bytes is not None and f.reserved_bytes is not None:
            missing = max(missing, f.reserved_bytes + f.tried_bytes - f.allowed_bytes)
        return missing

    @property
    def request_bytes(self) -> int:
        """What was asked for and grows with the batch."""
        return self.figures.needed_bytes if self.figures is not None and self.held.request == "scaling" else 0


def find_levers(case: Case) -> tuple[Lever, ...]:
    """Every change worth its while, the safest first: those that fit, then those that keep the results."""
    held = case.held
    total = held.scaling_bytes + held.constant_bytes + held.unknown_bytes
    if held.unknown_bytes > total // 2:
        return ()
    found = [_judged(lever, case) for lever in _levers(case) if _is_worth_it(lever, total)]
    order = (SAME, SMALLER, ROUNDED)
    return tuple(sorted(found, key=lambda one: (_unfit(one), order.index(one.numerics))))


def _is_worth_it(lever: Lever, total_bytes: int) -> bool:
    """A smaller batch always is: it is no smaller than has to be."""
    return lever.saving_bytes > 0 and (lever.numerics == SMALLER or lever.saving_bytes > total_bytes // _LEAST_PART)


def _unfit(lever: Lever) -> int:
    return {True: 0, None: 1, False: 2}[lever.fits]


def _judged(lever: Lever, case: Case) -> Lever:
    """The lever with its margins."""
    missing = case.missing_bytes
    if missing is None or case.figures is None:
        return lever
    short = case.figures.short_bytes
    idle = 0 if short is None else max(missing - short, 0)
    margin = lever.saving_bytes - missing
    return replace(lever, margin_bytes=margin, most_margin_bytes=margin + idle)


def _levers(case: Case) -> Iterator[Lever]:
    """In the order of what they cost: nothing, then time, then more work on the program."""
    yield from _freed_early(case)
    yield from _loss(case)
    yield from _checkpointing(case)
    yield from _accumulation(case)
    yield from _offload(case)
    yield from _smaller(case, _BATCH, "batch")
    yield from _smaller(case, _SEQUENCE, "sequence")
    yield from _optimizer(case)


def _freed_early(case: Case) -> Iterator[Lever]:
    how = "measured: alive in backward, not saved for it"
    yield Lever("outputs", "drop outputs before backward", case.kept_outputs_bytes, how, code="del outputs")
    how = "measured: made before this step's forward"
    code = "optimizer.zero_grad(set_to_none=True)"
    yield Lever("gradients", "free gradients after step()", case.old_gradients_bytes, how, code=code)
    how = "measured: temporaries inside the optimizer's step"
    yield Lever("fused", "fused optimizer", case.optimizer_copies_bytes, how, code="AdamW(..., fused=True)")


def _loss(case: Case) -> Iterator[Lever]:
    held = case.held
    whole = held.loss_bytes + (case.request_bytes if held.request_in_loss else 0)
    saving = whole * (_LOSS_PARTS - 1) // _LOSS_PARTS
    how = f"measured: {format_bytes(whole)} of the loss, less one of {_LOSS_PARTS} parts"
    yield Lever("loss", f"loss in {_LOSS_PARTS} chunks of tokens", saving, how, code=f"hidden.chunk({_LOSS_PARTS})")


def _checkpointing(case: Case) -> Iterator[Lever]:
    layers = case.held.layers
    if not layers:
        return
    whole = sum(layer.held_bytes for layer in layers)
    kept = sum(layer.output_bytes for layer in layers)
    again = max(layer.held_bytes for layer in layers)
    parents = sorted({layer.path.rpartition(".")[0] for layer in layers})
    names = ", ".join(f"{parent}.*" if parent else "each layer" for parent in parents)
    how = (
        f"measured by module: {format_bytes(whole)} in {len(layers)} layers, less {format_bytes(kept)} of their outputs"
        f" and {format_bytes(again)} for the one recomputed"
    )
    yield Lever(
        "checkpointing", f"checkpoint {names}", whole - kept - again, how,
        code="x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)",
        modules=tuple(parents),
    )  # fmt: skip


def _accumulation(case: Case) -> Iterator[Lever]:
    """As few micro-batches as do; gradients then stay from one to the next."""
    held = case.held
    if not held.gradient_bytes and not held.optimizer_bytes and not held.layers:
        return
    more_gradients = max(held.weight_bytes - held.gradient_bytes, 0)
    scaling = held.scaling_bytes + case.request_bytes
    savings = {count: scaling * (count - 1) // count - more_gradients for count in _MICRO_BATCHES}
    missing = case.missing_bytes
    count = next((n for n, saving in savings.items() if missing is not None and saving >= missing), 2)
    how = f"measured: {count - 1}/{count} of the {format_bytes(scaling)} that grow with the batch"
    how += f", less {format_bytes(more_gradients)} of gradients that stay" if more_gradients else ""
    yield Lever(
        "accumulation", f"{count} micro-batches, gradients accumulated", savings[count], how,
        code=f"(loss / {count}).backward()  # step() after {count} of them",
    )  # fmt: skip


def _offload(case: Case) -> Iterator[Lever]:
    held = case.held
    if held.layers:
        again = max(layer.held_bytes for layer in held.layers)
        how = f"measured: all activations, less {format_bytes(again)} of one layer on its way"
        code = "with torch.autograd.graph.save_on_cpu(pin_memory=True):"
        yield Lever("activations-cpu", "activations to the CPU", held.activation_bytes - again, how, code=code)
    how = "measured: all of the optimizer's bytes"
    yield Lever("optimizer-cpu", "optimizer states to the CPU", held.optimizer_bytes, how)
    if case.world_size > 1:
        saving = held.optimizer_bytes * (case.world_size - 1) // case.world_size
        how = f"measured: the optimizer's bytes over {case.world_size} ranks, if each holds all of them now"
        code = "torch.distributed.optim.ZeroRedundancyOptimizer"
        yield Lever("sharded", f"optimizer states sharded over {case.world_size} ranks", saving, how, code=code)


def _smaller(case: Case, pattern: re.Pattern[str], word: str) -> Iterator[Lever]:
    """The largest batch, or sequence, for which the failing request fits, by the part that is linear in it."""
    held, figures, missing = case.held, case.figures, case.missing_bytes
    found = find_argument(case.command, pattern)
    if word == "sequence" and found is None:
        return
    scaling = held.scaling_bytes + case.request_bytes
    if figures is None or missing is None or not scaling:
        if held.scaling_bytes:
            how = "measured: half of what grows with it"
            yield Lever(word, f"half the {word}", held.scaling_bytes // 2, how, SMALLER)
        return
    ratio = 1 - missing / scaling
    spread = f", {format_bytes(held.unknown_bytes)} of unknown kind taken as constant" if held.unknown_bytes else ""
    how = f"measured: {format_bytes(scaling)} grow with it, {format_bytes(held.constant_bytes)} do not{spread}"
    if word == "sequence":
        how += "; attention without flash grows with its square"
    if ratio <= 0 or (found is not None and int(found[1] * ratio) < 1):
        return
    if found is None:
        part = int(100 * ratio) / 100
        yield Lever(word, f"{word} at most {part:.2f} times as large", round(scaling * (1 - part)), how, SMALLER)
        return
    name, value = found
    most = int(value * ratio)
    saving = round(scaling * (1 - most / value))
    yield Lever(word, f"{name} {value} -> {most} at most", saving, how, SMALLER, argument=(name, most))


def _optimizer(case: Case) -> Iterator[Lever]:
    states = case.held.narrowable_bytes
    saving = states * 3 // 4 - states // 256
    how = "formula: of fp32 states a quarter is left, and 4 bytes for each 256 of them"
    yield Lever("8bit", "8-bit optimizer states", saving, how, ROUNDED, code="bitsandbytes.optim.AdamW8bit(...)")


def find_argument(command: Sequence[str], name: re.Pattern[str]) -> tuple[str, int] | None:
    """The command's argument of such a name and its number: `--batch 8`, `--batch=8` or `batch=8`."""
    for word, after in zip(command, (*command, "")[1:], strict=True):
        key, equals, value = word.partition("=")
        value = value if equals else after
        if name.fullmatch(key) and value.isdigit() and int(value) > 0 and (equals or key.startswith("-")):
            return key, int(value)
    return None
