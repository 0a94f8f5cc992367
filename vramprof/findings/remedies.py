"""Turns a case into what to do about it, the safest first, each with its saving and what proves it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from vramprof.analyses.causes import CauseKind
from vramprof.findings.diagnosis import HARDWARE_RISK, OomCase, Rerun
from vramprof.findings.levers import ROUNDED, SAME, SMALLER

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
_ALLOCATOR, _CAUSE, _WANTED = 0, 1, 1
_NUMERICS = {SAME: 2, SMALLER: 3, ROUNDED: 4}
DRY_RUN, REPLAY, COMPUTED, UNPROVEN = "dry run", "replay", "computed", "unproven"


@dataclass(frozen=True)
class Remedy:
    """One thing to do. `proof` is DRY_RUN (the whole program ended well, or not), REPLAY (the recorded requests did),
    COMPUTED (from what was held; `how` says what) or UNPROVEN. `fits` is None where the proof leaves it open; `safety`
    is 0 for what changes addresses alone, and the higher the more of the results changes."""

    name: str
    action: str
    proof: str
    safety: int
    fits: bool | None = None
    saving_bytes: int | None = None
    margin_bytes: int | None = None
    code: str | None = None
    how: str = ""


def find_remedies(case: OomCase) -> tuple[Remedy, ...]:
    """What to do, that which works before that which may, the safest first."""
    if not case.causes:
        return ()
    found = _best_setting([_proven(remedy, case.reruns) for remedy in _settings(case)])
    found += [_proven(remedy, case.reruns) for remedy in (*_for_causes(case), *_changes(case))]
    known = {remedy.name for remedy in found} | {trial.setting.name for trial in case.trials}
    for run in case.reruns[1:]:
        if run.name not in known and not run.error:
            found.append(_proven(Remedy(run.name, run.line, UNPROVEN, _WANTED), (run,)))
    return tuple(sorted(found, key=lambda one: ({True: 0, None: 1, False: 2}[one.fits], one.safety)))


def _settings(case: OomCase) -> Iterator[Remedy]:
    for trial in case.trials:
        if 0 <= trial.risk < HARDWARE_RISK and trial.outcome.fits:
            yield Remedy(
                trial.setting.name, trial.line, REPLAY, _ALLOCATOR, True, trial.saved_bytes, trial.outcome.margin_bytes
            )


def _best_setting(settings: list[Remedy]) -> list[Remedy]:
    """One setting is enough: the safest that a dry run proved, else the safest that none refuted."""
    fitting = [remedy for remedy in settings if remedy.fits]
    return sorted(fitting, key=lambda remedy: remedy.proof != DRY_RUN)[:1]


def _for_causes(case: OomCase) -> Iterator[Remedy]:
    """What the causes themselves suggest, unless a replay or the levers have said more."""
    for cause in case.causes:
        by_replay = cause.kind is CauseKind.FRAGMENTATION and case.trials
        by_levers = cause.kind is CauseKind.CAPACITY and case.levers
        if not by_replay and not by_levers:
            name = _ADVICE[cause.kind].rpartition("=")[2] if cause.kind is CauseKind.FRAGMENTATION else cause.kind.value
            yield Remedy(name, _ADVICE[cause.kind], UNPROVEN, _CAUSE)


def _changes(case: OomCase) -> Iterator[Remedy]:
    for lever in case.levers:
        yield Remedy(
            lever.name, lever.action, COMPUTED, _NUMERICS[lever.numerics], lever.fits, lever.saving_bytes,
            lever.margin_bytes, lever.code, lever.how,
        )  # fmt: skip


def _proven(remedy: Remedy, reruns: tuple[Rerun, ...]) -> Remedy:
    """The remedy as its dry run showed it, where there was one."""
    run = next((run for run in reruns if run.name == remedy.name and not run.error), None)
    if run is None:
        return remedy
    same = run.line in remedy.action  # a number may have been lowered until it fitted
    saving = remedy.saving_bytes if same else None
    return replace(
        remedy, action=run.line, proof=DRY_RUN, fits=run.fits, margin_bytes=run.margin_bytes, saving_bytes=saving
    )
