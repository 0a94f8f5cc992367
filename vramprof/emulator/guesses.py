"""Tells which reads of the emulated device's memory gave a value that no kernel had computed."""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vramprof.emulator.steering import answer

Listener = Callable[[int, int], None]
"""(device index, bytes read), called in the thread that reads, before it goes on."""

_WAITING_READS = 50_000

_listeners: list[Listener] = []
_reads_by_place: Counter[tuple[str, int]] = Counter()


def _tell(device: int, size_bytes: int, address: int) -> None:
    frame = sys._getframe().f_back  # None in a thread that runs no Python
    value = answer(frame, size_bytes)
    if value is not None:
        ctypes.memmove(address, value, size_bytes)
    elif frame is not None:
        _warn_of_waiting(frame)
    for listener in _listeners:
        listener(device, size_bytes)


def _warn_of_waiting(frame: FrameType) -> None:
    """Said once for each line, since a program that waits for a value would otherwise seem to hang."""
    place = (frame.f_code.co_filename, frame.f_lineno)
    _reads_by_place[place] += 1
    if _reads_by_place[place] == _WAITING_READS:
        print(
            f"vramprof: {place[0]}:{place[1]} has read {_WAITING_READS:,} values that the emulated device never"
            " computed: if it waits for one of them, it waits forever",
            file=sys.stderr,
        )


_c_tell = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p)(_tell)  # C may call it at any time


def attach(library: ctypes.CDLL) -> None:
    """Have the device's library tell of every guessed read of up to 4 KiB, from now on."""
    library.vramprof_listen_to_guesses(_c_tell)


@contextmanager
def listen_to_guesses(listener: Listener) -> Iterator[None]:
    """Hear of each guessed read while the block runs; of none where nothing is emulated."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
