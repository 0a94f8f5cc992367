"""vramprof: a live GPU-memory profiler and leak detector for PyTorch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vramprof.api import Profiler, Recording, Report, diagnose, emulate, load, predict, profile
    from vramprof.errors import LeakError, VramprofError
    from vramprof.installed import install
    from vramprof.prediction.fit import fit
    from vramprof.prediction.plan import plan

__version__ = "0.1.0"
__all__ = [
    "LeakError",
    "Profiler",
    "Recording",
    "Report",
    "VramprofError",
    "diagnose",
    "emulate",
    "fit",
    "install",
    "load",
    "plan",
    "predict",
    "profile",
]

_HOMES = {
    "LeakError": "vramprof.errors", "VramprofError": "vramprof.errors", "emulate": "vramprof.prediction.device",
    "fit": "vramprof.prediction.fit", "install": "vramprof.installed", "plan": "vramprof.prediction.plan",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562): importing vramprof costs next to nothing."""
    if name == "leaks":
        return importlib.import_module("vramprof.leaks")
    if name not in __all__:
        raise AttributeError(f"module 'vramprof' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "vramprof.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
