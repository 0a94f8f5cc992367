"""Tells when torch's allocator runs out of memory, and hands over the exception at its birth, before anyone catches it.

torch calls an observer where a request fails, in whatever thread, before there is an exception. It does so neither for
requests that `throw_on_cudamalloc_oom` turns down nor where it is of a version that has no observer; there the birth
of the exception is the signal. A class's `__init__` runs in Python's own words in the thread that will see the error,
leaves no frame in a traceback, and needs no tracing.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from vramprof.recording import Frame

_MOST_FRAMES = 64
_OURS = (__file__, contextlib.__file__, str(Path(__file__).parents[1] / "oom_watch.py"))


@dataclass(frozen=True)
class Failure:
    """One failed request; None where the signal does not tell. `frames` are the thread's, innermost first.

    `tried_bytes` is the segment that torch asked the driver for, not the block.
    """

    frames: tuple[Frame, ...]
    thread: str
    device: int | None = None
    tried_bytes: int | None = None
    free_bytes: int | None = None
    text: str = ""


class Listener(Protocol):
    """Who wants to know. Nothing that it raises reaches the program."""

    def struck(self, failure: Failure) -> None:
        """A request has failed; nothing of it has been unwound."""

    def born(self, error: BaseException) -> None:
        """The exception of a failed request, or of one that failed elsewhere, has been made."""


_listeners: list[Listener] = []
_observed = False


def listen(listener: Listener, *, last: bool = False) -> None:
    """From here on this one is told, and nobody else; `last`: only while there is no other. CUDA is initialised."""
    _listeners.insert(0 if last else len(_listeners), listener)
    _attach_observer()
    _watch_births()


def leave(listener: Listener) -> None:
    """It is told no more."""
    _listeners.remove(listener)
    if not _listeners and "torch" in sys.modules:
        import torch

        with contextlib.suppress(AttributeError):  # never watched
            del torch.OutOfMemoryError.__init__


def count_failures() -> int:
    """How many requests have failed in this process until now; 0 before CUDA is initialised."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    every = (torch._C._cuda_memoryStats(device) for device in range(torch.cuda.device_count()))
    return sum(stats["num_ooms"] + stats.get("num_oom_rejections", 0) for stats in every)


def failure_of(error: BaseException) -> Failure:
    """What can be told of an error without a signal of torch's: its text, and where it was or will be raised."""
    trace = error.__traceback__
    if trace is None:
        frames = _callers_frames()
    else:
        while trace.tb_next is not None:
            trace = trace.tb_next
        frames = _python_frames(trace.tb_frame, trace.tb_lineno)
    return Failure(frames, threading.current_thread().name, text=str(error))


def device_is_out_of_reach() -> bool:
    """Whether this process was forked from one that used CUDA, and so can't."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda._is_in_bad_fork())


def _attach_observer() -> None:
    """Once in a process: torch knows no way back."""
    global _observed
    import torch

    attach = getattr(torch._C, "_cuda_attach_out_of_memory_observer", None)
    if attach is not None and not _observed:
        attach(_observe)
        _observed = True


def _watch_births() -> None:
    torch = sys.modules.get("torch")
    kind = getattr(torch, "OutOfMemoryError", None)
    if kind is None or "__init__" in vars(kind):
        return

    def born(self: BaseException, *args: Any, **kwargs: Any) -> None:
        RuntimeError.__init__(self, *args, **kwargs)
        with kept_from_the_program():
            _listeners[-1].born(self)

    kind.__init__ = born


def _observe(device: int, tried_bytes: int, total_bytes: int, free_bytes: int) -> None:
    with kept_from_the_program():
        if _listeners:
            frames, thread = _callers_frames(), threading.current_thread().name
            _listeners[-1].struck(Failure(frames, thread, device, tried_bytes, free_bytes))


@contextlib.contextmanager
def kept_from_the_program() -> Iterator[None]:
    """Whatever fails here, the program's own error is what it gets; Ctrl-C gets through, but afterwards."""
    try:
        yield
    except KeyboardInterrupt:
        import _thread

        _thread.interrupt_main()
    except BaseException as error:
        with contextlib.suppress(Exception):
            print(f"vramprof: an out-of-memory error was not recorded: {error!r}", file=sys.stderr)


def _callers_frames() -> tuple[Frame, ...]:
    """The frames of this thread, or, in a thread of the autograd engine that has none, of the one that waits for it."""
    main = sys._current_frames().get(threading.main_thread().ident or 0)
    return _python_frames(sys._getframe(1)) or _python_frames(main)


def _python_frames(frame: FrameType | None, line: int | None = None) -> tuple[Frame, ...]:
    """From this frame outwards, ours left out; `line` is where the innermost one was."""
    while frame is not None and frame.f_code.co_filename in _OURS:
        frame = frame.f_back
    found: list[Frame] = []
    while frame is not None and len(found) < _MOST_FRAMES:
        found.append(Frame(frame.f_code.co_filename, line or frame.f_lineno, frame.f_code.co_name))
        frame, line = frame.f_back, None
    return tuple(found)
