"""Turns tensors of a running program into names: whose storage lay at an address, at a moment of torch's history.

A moment is an `annotate` event of torch's own recorder (torch 2.13 and newer), so that its place among the events is
exact; where torch cannot do that, it has a time alone.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vramprof.recording import Recorder
from vramprof.recording.schema import CONTEXT_PREFIX
from vramprof.sources.packed_rows import PackedRows

if TYPE_CHECKING:
    import torch

_COLUMNS = ("moment", "time_ns", "device", "address", "size_bytes", "category", "name")
_DEPTH = 4
_MOST_TRIED = 16


class NameLog:
    """Names given to addresses at moments; they become rows of the table "tensors".

    Without `marks` torch's history is left alone, and moments have a time only.
    """

    def __init__(self, recorder: Recorder, *, marks: bool = True) -> None:
        import torch

        self._moments = itertools.count()
        self._rows = PackedRows(recorder, "tensors", _COLUMNS, texts=("category", "name"))
        self._annotate = getattr(torch._C, "_cuda_annotateMemory", None) if marks else None

    def give(self, category: str, named: Iterable[tuple[str, int, int, int]]) -> None:
        """Name storages now: (name, device, any address inside, bytes) each. One moment for all of them."""
        named = [item for item in named if item[2]]
        if not named:
            return
        number, now = next(self._moments), time.time_ns()
        if self._annotate is not None:
            for device in {device for _, device, _, _ in named}:
                self._mark(number, [address for _, where, address, _ in named[:_MOST_TRIED] if where == device])
        rows = self._rows
        kind = rows.number(category)
        for name, device, address, size_bytes in named:
            rows.append(number, now, device, address, size_bytes, kind, rows.number(name))

    def _mark(self, number: int, addresses: list[int]) -> None:
        """An event of torch's history, on the first address that begins a block."""
        assert self._annotate is not None
        for address in addresses:
            with contextlib.suppress(RuntimeError):  # inside a block, or of another allocator
                self._annotate(address, f"{CONTEXT_PREFIX}{number}")
                return


def storages(value: Any, name: str, depth: int = _DEPTH) -> Iterator[tuple[str, int, int, int]]:
    """(name, device index, address, bytes) of every CUDA storage in a value.

    Looks into the local part of a sharded tensor, the inner tensors of a wrapper subclass, the quantisation state of a
    quantised parameter, and, `depth` deep, into sequences, mappings and caches of keys and values.
    """
    import torch

    if isinstance(value, torch.Tensor):
        yield from _of_tensor(value, name)
    elif depth:
        for key, item in _items(value):
            yield from storages(item, f"{name}.{key}" if name else key, depth - 1)


def _of_tensor(tensor: torch.Tensor, name: str) -> Iterator[tuple[str, int, int, int]]:
    inner = getattr(tensor, "_local_tensor", None)
    if inner is not None:
        yield from _of_tensor(inner, name)
        return
    if hasattr(tensor, "__tensor_flatten__"):
        for attribute in tensor.__tensor_flatten__()[0]:
            yield from _of_tensor(getattr(tensor, attribute), name)
        return
    for attribute, item in vars(getattr(tensor, "quant_state", None) or _Nothing).items():
        yield from storages(item, f"{name}.{attribute}", 1)
    if not tensor.is_cuda:
        return
    try:
        storage = tensor.untyped_storage()
        yield name, tensor.device.index or 0, storage.data_ptr() or tensor.data_ptr(), storage.nbytes()
    except (RuntimeError, NotImplementedError):  # fake tensors, sparse ones, wrappers without a storage of their own
        return


class _Nothing:
    __slots__ = ()


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(str(index), item) for index, item in enumerate(value[:_MOST_ITEMS])]
    if is_cache(value):
        return list(vars(value).items())
    return ()


_MOST_ITEMS = 256


def is_cache(value: Any) -> bool:
    """Whether this is a cache of keys and values, or a layer of one, as transformers and others call theirs."""
    return any("Cache" in kind.__name__ for kind in type(value).__mro__) and hasattr(value, "__dict__")
