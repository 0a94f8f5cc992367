"""Turns the name of a GPU into an emulated device of this process; needs no library besides torch's."""

from __future__ import annotations

from vramprof import emulator
from vramprof.prediction.catalog import find_device


def emulate(gpu: str) -> None:
    """Load an emulated device for this process, before `import torch`: `vramprof.emulate("a100-80gb")`.

    `gpu` is a name of the catalog (`vramprof gpus`), with changes after a colon: `a100-80gb:memory=24GiB,count=8`.

    Raises:
        UnknownGpuError: no such name, or a change that is not understood.
        EmulatorError: torch is imported already, or this platform cannot emulate.
    """
    spec, count = find_device(gpu)
    emulator.start(spec, count=count)
