"""Turns a script or a function into the recording of its dry run on an emulated device, made in a child process."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vramprof.errors import DryRunError
from vramprof.prediction.catalog import find_device
from vramprof.recording import Recording
from vramprof.recording.storage import load_folder, open_folder

Program = str | Path | Callable[..., Any]

_START = "import sys; sys.path[:] = filter(None, sys.path); from vramprof.cli import main; sys.exit(main())"
"""`python -m vramprof`, but a folder of that name where the user happens to be is not taken for it."""

_REFUSED = 2  # the exit code of our own errors
_INTERRUPTED = 130
_GRACE_S = 20


def dry_run(
    program: Program,
    arguments: Sequence[Any] = (),
    *,
    gpu: str,
    out: Path | None = None,
    timeout_s: float | None = None,
    steps: int | None = None,
    is_module: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Recording:
    """Run a program on an emulated device in a child process, and give what it recorded there.

    A function is found again by its name in the child, so it must be at the top level of a module or script; its
    arguments are pickled. A script's arguments are strings. What the program prints is dropped.

    An out-of-memory error is a result: the recording's origin is then "oom", and "predicted" otherwise.

    Args:
        program: a script's path, a function or, with `is_module`, a module's name, as for `python -m`.
        arguments: the script's or the function's.
        gpu: as for `vramprof.emulate`.
        out: where to keep the recording.
        timeout_s: the child is stopped after so many seconds; None waits.
        steps: the first steps are enough: after so many the program ends as by `sys.exit()`, and where `timeout_s` is
            over before, what was recorded until then is a result too.
        is_module: see `program`.
        environment: is set in the child on top of this process's own.

    Raises:
        UnknownGpuError: no such GPU, before anything runs.
        DryRunError: the program failed for another reason, took longer than `timeout_s`, or can't be found.
    """
    find_device(gpu)
    with tempfile.TemporaryDirectory(prefix="vramprof-") as scratch:
        folder = out or Path(scratch) / "dry-run.vram"
        target = ["-m"] * is_module + _target(program, arguments, Path(scratch))
        options = ["--no-oom-dump", "--emulate", gpu, "-o", str(folder)]
        options += [] if steps is None else ["--stop-after", str(steps)]
        command = [sys.executable, "-c", _START, "run", *options, *target]
        code, last_line = _run(command, _name(program), timeout_s, environment or {}, partly=steps is not None)
        recording = load_folder(folder) if open_folder(folder) and code != _REFUSED else None
    if recording is not None and (code == 0 or recording.origin == "oom" or (code == _INTERRUPTED and steps)):
        return recording
    raise DryRunError(f"the dry run of {_name(program)} failed: {last_line or f'exit code {code}'}")


def _run(
    command: list[str], name: str, timeout_s: float | None, environment: Mapping[str, str], *, partly: bool
) -> tuple[int, str]:
    """Its exit code and the last line of what it said on stderr; `partly`: out of time, it may still save its work."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        errors="replace", env={**os.environ, "PYTHONPATH": _python_path(), **environment},
    ) as child:  # fmt: skip
        try:
            stderr = _wait(child, timeout_s, partly=partly)
        except subprocess.TimeoutExpired:
            raise DryRunError(f"the dry run of {name} took longer than {timeout_s:g} s") from None
        finally:
            child.kill()
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("vramprof: recorded")]
    return child.returncode, _error_line(lines)


def _wait(child: subprocess.Popen[str], timeout_s: float | None, *, partly: bool) -> str:
    try:
        return child.communicate(timeout=timeout_s)[1]
    except subprocess.TimeoutExpired:
        if not partly:
            raise
        child.send_signal(signal.SIGINT)
        return child.communicate(timeout=_GRACE_S)[1]


def _error_line(lines: Sequence[str]) -> str:
    """The line that names the exception; the report of what was recorded until then stands behind it."""
    named = next((line for line in lines if re.match(r"vramprof: |[\w.]+(Error|Exception|Exit|Interrupt)\b", line)), "")
    return named.removeprefix("vramprof: ") or (lines[-1] if lines else "")


def _python_path() -> str:
    """The child finds what this process finds, this package included."""
    own = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(dict.fromkeys([*filter(None, sys.path), own]))


def _target(program: Program, arguments: Sequence[Any], scratch: Path) -> list[str]:
    """What follows `vramprof run`."""
    if not callable(program):
        return [str(program), *map(str, arguments)]
    call = scratch / "call.pickle"
    try:
        call.write_bytes(pickle.dumps((_home(program), program.__qualname__, tuple(arguments))))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DryRunError(f"the arguments of {_name(program)} can't be sent to a child process: {error}") from None
    return ["-m", "vramprof.prediction.call", str(call)]


def _home(function: Callable[..., Any]) -> str:
    """The file of a script's function, the module of any other."""
    name = getattr(function, "__qualname__", "<")
    if "<" in name:
        raise DryRunError(f"{_name(function)} can't be found by a child process: define it at the top of a module")
    if function.__module__ != "__main__":
        return function.__module__
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None:
        raise DryRunError(f"{_name(function)} was typed in: put it into a file, so that a child process can run it")
    return str(Path(file).resolve())


def _name(program: Program) -> str:
    return getattr(program, "__qualname__", repr(program)) if callable(program) else str(program)
