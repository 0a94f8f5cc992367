"""Turns the reads of values that an emulated device never computed into rows: the bias of a dry run, made visible."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from vramprof.emulator import guesses, listen_to_guesses
from vramprof.recording import Frame, Recorder

_OWN = (__file__, guesses.__file__)


@contextmanager
def guessed_reads(recorder: Recorder) -> Iterator[None]:
    """Count them by line while the block runs. Blind to: reads of more than 4 KiB, which are data and no decision."""
    counts: Counter[tuple[int, int, tuple[Frame, ...]]] = Counter()
    lock = threading.Lock()

    def count(device: int, size_bytes: int) -> None:
        key = (device, size_bytes, _python_stack())
        with lock:
            counts[key] += 1

    try:
        with listen_to_guesses(count):
            yield
    finally:
        for (device, size_bytes, frames), reads in counts.items():
            recorder.add("guessed_reads", device, size_bytes, reads, recorder.stacks.add(frames))


def _python_stack() -> tuple[Frame, ...]:
    frames = []
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_filename not in _OWN:
            frames.append(Frame(code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(frames)
