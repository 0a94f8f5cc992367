"""Tells which functions of NVIDIA's libraries the emulated device answered with an estimated size."""

from __future__ import annotations

import ctypes
from collections import Counter

from vramprof.emulator import loader


def count_estimates() -> Counter[str]:
    """How often each function did so in this process until now; empty where nothing is emulated."""
    counts: Counter[str] = Counter()
    if loader.active() is None:
        return counts
    estimate = loader.device_library().vramprof_estimate
    estimate.restype = ctypes.c_char_p
    count = ctypes.c_uint64()
    while (function := estimate(len(counts), ctypes.byref(count))) is not None:
        counts[function.decode()] = count.value
    return counts
