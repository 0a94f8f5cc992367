"""Takes torch's snapshot of its allocator without having torch load its compiler for it.

To name the frames of compiled code, torch asks itself for `torch._inductor`, which newer versions import on that very
question: a second of time and a quarter of a GiB of host memory, at the moment when memory has run out. Where it is not
loaded, no code was compiled, and the answer can be no.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_NAME = "torch._inductor"


def take_snapshot() -> dict[str, Any]:
    """`torch.cuda.memory._snapshot()`: the history and the allocator's state."""
    import torch

    with _compiler_left_alone():
        return torch.cuda.memory._snapshot()  # type: ignore[no-any-return]


def take_state() -> dict[str, Any]:
    """The same without the history, which costs next to nothing (torch 2.11 and newer; elsewhere, with it)."""
    import torch

    with _compiler_left_alone():
        try:
            snapshot: dict[str, Any] = torch._C._cuda_memorySnapshot((0, 0, False))
        except (TypeError, ValueError, RuntimeError):
            snapshot = torch.cuda.memory._snapshot()
    return snapshot


class _NotLoaded(ModuleType):
    """Stands for torch's compiler: has no code cache, and is the real one for whoever asks for anything else."""

    def __getattr__(self, name: str) -> Any:
        if name == "codecache":
            raise AttributeError(name)
        return getattr(importlib.import_module(_NAME), name)


@contextmanager
def _compiler_left_alone() -> Iterator[None]:
    import torch

    if _NAME in sys.modules or "_inductor" in vars(torch):
        yield
        return
    ours = torch._inductor = _NotLoaded(_NAME)
    try:
        yield
    finally:
        if vars(torch).get("_inductor") is ours:  # another thread may have imported the real one
            del torch._inductor
