"""Managed memory: it can be asked for a place, and takes nothing of the card."""

from __future__ import annotations

from programs import told_by

MANAGED = """
import ctypes, json, torch
free = torch.cuda.mem_get_info()[0]
runtime = ctypes.CDLL(None)
runtime.cudaMemPrefetchAsync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
managed, device = ctypes.c_void_p(), ctypes.c_void_p()
runtime.cudaMallocManaged(ctypes.byref(managed), ctypes.c_size_t(1 << 30), 1)
taken = free - torch.cuda.mem_get_info()[0]
runtime.cudaMalloc(ctypes.byref(device), ctypes.c_size_t(1 << 20))
errors = [runtime.cudaMemPrefetchAsync(one, 1 << 20, 0, None) for one in (managed, device)]
"""


def test_managed_memory_can_be_prefetched_and_takes_nothing_of_the_card() -> None:
    assert told_by(f"{MANAGED}\nprint(json.dumps([taken, errors]))") == [0, [0, 1]]
