"""Turns a diagnosis into one screen for a terminal, or into plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from vramprof.analyses.causes import Cause, OomFigures
from vramprof.analyses.frames import users_frame
from vramprof.analyses.oom_state import OomState
from vramprof.findings.diagnosis import HARDWARE_RISK, Diagnosis, OomCase, Trial
from vramprof.findings.remedies import COMPUTED, DRY_RUN, REPLAY, UNPROVEN, Remedy, find_remedies
from vramprof.renderers.console import place_of, table_of, text_of
from vramprof.renderers.fragments import free_words, pin_dicts, pin_table, segment_map
from vramprof.units import format_bytes

_MOST_CASES = 5
_MOST_TRIALS = 6
_MOST_REMEDIES = 3
_PROOFS = {
    DRY_RUN: "proven by a dry run of the program",
    REPLAY: "proven by replay of the recorded requests",
    COMPUTED: "computed",
    UNPROVEN: "not proven",
}
_BAR = 60
_PARTS = (("held by tensors", "red"), ("idle in torch", "yellow"), ("outside torch", "blue"), ("others", "magenta"))


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
    for leak in case.leaks[:2]:
        yield Text(f"leak: {leak.code} {leak.title}", style="yellow")
    yield from _remedies(case)
    if case.state is not None:
        yield from _state(case.state)
    yield from _tried(case)
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


def _remedies(case: OomCase) -> Iterator[RenderableType]:
    """The best three, each with what it saves and what proves it."""
    remedies = [remedy for remedy in find_remedies(case) if remedy.fits is not False][:_MOST_REMEDIES]
    if not remedies and case.causes:
        yield Text("nothing that was tried or computed makes it fit on this card", style="bold red")
        return
    if remedies:
        yield Text("what to do, the safest first:", style="dim")
    for number, remedy in enumerate(remedies, 1):
        yield Text(f" {number}. {remedy.action}", style="bold")
        yield Padding(Text.assemble(*_proof(remedy)), (0, 0, 0, 4))


def _proof(remedy: Remedy) -> Iterator[str | tuple[str, str]]:
    if remedy.fits:
        yield ("fits" if remedy.proof == DRY_RUN else "the failing request fits"), "bold green"
        yield "" if remedy.margin_bytes is None else f", {format_bytes(remedy.margin_bytes)} left"
        yield "; "
    if remedy.saving_bytes is not None and remedy.saving_bytes > 0:
        yield f"saves {format_bytes(remedy.saving_bytes)}; "
    how = f": {remedy.how}" if remedy.how and remedy.proof == COMPUTED else ""
    yield f"{_PROOFS[remedy.proof]}{how}", "dim"
    if remedy.code:
        yield f"\n{remedy.code}"


def _tried(case: OomCase) -> Iterator[RenderableType]:
    if case.trials:
        yield from _trials(case)
    if case.not_tried:
        yield Text(f"no replay: {case.not_tried}", style="yellow")
    if case.reruns:
        yield from _reruns(case)
    if case.not_rerun:
        yield Text(f"no dry run: {case.not_rerun}", style="yellow")


def _trials(case: OomCase) -> Iterator[RenderableType]:
    proof = "gave the recorded segments exactly" if case.exact_replay else "did NOT give the recorded segments exactly"
    yield Text(f"replayed through torch's allocator, emulated; as it was, it {proof}", style="dim")
    if case.cure is None and case.causes:
        yield Text("no allocator setting makes it fit on this card")
    table = table_of("setting", "fits", "peak reserved", "left", "retries")
    settings = [trial for trial in case.trials if trial.risk != HARDWARE_RISK]
    for trial in settings[:_MOST_TRIALS]:
        table.add_row(*_trial_row(trial))
    yield table
    for trial in case.trials:
        if trial.risk == HARDWARE_RISK:
            yield Text(f"a card without limit: {trial.line}", style="dim")
    if case.replay_note:
        yield Text(f"note: {case.replay_note}", style="dim")


def _reruns(case: OomCase) -> Iterator[RenderableType]:
    table = table_of(f"dry run of the program on {case.reruns[0].gpu}, emulated", "fits", "peak reserved", "left")
    for run in case.reruns:
        name = run.name if run is case.reruns[0] or run.line.startswith("export ") else run.line
        if run.error:
            table.add_row(Text(f"{name}: {run.error}"), Text("?", "yellow"), "", "")
            continue
        left = "" if run.margin_bytes is None else format_bytes(run.margin_bytes)
        table.add_row(Text(name), _yes(run.fits), format_bytes(run.peak_reserved_bytes), left)
    yield table
    if case.reruns[0].fits:
        yield Text("the dry run of the program as it was fits: it does not repeat the error", style="yellow")


def _yes(fits: bool) -> Text:
    return Text("yes", "green") if fits else Text("no", "red")


def _trial_row(trial: Trial) -> tuple[Text, ...]:
    outcome = trial.outcome
    left = "" if outcome.margin_bytes is None else format_bytes(outcome.margin_bytes)
    return (
        Text(trial.setting.name),
        _yes(outcome.fits),
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
        "levers": [{**vars(lever), "fits": lever.fits} for lever in case.levers],
        "remedies": [vars(remedy) for remedy in find_remedies(case)],
        "exact_replay": case.exact_replay,
        "trials": [_trial_dict(trial) for trial in case.trials],
        "not_tried": case.not_tried,
        "replay_note": case.replay_note,
        "dry_runs": [{**vars(run), "basis": "dry run on an emulated device"} for run in case.reruns],
        "not_rerun": case.not_rerun,
        "blind": case.blind,
    }  # fmt: skip


def _trial_dict(trial: Trial) -> dict[str, Any]:
    outcome = trial.outcome
    return {
        "setting": trial.setting.name, "line": trial.line, "fits": outcome.fits, "saved_bytes": trial.saved_bytes,
        "peak_reserved_bytes": outcome.peak_reserved_bytes, "margin_bytes": outcome.margin_bytes,
        "retry_count": outcome.retry_count, "basis": "replay on an emulated device",
    }  # fmt: skip
