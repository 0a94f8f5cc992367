"""Turns a recording into trials: its requests played through torch's allocator under every setting worth trying."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from vramprof.analyses.allocations import Allocations
from vramprof.analyses.frames import users_frame
from vramprof.analyses.replay_tape import make_tape, recorded_segment_events
from vramprof.emulator.replay import replay
from vramprof.emulator.tape import Op, Setting, Tape
from vramprof.errors import VramprofError
from vramprof.findings.diagnosis import HARDWARE_RISK, OomCase, Trial, with_trials
from vramprof.findings.facts import DeviceFacts
from vramprof.prediction.catalog import find_gpu, gpu_names
from vramprof.recording import Recording
from vramprof.units import format_bytes

_EXPORT = "export PYTORCH_CUDA_ALLOC_CONF="
_ENDLESS_BYTES = 1 << 40
_LATE = (
    "the history began late, after blocks were alive: they are put back in place, but where expandable_segments is"
    " turned on they are packed afresh, so that such a trial is less exact"
)


def try_settings(case: OomCase, recording: Recording, device: DeviceFacts) -> OomCase:
    """The case with its trials, or with the reason why there are none."""
    try:
        tape = make_tape(recording, device.allocations)
        plan = _plan(tape, recording, device.allocations)
        own, *outcomes = replay(
            tape, [Setting("as it was"), *(one[0] for one in plan)], detail=1, jobs=os.cpu_count() or 1
        )
    except VramprofError as error:
        return replace(case, not_tried=str(error))
    if own.error:
        return replace(case, not_tried=own.error)
    exact = own.segment_events == recorded_segment_events(recording, device.index)
    trials = [
        Trial(setting, line, risk, outcome, own.peak_reserved_bytes - outcome.peak_reserved_bytes)
        for (setting, line, risk), outcome in zip(plan, outcomes, strict=True)
        if not outcome.error
    ]
    trials = [_named_card(trial, tape) if trial.risk == HARDWARE_RISK else trial for trial in trials]
    case = replace(case, replay_note=_LATE) if tape.first else case
    return with_trials(case, (Trial(Setting("as it was"), "", -1, own, 0), *trials), exact=exact)


def _plan(tape: Tape, recording: Recording, allocations: Allocations) -> list[tuple[Setting, str, int]]:
    """(setting, what to do, risk), the safest first."""
    plan: list[tuple[Setting, str, int]] = []

    def conf(words: str, risk: int, *, in_place: bool = True) -> None:
        plan.append((Setting(words, conf=words, in_place=in_place), f"{_EXPORT}{words}", risk))

    if "expandable_segments:True" not in tape.own:
        conf("expandable_segments:True", 0, in_place=not tape.first)
        for size_mb in (64, 128, 256, 512):
            conf(f"max_split_size_mb:{size_mb}", 2)
        conf("roundup_power2_divisions:4,max_split_size_mb:128", 3)
    conf("roundup_power2_divisions:4", 2)
    conf("roundup_power2_divisions:8", 2)
    place = _best_place(tape)
    if place is not None:
        where = _line_at(recording, allocations, int(tape.row[place]))
        plan.append((Setting("empty_cache()", empty_cache_at=place), f"torch.cuda.empty_cache()  # before {where}", 1))
    if tape.available_bytes and "expandable_segments:True" not in tape.own:
        total = tape.total_bytes or tape.available_bytes + (512 << 20)
        share = tape.available_bytes / total * 0.999
        words = "garbage_collection_threshold:0.8"
        line = f"{_EXPORT}{words}  and  torch.cuda.set_per_process_memory_fraction({share:.3f})"
        plan.append((Setting(words, conf=words, fraction=share), line, 3))
    if tape.available_bytes:
        plan.append(
            (Setting("a larger card", total_bytes=_ENDLESS_BYTES, available_bytes=_ENDLESS_BYTES), "", HARDWARE_RISK)
        )
    return plan


def _best_place(tape: Tape) -> int | None:
    """Where the fewest bytes were alive, in the second half of what came before the failing request."""
    signs = np.where(tape.op == Op.ALLOC, tape.size_bytes, np.where(tape.op == Op.FREE, -tape.size_bytes, 0))
    alive = np.cumsum(signs)
    half = len(alive) // 2
    if len(alive) < 20:
        return None
    return half + int(np.argmin(alive[half:]))


def _line_at(recording: Recording, allocations: Allocations, row: int) -> str:
    """The first line from this event on that is known."""
    events = recording.events[recording.events["device"] == allocations.device]
    for stack in events["stack"].iloc[row : row + 200].tolist():
        frame = users_frame(recording.stacks.get(int(stack)))
        if frame is not None:
            return f"{frame.filename.replace(chr(92), '/').rsplit('/', 1)[-1]}:{frame.line}"
    return f"event {row}"


def _named_card(trial: Trial, tape: Tape) -> Trial:
    """The smallest card of the catalog that has room for what an endless one had to reserve."""
    need = trial.outcome.peak_reserved_bytes
    outside = max(tape.total_bytes - (tape.available_bytes or 0), 0) if tape.total_bytes else 1 << 30
    cards = sorted((find_gpu(name).total, name) for name in gpu_names())
    name = next((name for total, name in cards if total - outside >= need), None)
    line = f"{format_bytes(need)} reserved up to here" + (
        f": fits on {name}" if name else ": more than any card of the catalog"
    )
    return replace(trial, line=line)
