"""Turns programs into what vramprof says of them: several in one process, on a device that is there or emulated."""

from __future__ import annotations

import gc
import itertools
from typing import Any

from leakbench.registry import Program


def record(program: Program) -> Any:
    """The recording of one program, with the holders of what leaked while the program still stood at its last step."""
    import vramprof

    gc.enable()
    gc.collect()
    generator = program.body()
    with vramprof.profile() as prof:
        for _ in itertools.islice(generator, program.steps):
            prof.step()
    return prof.recording


def judge(program: Program) -> Any:
    recording = record(program)
    from vramprof.report import Report

    device = Report(recording).facts.devices[0]
    from vramprof.analyses.leaks import find_leaks

    return find_leaks(recording, device.allocations, device.attribution)
