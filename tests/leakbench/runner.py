"""Turns programs into what vramprof says of them: several in one process, on a device that is there or emulated."""

from __future__ import annotations

import gc
import itertools
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from leakbench.registry import Program

LEAK_CODES = ("VP201", "VP202", "VP203", "VP204", "VP205", "VP206", "VP207", "VP208", "VP210")

HOLDER_BUDGET_S = 20.0
"""More than the 2 s of a run, so that a busy machine does not change what is said."""


@dataclass(frozen=True)
class Verdict:
    """What vramprof said of one program, beside the truth. Rates are None where they have no meaning."""

    name: str
    leaks: bool
    found: bool
    line_right: bool | None
    holder_right: bool | None
    found_without_holders: bool
    line_right_without_holders: bool | None
    bytes_per_step: float
    true_bytes_per_step: int
    codes: tuple[str, ...]
    said: tuple[str, ...]
    """Title, line, holder and fix of each finding."""
    seconds: float


def record(program: Program) -> Any:
    """The recording of one program, with the holders of what leaked while it still stands at its last step."""
    import vramprof
    from vramprof.leaks import with_holders

    gc.enable()
    gc.collect()
    generator = program.body()
    with vramprof.profile() as prof:
        for _ in itertools.islice(generator, program.steps):
            prof.step()
    return with_holders(prof.recording, budget_s=HOLDER_BUDGET_S)


def judge(program: Program) -> tuple[Verdict, Any, Any]:
    """What is said of one program, its recording, and the facts of its device."""
    from vramprof.report import Report

    begin = time.perf_counter()
    recording = record(program)
    report = Report(recording)
    findings = _leak_findings(report)
    alone = _leak_findings(Report(replace(recording, holders=recording.holders.iloc[:0])))
    both = bool(findings) and program.leaks
    has_line = both and not program.outside
    verdict = Verdict(
        name=program.name,
        leaks=program.leaks,
        found=bool(findings),
        line_right=any(_line(finding) in program.lines for finding in findings) if has_line else None,
        holder_right=_holder_right(program, findings) if both else None,
        found_without_holders=bool(alone),
        line_right_without_holders=any(_line(finding) in program.lines for finding in alone) if has_line else None,
        bytes_per_step=sum(finding.evidence[0].value for finding in findings),
        true_bytes_per_step=program.grows or 0,
        codes=tuple(finding.code for finding in findings),
        said=tuple(_said(finding) for finding in findings),
        seconds=round(time.perf_counter() - begin, 2),
    )
    return verdict, recording, next(iter(report.facts.devices), None)


def _leak_findings(report: Any) -> list[Any]:
    return [finding for finding in report.findings if finding.code in LEAK_CODES]


def _line(finding: Any) -> tuple[str, int] | None:
    """The line that a finding points at first."""
    frames = finding.evidence[0].frames
    return (frames[0].filename, frames[0].line) if frames else None


def _holder_right(program: Program, findings: list[Any]) -> bool:
    """Every finding names a holder, and each by one of the program's words."""
    held = [finding.holder or "" for finding in findings]
    return all(any(word in path for word in program.holder) for path in held)


def _said(finding: Any) -> str:
    line = _line(finding)
    where = "no line" if line is None else f"{line[0].rpartition('/')[2]}:{line[1]}"
    return f"{finding.code} {finding.title} | {where} | {finding.holder} | {finding.fix.code}"


def as_dict(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict)
