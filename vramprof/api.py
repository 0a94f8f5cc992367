"""The verbs: profile a program, load a recording, emulate a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vramprof import fake
from vramprof.diagnosis import diagnose
from vramprof.errors import VramprofError
from vramprof.installed import install
from vramprof.prediction.device import emulate
from vramprof.prediction.dry_run import Program, dry_run
from vramprof.profiler import Profiler
from vramprof.recording import Recording, load_folder, open_folder, save_folder
from vramprof.report import Report
from vramprof.sources.allocator_history import MAX_ENTRIES
from vramprof.sources.files import load_file

METHODS = ("auto", "device", "fake")

__all__ = ["Profiler", "Recording", "Report", "diagnose", "emulate", "install", "load", "predict", "profile"]


def profile(
    *,
    out: str | Path | None = None,
    mode: str = "trace",
    steps: tuple[int, int] | str | None = None,
    leaks: str = "warn",
    max_entries: int = MAX_ENTRIES,
    oom_dumps: bool = True,
    stop_after: int | None = None,
    predicted: str | Path | None = None,
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
        oom_dumps: when memory runs out, write what is known beside `out` at once, and name it on the exception.
        stop_after: end the program, as sys.exit() would, after so many steps.
        predicted: a `.vram` folder with what was predicted, beside `out`: the report says where the run differs.

    Raises:
        NoDeviceError: on entering, there is no CUDA device.
        SessionError: there is no such mode or no such range; on entering, another session is running.
    """
    return Profiler(
        out=out, mode=mode, steps=steps, leaks=leaks, max_entries=max_entries, oom_dumps=oom_dumps,
        stop_after=stop_after, predicted=predicted,
    )  # fmt: skip


def load(path: str | Path) -> Report:
    """Open a `.vram` folder or a torch snapshot pickle (nothing in it is executed).

    What `vramprof run --predict` predicted of it is opened too, if it is still beside it.

    Raises:
        RecordingError: it is neither.
    """
    recording = load_file(path)
    beside = Path(path).parent / str(recording.metadata.get("predicted", ""))
    return Report(recording, predicted=load_folder(beside) if open_folder(beside) else None)


def predict(
    program: Program,
    *arguments: Any,
    gpu: str,
    method: str = "auto",
    out: str | Path | None = None,
    timeout_s: float | None = None,
) -> Report:
    """What a program's memory would be on a GPU; no GPU is needed. Running out of memory is a result, not an error:
    `report.recording.origin` is then "oom".

    `vramprof.predict("train.py", "--batch", "8", gpu="a100-80gb")` or `vramprof.predict(train, 8, gpu="l4")`

    Args:
        program: a script's path, or a function; for a dry run one at the top level of a module or script.
        arguments: the script's, as strings, or the function's.
        gpu: as for `emulate`.
        method: "device" is a dry run on an emulated device in a child process: torch's own allocator, Linux and a CUDA
            build of torch needed. "fake" runs the program in this process on tensors without data, with any build of
            torch on any system; the report states its biases. "auto" takes the first where it can be had.
        out: a `.vram` folder to keep the recording in.
        timeout_s: after so many seconds the child of a dry run is stopped; None waits.

    Raises:
        UnknownGpuError: no such GPU.
        DryRunError: the program failed for another reason than memory.
        VramprofError: there is no such method.
    """
    if method not in METHODS:
        raise VramprofError(f"predict: no method {method!r}: choose from {', '.join(METHODS)}")
    folder = None if out is None else Path(out)
    if method == "device" or (method == "auto" and fake.is_second_best()):
        return Report(dry_run(program, arguments, gpu=gpu, out=folder, timeout_s=timeout_s))
    recording = fake.run(program, arguments, gpu=gpu)
    if folder is not None:
        save_folder(recording, folder)
    return Report(recording)
