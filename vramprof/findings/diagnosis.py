"""Why memory ran out, as one noun: the cases of a recording or a log, with causes, trials and blind spots."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from io import BytesIO

from vramprof.analyses.causes import Cause, CauseKind, OomFigures, figures_of, rank_causes, text_causes
from vramprof.analyses.frames import users_first
from vramprof.analyses.held import find_held
from vramprof.analyses.idle import find_idle
from vramprof.analyses.oom_state import OomState
from vramprof.emulator.tape import Outcome, Setting
from vramprof.findings.facts import DeviceFacts, Facts
from vramprof.findings.finding import Finding
from vramprof.findings.levers import Case, Lever, find_levers
from vramprof.recording import Frame
from vramprof.sources.oom_text import OomText, find_ooms

_TEXT_BLIND = (
    "a log tells totals, not blocks: neither whose blocks split the free memory nor what a setting would change;"
    " 'tried to allocate' is the segment's size, not the tensor's"
)
_SNAPSHOT_BLIND = "a snapshot tells neither the card's size nor other processes"


HARDWARE_RISK = 4


@dataclass(frozen=True)
class Trial:
    """One setting played through torch's allocator. `line` is what to set or change; `saved_bytes` of peak reserved.

    Trials are in order of safety: `risk` 0 changes nothing but addresses, HARDWARE_RISK needs another card.
    """

    setting: Setting
    line: str
    risk: int
    outcome: Outcome
    saved_bytes: int


@dataclass(frozen=True)
class Rerun:
    """A dry run of the whole program with one change, on an emulated device; `line` is the change.

    `margin_bytes` is what the device had left at the peak; None where memory ran out again. `error` is why the run
    told nothing, and empty if it did.
    """

    name: str
    line: str
    gpu: str
    fits: bool = False
    peak_reserved_bytes: int = 0
    margin_bytes: int | None = None
    error: str = ""


@dataclass(frozen=True, eq=False)
class OomCase:
    """One out-of-memory error, or, without causes, a device of a recording in which none is recorded.

    `exact_replay` says whether the recording's own settings gave its own segments again; None if that was not tried.
    """

    title: str
    device: int | None = None
    causes: tuple[Cause, ...] = ()
    figures: OomFigures | None = None
    frames: tuple[Frame, ...] = ()
    state: OomState | None = None
    text: str = ""
    blind: str = ""
    leaks: tuple[Finding, ...] = ()
    levers: tuple[Lever, ...] = ()
    trials: tuple[Trial, ...] = ()
    exact_replay: bool | None = None
    not_tried: str = ""
    reruns: tuple[Rerun, ...] = ()
    not_rerun: str = ""
    replay_note: str = ""

    @property
    def cure(self) -> Trial | None:
        """The safest setting under which the failing request fitted, hardware aside."""
        return next((trial for trial in self.trials if trial.outcome.fits and trial.risk < HARDWARE_RISK), None)

    @property
    def saved(self) -> bool:
        """Whether a replay or a dry run showed a way out on the same card."""
        gpu = self.reruns[0].gpu if self.reruns else ""
        return self.cure is not None or any(run.fits and run.gpu == gpu for run in self.reruns[1:])


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What a source tells of running out of memory, case by case."""

    source: str
    emulated: bool
    cases: tuple[OomCase, ...]
    gaps: tuple[str, ...] = field(default=())

    @property
    def failed(self) -> bool:
        """Whether any out-of-memory error was found."""
        return any(case.causes for case in self.cases)


def text_case(oom: OomText) -> OomCase:
    """A case from an error's text."""
    words = [] if oom.rank is None else [f"rank {oom.rank}"]
    words += [] if oom.device is None else [f"GPU {oom.device}"]
    words.append(f"line {oom.line}" + (f", {oom.count} times" if oom.count > 1 else ""))
    words += [f"{oom.backend}"] if oom.backend != "CUDA" else []
    words += [f"torch {oom.torch}"] if oom.torch else []
    return OomCase(
        title=", ".join(words),
        device=oom.device,
        causes=text_causes(oom),
        figures=figures_of(oom) if oom.tried_bytes is not None and oom.kind == "allocator" else None,
        frames=users_first(oom.frames),
        text=oom.text,
        blind=_TEXT_BLIND,
    )


def error_case(facts: Facts) -> OomCase | None:
    """A case from the error that a dump was written for, where it was not torch's allocator that had no memory."""
    about = facts.recording.metadata.get("out_of_memory") or {}
    text = str(about.get("text") or "")
    oom = next(find_ooms(BytesIO(text.encode())), None)
    if not text or (oom is not None and oom.kind not in ("host", "driver")):
        return None
    causes: tuple[Cause, ...]
    if oom is None:
        sentence = f"a library had no memory for something other than a tensor: {text.splitlines()[0]}"
        causes = (Cause(CauseKind.OUTSIDE_ALLOCATOR, 0, sentence, certain=False),)
    else:
        causes = text_causes(oom)
    frames = users_first([Frame(str(file), int(line), str(name)) for file, line, name in about.get("frames") or ()])
    return OomCase(title=str(about.get("thread") or ""), causes=causes, frames=frames, text=text)


def device_case(facts: Facts, device: DeviceFacts, findings: tuple[Finding, ...]) -> OomCase:
    """A case from one device of a recording."""
    state = device.oom
    leaks = tuple(one for one in findings if one.code.startswith("VP2") and one.device == device.index)
    title = f"GPU {device.index} {device.name}".strip()
    blind = _SNAPSHOT_BLIND if facts.recording.origin == "snapshot" and not device.total_bytes else ""
    levers = _levers(facts, device)
    if state is None:
        return OomCase(
            title=f"{title}: no out-of-memory event is recorded",
            device=device.index,
            blind=blind,
            leaks=leaks,
            levers=levers,
        )
    return OomCase(
        title=title, device=device.index, causes=_largest_request(rank_causes(state.figures), state, device),
        figures=state.figures, frames=state.moment.frames, state=state, blind=blind, leaks=leaks, levers=levers,
    )  # fmt: skip


def _largest_request(causes: tuple[Cause, ...], state: OomState, device: DeviceFacts) -> tuple[Cause, ...]:
    """Where room was short, a request that dwarfs every block ever handed out is named as such."""
    if causes[0].kind is not CauseKind.CAPACITY:
        return causes
    seen = device.allocations.size_bytes
    largest = int(seen.max()) if len(seen) else 0
    if len(seen) < 20 or state.requested_bytes < 16 * largest:
        return causes
    sentence = "one request is sixteen times the largest block that the program had ever asked for: look at its shape"
    return (Cause(CauseKind.ABSURD_REQUEST, state.requested_bytes, sentence, certain=False), *causes)


def _levers(facts: Facts, device: DeviceFacts) -> tuple[Lever, ...]:
    """What changes to the program would save when memory ran out; where it did not, at the peak."""
    allocations, attribution, moment = device.allocations, device.attribution, device.fragmentation
    row = device.peak.index - 1 if device.oom is None else moment.row
    metadata = facts.recording.metadata
    idle = find_idle(facts.recording, allocations, attribution, row)
    return find_levers(
        Case(
            held=find_held(allocations, attribution, row, moment.request, moment.frames),
            figures=None if device.oom is None else device.oom.figures,
            command=[str(word) for word in metadata.get("command") or ()],
            kept_outputs_bytes=idle.outputs.bytes,
            old_gradients_bytes=idle.gradients.bytes,
            optimizer_copies_bytes=idle.optimizer_copies.bytes,
            world_size=int(metadata.get("world_size") or 1),
        )
    )


def with_trials(case: OomCase, trials: tuple[Trial, ...], *, exact: bool | None) -> OomCase:
    """The case with what a replay showed."""
    order = sorted(trials, key=lambda trial: (not trial.outcome.fits, trial.risk, -trial.saved_bytes))
    return replace(case, trials=tuple(order), exact_replay=exact)
