"""The verbs: profile a program, load a recording, emulate a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vramprof.diagnosis import diagnose
from vramprof.prediction.device import emulate
from vramprof.prediction.dry_run import Program, dry_run
from vramprof.profiler import Profiler
from vramprof.recording import Recording
from vramprof.report import Report
from vramprof.sources.allocator_history import MAX_ENTRIES
from vramprof.sources.files import load_file

__all__ = ["Profiler", "Recording", "Report", "diagnose", "emulate", "load", "predict", "profile"]


def profile(
    *,
    out: str | Path | None = None,
    mode: str = "trace",
    steps: tuple[int, int] | str | None = None,
    leaks: str = "warn",
    max_entries: int = MAX_ENTRIES,
) -> Profiler:
    """Profile GPU memory: `with vramprof.profile() as prof: train()`, then `print(prof.report())`.

    Modules, optimizers, phases and steps are found by themselves. Constructing does nothing; `with` starts.

    Args:
        out: a `.vram` folder to write to while the program runs.
        mode: "trace" records every allocation; "monitor" counters alone, and traces a few steps when it sees a higher
            peak, growth or a device nearly full.
        steps: trace the steps [first, last) alone and monitor the others; (3, 6) or "3:6".
        leaks: once growth is certain, "warn" says so in one line on stderr, "raise" raises LeakError, "off" is silent.
        max_entries: how many allocator events torch keeps in its ring.

    Raises:
        NoDeviceError: on entering, there is no CUDA device.
        SessionError: there is no such mode or no such range; on entering, another session is running.
    """
    return Profiler(out=out, mode=mode, steps=steps, leaks=leaks, max_entries=max_entries)


def load(path: str | Path) -> Report:
    """Open a `.vram` folder or a torch snapshot pickle (nothing in it is executed).

    Raises:
        RecordingError: it is neither.
    """
    return Report(load_file(path))


def predict(
    program: Program, *arguments: Any, gpu: str, out: str | Path | None = None, timeout_s: float | None = None
) -> Report:
    """What a program's memory would be on a GPU, by a dry run in a child process: no GPU is needed.

    `vramprof.predict("train.py", "--batch", "8", gpu="a100-80gb")` or `vramprof.predict(train, 8, gpu="l4")`; a
    function must be at the top level of a module or script. Running out of memory is a result, not an error:
    `report.recording.origin` is then "oom".

    Args:
        program: a script's path, or a function.
        arguments: the script's, as strings, or the function's.
        gpu: as for `emulate`.
        out: a `.vram` folder to keep the recording in.
        timeout_s: after so many seconds the child is stopped; None waits.

    Raises:
        UnknownGpuError: no such GPU.
        DryRunError: the program failed for another reason than memory.
    """
    return Report(dry_run(program, arguments, gpu=gpu, out=None if out is None else Path(out), timeout_s=timeout_s))
