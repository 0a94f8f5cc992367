"""Tells which reads of the emulated device's memory gave a value that no kernel had computed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vramprof.emulator import loader

Listener = Callable[[int, int], None]
"""(device index, bytes read), called in the thread that reads, before it goes on."""

_listeners: list[Listener] = []


def _tell(device: int, size_bytes: int) -> None:
    for listener in _listeners:
        listener(device, size_bytes)


_c_tell = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_uint64)(_tell)  # lives as long as C may call it


@contextmanager
def listen_to_guesses(listener: Listener) -> Iterator[None]:
    """Hear of each guessed read of up to 4 KiB while the block runs; of none where nothing is emulated."""
    if loader.active() is None:
        yield
        return
    set_listener = loader.device_library().vramprof_listen_to_guesses
    _listeners.append(listener)
    set_listener(_c_tell)
    try:
        yield
    finally:
        _listeners.remove(listener)
        if not _listeners:
            set_listener(None)
