"""Turns programs into what vramprof says of them: several in one process, all on the emulated device."""

from __future__ import annotations

import gc
import itertools
import time
from dataclasses import dataclass
from typing import Any

from surprises.registry import Program

CODES = tuple(f"VP5{number:02}" for number in range(1, 100))


@dataclass(frozen=True)
class Verdict:
    """What vramprof said of one program, beside the truth."""

    name: str
    code: str | None
    codes: tuple[str, ...]
    """Of all 5xx findings, the costliest first."""
    said: tuple[str, ...]
    expected_bytes: int
    actual_bytes: int
    """Peaks of what torch had allocated."""
    seconds: float

    @property
    def right(self) -> bool:
        """The surprise is among the findings, or there is none and none was found."""
        return self.code in self.codes if self.code else not self.codes


def record(program: Program, *, actual: bool) -> Any:
    """The recording of one side."""
    import torch

    import vramprof

    gc.collect()
    torch.cuda.empty_cache()
    generator = program.body(actual)
    with vramprof.profile(leaks="off") as prof:
        for _ in itertools.islice(generator, program.actual_steps if actual else program.expected_steps):
            prof.step()
    generator.close()
    return prof.report()


def judge(program: Program) -> Verdict:
    """What is said of one program."""
    begin = time.process_time()
    expected, actual = record(program, actual=False), record(program, actual=True)
    findings = expected.compare(actual).findings
    peaks = [report.facts.devices[0].peak.allocated_bytes for report in (expected, actual)]
    return Verdict(
        program.name,
        program.code,
        tuple(finding.code for finding in findings),
        tuple(f"{finding.code} {finding.title}" for finding in findings),
        *peaks,
        round(time.process_time() - begin, 2),
    )
