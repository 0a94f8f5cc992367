"""Turns torch's signals and errors that nobody caught into dumps, one per failure, and notes on the exceptions."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vramprof.oom_dump import Dumps
from vramprof.recording import Recording
from vramprof.sources.oom_signals import (
    Failure,
    count_failures,
    device_is_out_of_reach,
    failure_of,
    kept_from_the_program,
    leave,
    listen,
)  # fmt: skip

_MARK = "_vramprof_told"
"""On an exception with a note of ours: whether a dump was tried for it alone."""
_WORDS = ("out of memory", "STATUS_ALLOC_FAILED", "ou tried to allocate", "Allocation on device", "tely rejected")


class OomWatch:
    """Takes the evidence when memory runs out, in whatever thread, and tells of it on the exception.

    A failure that torch itself puts up with (cuDNN tries another engine) is told to nobody. A forked child has dumps of
    its own, or, where its parent had used CUDA, none.

    Args:
        folder: where dumps go.
        name: gives what their names begin with, when one is written.
        take: gives the evidence; it may fail.
    """

    def __init__(self, folder: Path, name: Callable[[], str], take: Callable[[Failure], Recording]) -> None:
        self._folder = folder
        self._name = name
        self._take = take
        self._begin()

    def _begin(self) -> None:
        self.dumps = Dumps(self._folder, self._name)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._seen = count_failures()
        self._awaits_error = False
        self._text = ""
        self._note = self._printed = ""
        self._caught_count = 0

    def struck(self, failure: Failure) -> None:
        """A request has failed: write the dump now. Whether an error comes of it, `born` will tell."""
        if self._is_silent() or not self._lock.acquire(blocking=False):
            return
        try:
            self._seen = count_failures()
            self._awaits_error = True
            self._note = self.dumps.write(lambda: self._take(failure), failure)
        finally:
            self._lock.release()

    def born(self, error: BaseException) -> None:
        """The exception is made: it gets the note. One that is made again, with the same text, gets the same."""
        if self._is_silent():
            return
        text = str(error)
        if not self._awaits_error and count_failures() != self._seen:
            self.struck(failure_of(error))
        if self._awaits_error:
            self._awaits_error, self._text = False, text
            self.dumps.keep()
            self._caught_count += 1  # until it is seen to pass
        elif not self._text or self._text not in text:
            return  # raised by the program, or sent by another process
        self._tell(error)

    def passes(self, error: BaseException) -> None:
        """Nobody caught this error. If it is about memory and has no dump yet, it gets one now."""
        if self._is_silent():
            return
        chain = list(_chain(error))
        told = [getattr(one, _MARK) for one in chain if hasattr(one, _MARK)]
        self._caught_count = max(self._caught_count - len(told), 0)
        if any(told):
            return
        cause = next((one for one in chain if _is_about_memory(one)), None)
        if cause is None:
            return
        failure = failure_of(cause)
        self._note = self.dumps.write(lambda: self._take(failure), failure, at_once=True)
        self.dumps.keep()
        self._tell(error)

    def close(self) -> None:
        """Nothing more is to come. Errors that the program has caught are told in a line: nobody saw their notes."""
        if self._is_silent():
            return
        self.dumps.close()
        if self._caught_count and self.dumps.newest is not None:
            times = "" if self._caught_count == 1 else f" {self._caught_count} times"
            print(f"vramprof: memory ran out, and the error was caught{times}: {self.dumps.command}", file=sys.stderr)

    def _is_silent(self) -> bool:
        if os.getpid() == self._pid:
            return False
        if device_is_out_of_reach():
            return True
        self._begin()
        return False

    def _tell(self, error: BaseException) -> None:
        """Python 3.10 knows no notes: there it is printed, once."""
        if hasattr(error, "add_note"):
            error.add_note(self._note)
        elif self._note != self._printed:
            self._printed = self._note
            print(self._note, file=sys.stderr)
        setattr(error, _MARK, self.dumps.is_new)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it came of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_about_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)
    )


@contextmanager
def watching(watch: OomWatch, *, beneath: bool = False) -> Iterator[OomWatch]:
    """torch's signals, and errors that end a thread or the program, reach this watch; `beneath`: while it is alone."""

    def passes(error: BaseException | None) -> None:
        with kept_from_the_program():
            if error is not None:
                watch.passes(error)

    def program_ends(kind: Any, error: Any, trace: Any) -> None:
        passes(error)
        of_program(kind, error, trace)

    def thread_ends(about: Any) -> None:
        passes(about.exc_value)
        of_thread(about)

    of_program, of_thread = sys.excepthook, threading.excepthook
    sys.excepthook, threading.excepthook = program_ends, thread_ends
    listen(watch, last=beneath)
    try:
        yield watch
    finally:
        if sys.excepthook is program_ends:
            sys.excepthook = of_program
        if threading.excepthook is thread_ends:
            threading.excepthook = of_thread
        leave(watch)
        with kept_from_the_program():
            watch.close()
