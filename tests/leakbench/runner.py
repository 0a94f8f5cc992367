"""Turns programs into what vramprof says of them: several in one process, on a device that is there or emulated."""

from __future__ import annotations

import gc
import itertools
from typing import Any

from leakbench.registry import Program

EACH = 3
"""Of how many tensors of a leaking line the holder is asked for."""


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
    return with_holders(prof.recording)
