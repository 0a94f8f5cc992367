"""The verbs: profile a program, load a recording, emulate a device."""

from __future__ import annotations

from pathlib import Path

from vramprof.prediction.device import emulate
from vramprof.profiler import Profiler
from vramprof.recording import Recording
from vramprof.report import Report
from vramprof.sources.allocator_history import MAX_ENTRIES
from vramprof.sources.files import load_file

__all__ = ["Profiler", "Recording", "Report", "emulate", "load", "profile"]


def profile(*, out: str | Path | None = None, max_entries: int = MAX_ENTRIES) -> Profiler:
    """Profile GPU memory: `with vramprof.profile() as prof: train()`, then `print(prof.report())`.

    Modules, optimizers, phases and steps are found by themselves. Constructing does nothing; `with` starts.

    Args:
        out: a `.vram` folder to write to while the program runs.
        max_entries: how many allocator events torch keeps in its ring.

    Raises:
        NoDeviceError: on entering, there is no CUDA device.
        SessionError: on entering, another session is running.
    """
    return Profiler(out=out, max_entries=max_entries)


def load(path: str | Path) -> Report:
    """Open a `.vram` folder or a torch snapshot pickle (nothing in it is executed).

    Raises:
        RecordingError: it is neither.
    """
    return Report(load_file(path))
