"""Turns a program and the name of a GPU into a recording made in this process, with no GPU and no emulated device."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vramprof import emulator
from vramprof.errors import DryRunError, EmulatorError
from vramprof.prediction.catalog import find_device
from vramprof.prediction.dry_run import Program
from vramprof.recording import Recording


def is_second_best() -> bool:
    """Whether the emulated device, whose allocator is torch's own, can be had here."""
    try:
        emulator.check()
    except EmulatorError:
        return False
    return True


def run(program: Program, arguments: Sequence[Any] = (), *, gpu: str) -> Recording:
    """Call a function, or run a script, on tensors without data.

    Raises:
        UnknownGpuError: no such GPU, before anything runs.
        DryRunError: torch is missing, or the program failed for another reason than memory.
    """
    device, _ = find_device(gpu)
    try:
        from vramprof.sources.meta_device import run_on_meta
    except ImportError as error:
        raise DryRunError(f"a prediction needs torch 2.6 or newer: {error}") from None
    recording, raised = run_on_meta(
        lambda: _call(program, arguments), gpu=device.name, total_bytes=device.total_bytes,
        context_bytes=device.context_bytes, capability=device.compute_capability,
        multiprocessors=device.multiprocessor_count,
    )  # fmt: skip
    if recording.origin == "oom" or raised is None or (isinstance(raised, SystemExit) and not raised.code):
        return recording
    name = getattr(program, "__qualname__", program)
    raise DryRunError(f"the prediction of {name} failed: {type(raised).__name__}: {_first_line(raised)}") from raised


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _call(program: Program, arguments: Sequence[Any]) -> None:
    if callable(program):
        program(*arguments)
        return
    with _as_script(str(program), [str(one) for one in arguments]):
        runpy.run_path(str(program), run_name="__main__")


@contextmanager
def _as_script(path: str, arguments: list[str]) -> Iterator[None]:
    """sys.argv and sys.path as a script finds them."""
    argv, paths = sys.argv, list(sys.path)
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, paths
