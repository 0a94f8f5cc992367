"""Turns a diagnosis into one screen for a terminal, or into plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from vramprof.analyses.causes import Cause, CauseKind, OomFigures
from vramprof.analyses.frames import users_frame
from vramprof.analyses.oom_state import OomState
from vramprof.findings.diagnosis import HARDWARE_RISK, Diagnosis, OomCase, Trial
from vramprof.renderers.console import place_of, table_of, text_of
from vramprof.renderers.fragments import free_words, pin_dicts, pin_table, segment_map
from vramprof.units import format_bytes

_MOST_CASES = 5
_MOST_TRIALS = 6
_BAR = 60
_PARTS = (("held by tensors", "red"), ("idle in torch", "yellow"), ("outside torch", "blue"), ("others", "magenta"))
_ADVICE = {
    CauseKind.ABSURD_REQUEST: "print the shapes at the line above; chunk the operation",
    CauseKind.LIMIT: "raise or drop torch.cuda.set_per_process_memory_fraction()",
    CauseKind.REFUSED: "run `nvidia-smi` and look for limits: WSL, containers, MIG, a memory fraction, `ulimit -v`",
    CauseKind.FRAGMENTATION: "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    CauseKind.PRIVATE_POOLS: "capture fewer shapes, or share one pool: torch.cuda.graph(..., pool=handle)",
    CauseKind.OTHER_PROCESSES: "stop the other processes, or choose another GPU with CUDA_VISIBLE_DEVICES",
    CauseKind.OUTSIDE_TORCH: "fewer NCCL communicators and graphs; CUDA_MODULE_LOADING=LAZY",
    CauseKind.CAPACITY: "hold less: a smaller batch, checkpointing, a leaner optimizer",
    CauseKind.HOST_MEMORY: "fewer DataLoader workers, smaller pinned buffers, more host memory",
    CauseKind.OUTSIDE_ALLOCATOR: "record it: `vramprof run` keeps what torch and the driver held",
}


def render_diagnosis(diagnosis: Diagnosis, *, width: int = 80, color: bool = False) -> str:
    """The diagnosis as text; with `color`, ANSI escapes."""
    return text_of(_parts(diagnosis), width=width, color=color)


def _parts(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    if diagnosis.emulated:
        yield Text("EMULATED: no GPU was used; torch's allocator ran on an emulated device", style="bold yellow")
    for case in diagnosis.cases[:_MOST_CASES]:
        yield from _case(case)
    if len(diagnosis.cases) > _MOST_CASES:
        yield Text(f"\nand {len(diagnosis.cases) - _MOST_CASES} more: --json has them all", style="dim")
    for gap in diagnosis.gaps:
        yield Text(f"gap: {gap}", style="dim")


def _case(case: OomCase) -> Iterator[RenderableType]:
    if not case.causes:
        yield Text(f"\n{case.title}", style="bold")
    else:
        first = case.causes[0]
        hedge = "" if first.certain else " (likely)"
        yield Text.assemble(("\nOUT OF MEMORY ", "bold red"), (case.title, "bold"), f": {first.kind.value}{hedge}")
    if case.figures is not None:
        yield from _request(case, case.figures)
    for number, cause in enumerate(case.causes):
        yield _cause(cause, number)
    if case.state is not None:
        yield from _state(case.state)
    for leak in case.leaks[:2]:
        yield Text(f"leak: {leak.code} {leak.title}", style="yellow")
    yield from _fixes(case)
    if case.blind:
        yield Text(f"blind: {case.blind}", style="dim")


def _request(case: OomCase, figures: OomFigures) -> Iterator[RenderableType]:
    place = place_of(users_frame(case.frames)) if case.frames else ""
    asked = f"{format_bytes(figures.needed_bytes)} asked for" if figures.requested_bytes else "a segment of"
    tried = f"{asked} (a segment of {format_bytes(figures.tried_bytes)})" if figures.requested_bytes else asked
    if not figures.requested_bytes:
        tried += f" {format_bytes(figures.tried_bytes)} asked for"
    free = "" if figures.free_bytes is None else f"; the driver had {format_bytes(figures.free_bytes)} free"
    yield Text(tried + free + (f"\nat {place}" if place else ""))
    yield from _bar(figures)


def _bar(figures: OomFigures) -> Iterator[RenderableType]:
    """Where the card's bytes were, to scale."""
    sizes = [figures.held_bytes, figures.idle_bytes, figures.outside_bytes, figures.others_bytes]
    known = [(name, color, size) for (name, color), size in zip(_PARTS, sizes, strict=True) if size]
    if figures.private_bytes:
        known.append(("free in private pools", "cyan", figures.private_bytes))
    total = max(figures.capacity_bytes or 0, sum(size for _, _, size in known) + (figures.free_bytes or 0))
    if not known or not total:
        return
    bar = Text()
    for _, color, size in known:
        bar.append("█" * max(round(_BAR * size / total), 1), color)
    yield bar.append("·" * max(_BAR - len(bar), 0), "dim")
    legend = Text("  ").join(
        Text.assemble(("█ ", color), f"{name} {format_bytes(size)}") for name, color, size in known
    )
    yield legend


def _cause(cause: Cause, number: int) -> RenderableType:
    style = "bold" if number == 0 else ""
    return Text.assemble(("why: " if number == 0 else "and: ", "dim"), (cause.sentence, style))


def _state(state: OomState) -> Iterator[RenderableType]:
    moment = state.moment
    if moment.hidden:
        yield Text(f"the blocks cannot be told: {moment.hidden}", style="yellow")
        return
    if moment.free.total:
        yield free_words(moment)
    if moment.free.split >= state.requested_bytes // 4:
        yield from pin_table(moment)
        yield from segment_map(moment)


def _fixes(case: OomCase) -> Iterator[RenderableType]:
    if case.trials:
        yield from _trials(case)
    elif case.causes:
        lines = list(dict.fromkeys(_ADVICE[cause.kind] for cause in case.causes))[:3]
        yield Text("try, unproven:", style="dim")
        yield Padding(Group(*(Text(line, style="bold") for line in lines)), (0, 0, 0, 2))
    if case.not_tried:
        yield Text(f"no what-if: {case.not_tried}", style="yellow")
    if case.levers and case.causes and case.causes[0].kind is CauseKind.CAPACITY:
        yield Text("changes to the program, by formula (not run):", style="dim")
        for lever in case.levers[:3]:
            yield Text.assemble(
                f"  {lever.action}: ", (format_bytes(lever.saving_bytes), "bold"), (f" ({lever.how})", "dim")
            )


def _trials(case: OomCase) -> Iterator[RenderableType]:
    proof = "gave the recorded segments exactly" if case.exact_replay else "did NOT give the recorded segments exactly"
    yield Text.assemble(
        ("what if", "bold"), (f" (replayed through torch's allocator, emulated; as it was, it {proof})", "dim")
    )
    if case.cure is not None and case.causes:
        margin = case.cure.outcome.margin_bytes
        left = "" if margin is None else f", with {format_bytes(margin)} left"
        yield Text.assemble(("fits", "bold green"), f"{left}: ", (case.cure.line, "bold"))
    elif case.causes:
        yield Text("no allocator setting makes it fit on this card", style="bold red")
    table = table_of("setting", "fits", "peak reserved", "left", "retries")
    settings = [trial for trial in case.trials if trial.risk != HARDWARE_RISK]
    for trial in settings[:_MOST_TRIALS]:
        table.add_row(*_trial_row(trial))
    yield table
    for trial in case.trials:
        if trial.risk == HARDWARE_RISK:
            yield Text(f"a card without limit: {trial.line}", style="dim")


def _trial_row(trial: Trial) -> tuple[Text, ...]:
    outcome = trial.outcome
    left = "" if outcome.margin_bytes is None else format_bytes(outcome.margin_bytes)
    fits = Text("yes", "green") if outcome.fits else Text("no", "red")
    return (
        Text(trial.setting.name),
        fits,
        Text(format_bytes(outcome.peak_reserved_bytes)),
        Text(left),
        Text(str(outcome.retry_count)),
    )


def as_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain data: sizes in bytes, schema_version 1."""
    return {
        "schema_version": 1,
        "source": diagnosis.source,
        "emulated": diagnosis.emulated,
        "out_of_memory": diagnosis.failed,
        "cases": [_case_dict(case) for case in diagnosis.cases],
        "gaps": list(diagnosis.gaps),
    }


def _case_dict(case: OomCase) -> dict[str, Any]:
    moment = None if case.state is None else case.state.moment
    return {
        "title": case.title,
        "device": case.device,
        "causes": [
            {"kind": one.kind.value, "bytes": one.bytes, "sentence": one.sentence, "certain": one.certain}
            for one in case.causes
        ],
        "figures": None if case.figures is None else vars(case.figures),
        "frames": [frame._asdict() for frame in case.frames],
        "free": None if moment is None else {**vars(moment.free), "largest_hole_bytes": moment.largest_hole_bytes},
        "pins": [] if moment is None else pin_dicts(moment),
        "leaks": [{"code": one.code, "title": one.title, "cost_bytes": one.cost_bytes} for one in case.leaks],
        "levers": [vars(lever) for lever in case.levers],
        "exact_replay": case.exact_replay,
        "trials": [_trial_dict(trial) for trial in case.trials],
        "not_tried": case.not_tried,
        "blind": case.blind,
    }  # fmt: skip


def _trial_dict(trial: Trial) -> dict[str, Any]:
    outcome = trial.outcome
    return {
        "setting": trial.setting.name, "line": trial.line, "fits": outcome.fits, "saved_bytes": trial.saved_bytes,
        "peak_reserved_bytes": outcome.peak_reserved_bytes, "margin_bytes": outcome.margin_bytes,
        "retry_count": outcome.retry_count, "basis": "replay on an emulated device",
    }  # fmt: skip
