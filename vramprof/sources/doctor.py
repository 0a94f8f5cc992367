"""Turns this machine into a list of what works: torch, a CUDA device, NVML, the emulated device."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

from vramprof import emulator
from vramprof.errors import VramprofError
from vramprof.sources.devices import require_device


class Check(NamedTuple):
    """One thing looked at."""

    what: str
    passed: bool
    detail: str


def examine() -> list[Check]:
    """Every check; none raises."""
    checks = (("torch", _torch), ("CUDA device", _device), ("NVML", _nvml), ("emulated device", _emulator))
    return [_check(what, look) for what, look in checks]


def _check(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, True, look())
    except Exception as error:  # whatever is broken is the answer
        return Check(what, False, str(error).splitlines()[0] if str(error) else type(error).__name__)


def _torch() -> str:
    import torch

    return f"{torch.__version__}, CUDA {torch.version.cuda or 'none: a CPU build'}"


def _device() -> str:
    require_device()
    import torch

    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _nvml() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        return f"driver {pynvml.nvmlSystemGetDriverVersion()}"
    finally:
        pynvml.nvmlShutdown()


def _emulator() -> str:
    if importlib.util.find_spec("torch") is None:
        raise VramprofError("torch is not installed")
    return emulator.check()
