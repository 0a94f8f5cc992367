"""Turns every operation on torch's meta device into allocations and frees of a card that is not there.

An operation's result is a block for as long as its storage lives. What was read back from the card is zeros.

Blind to: what a kernel allocates besides its results (workspaces, temporaries), and storages that are resized.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vramprof.recording import Recorder
from vramprof.sources.meta_device.allocator import Block, CachingAllocator, CardFullError
from vramprof.sources.snapshot import record_snapshot
from vramprof.units import format_bytes

_aten = torch.ops.aten
_DEPTH = 64
_LIBRARY = (
    "/vramprof/sources/", "/torch/utils/_python_dispatch.py", "/torch/utils/_stats.py", "/torch/_ops.py",
    "/torch/_compile.py", "/torch/_dynamo/", "/torch/overrides.py",
)  # fmt: skip


class Ledger(TorchDispatchMode):  # type: ignore[misc]  # torch leaves it untyped
    """Who lives on the card. `context` names the span that the calling thread is in."""

    def __init__(self, *, gpu: str, limit_bytes: int, context: Callable[[], str]) -> None:
        super().__init__()
        self.allocator = CachingAllocator(limit_bytes, self._log)
        self.unknown: dict[str, int] = {}
        self.guesses: dict[tuple[int, ...], list[Any]] = {}
        self._gpu, self._context = gpu, context
        self._blocks: dict[int, tuple[Block, Any]] = {}
        self._events: list[dict[str, Any]] = []
        self._frames = _Frames()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            result = self._run(func, args, kwargs or {})
            for tensor in _tensors(result):
                self._hold(tensor)
        return result

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is _aten._local_scalar_dense.default and args[0].is_meta:
            self._guess(args[0])
            return torch.zeros((), dtype=args[0].dtype).item()
        if func is _aten._to_copy.default and _leaves_the_card(args[0], kwargs):
            self._guess(args[0])
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is _aten.copy_.default and args[1].is_meta and not args[0].is_meta:
            self._guess(args[1])
            return args[0].zero_()
        if func is _aten.nonzero.default and args[0].is_meta:
            self._guess(args[0])
            return torch.empty((0, args[0].dim()), dtype=torch.long, device="meta")
        if func is _aten.equal.default and any(one.is_meta for one in args[:2]):
            self._guess(args[0])
            return True
        try:
            return func(*args, **kwargs)
        except NotImplementedError:
            if not func._schema.is_mutable or not args:
                raise
            self.unknown[str(func)] = self.unknown.get(str(func), 0) + 1
            return args[0]

    def _hold(self, tensor: torch.Tensor) -> None:
        if not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not size or key in self._blocks:
            return
        try:
            block = self.allocator.allocate(size)
        except CardFullError:
            raise torch.OutOfMemoryError(self._full(size)) from None
        self._blocks[key] = block, weakref.ref(storage, lambda _: self._release(key))

    def _release(self, key: int) -> None:
        self.allocator.free(self._blocks.pop(key)[0])

    def _full(self, size: int) -> str:
        return (
            f"CUDA out of memory. Tried to allocate {format_bytes(size)}. PREDICTED for {self._gpu}: "
            f"{format_bytes(self.allocator.allocated)} are allocated, {format_bytes(self.allocator.reserved)} reserved."
        )

    def address_of(self, tensor: torch.Tensor) -> int:
        """Where a tensor of the card lies; 0 where it was not made on it."""
        held = self._blocks.get(tensor.untyped_storage()._cdata)
        return held[0].address + tensor.storage_offset() * tensor.element_size() if held else 0

    def annotate(self, address: int, text: str) -> None:
        """Mark a moment among the events."""
        self._log("annotate", address, 0, text)

    def _guess(self, tensor: torch.Tensor) -> None:
        frames = self._frames.of_the_caller()
        found = self.guesses.setdefault(tuple(map(id, frames)), [0, 0, frames])
        found[0], found[1] = max(found[0], tensor.nbytes), found[1] + 1

    def _log(self, action: str, address: int, size: int, metadata: str | None = None) -> None:
        entry = {
            "action": action, "addr": address, "size": size, "stream": 0, "time_us": time.time_ns() // 1000,
            "user_metadata": self._context() if metadata is None else metadata,
            "frames": self._frames.of_the_caller() if action in ("alloc", "oom") else (),
        }  # fmt: skip
        self._events.append(entry)

    def write(self, recorder: Recorder) -> None:
        """Hand everything to the recorder."""
        segments = [
            {
                "device": 0, "address": address, "total_size": sum(block.size for block in blocks),
                "segment_type": "small" if blocks[0].small else "large", "stream": 0,
                "blocks": [
                    {"address": block.address, "size": block.size, "requested_size": block.requested,
                     "state": "active_allocated" if block.requested else "inactive"}
                    for block in blocks
                ],
            }
            for address, blocks in self.allocator.segments()
        ]  # fmt: skip
        record_snapshot(recorder, {"segments": segments, "device_traces": [self._events]})


def _leaves_the_card(tensor: torch.Tensor, kwargs: Any) -> bool:
    return tensor.is_meta and kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "meta"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


class _Frames:
    """The calling thread's Python stack, innermost first, as torch records it: equal frames are one object."""

    def __init__(self) -> None:
        self._known: dict[tuple[CodeType, int], dict[str, Any]] = {}
        self._skipped: dict[CodeType, bool] = {}
        self._engine = getattr(torch.autograd.graph._engine_run_backward, "__code__", None)

    def of_the_caller(self) -> list[dict[str, Any]]:
        """Empty for what the autograd engine does by itself: on a card its threads have no Python stack."""
        found: list[dict[str, Any]] = []
        frame = sys._getframe(2)
        while frame is not None and len(found) < _DEPTH:
            code = frame.f_code
            if code is self._engine:
                break
            if not self._skips(code):
                key = (code, frame.f_lineno)
                known = self._known.get(key)
                if known is None:
                    known = self._known[key] = {
                        "filename": code.co_filename, "line": frame.f_lineno, "name": code.co_name,
                    }  # fmt: skip
                found.append(known)
            frame = frame.f_back  # type: ignore[assignment]
        return found

    def _skips(self, code: CodeType) -> bool:
        known = self._skipped.get(code)
        if known is None:
            path = code.co_filename.replace("\\", "/")
            known = self._skipped[code] = any(part in path for part in _LIBRARY)
        return known
