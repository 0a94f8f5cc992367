"""Runs the user's program in this process, as `python SCRIPT` or `python -m MODULE` would, and gives its exit code."""

from __future__ import annotations

import importlib.util
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vramprof.errors import VramprofError
from vramprof.profiler import Profiler

Program = Callable[[], object]


def prepare(script: str, arguments: list[str], *, module: bool) -> Program:
    """Set sys.argv and sys.path as the interpreter would; gives what runs the program.

    Raises:
        VramprofError: there is no such script or module.
    """
    sys.argv = [script, *arguments]
    if module:
        sys.path.insert(0, str(Path.cwd()))
        try:
            found = importlib.util.find_spec(script)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise VramprofError(f"no module named {script}")
        return lambda: runpy.run_module(script, run_name="__main__", alter_sys=True)
    if not Path(script).exists():
        raise VramprofError(f"{script}: no such script")
    sys.path.insert(0, str(Path(script).resolve().parent))
    return lambda: runpy.run_path(script, run_name="__main__")


def run_program(program: Program, session: Profiler) -> int:
    """Run it under the profiler; a traceback is printed as the interpreter would, without our own frames."""
    session.__enter__()
    with _whole_on_sigterm(session):
        try:
            program()
        except BaseException as error:
            session.__exit__(type(error), error, error.__traceback__)
            return _code_of(error)
        session.__exit__(None, None, None)
        return 0


@contextmanager
def _whole_on_sigterm(session: Profiler) -> Iterator[None]:
    """A SIGTERM that the program leaves to the system ends the session, and then the process as it would have.

    Python runs handlers between its own instructions: a program that hangs in a call of C hangs on, until SIGKILL.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: object) -> None:
        leave_alone()  # a second one kills at once
        session.__exit__(None, None, None)
        os.kill(os.getpid(), number)

    def leave_alone() -> None:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, end)
    os.register_at_fork(after_in_child=leave_alone)
    try:
        yield
    finally:
        leave_alone()


def _code_of(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return _exit_code(error)
    _print_traceback(error)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    print(error.code, file=sys.stderr)
    return 1


def _print_traceback(error: BaseException) -> None:
    trace = error.__traceback__
    ours = (__file__, runpy.__file__, "<frozen runpy>")
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
