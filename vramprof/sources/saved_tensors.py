"""Turns an autograd graph into the storages that it saved for backward, without running a hook of anyone's."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

_saved_names: dict[type, tuple[str, ...]] = {}
_SOFTMAX = ("SoftmaxBackward0", "SafeSoftmaxBackward0")


def saved_storages(nodes: Iterable[Any]) -> Iterator[tuple[str, int, int, int]]:
    """(name, device index, address, bytes) of each CUDA storage saved by these nodes and all that they lead to.

    The name is the kinds of the nodes that saved it and the type of its elements: "MulBackward0 ReluBackward0 float32".
    Of a softmax, its shape stands between them: "BmmBackward0 SoftmaxBackward0 8x12x1024x1024 float32".

    Blind to: what was packed by a saved-tensors hook (checkpointing, offload), for unpacking would run it; everything,
    on torch before 2.11, whose SavedTensor has no `data`.
    """
    import torch

    if not hasattr(torch._C._autograd.SavedTensor, "data"):
        return
    found: dict[int, tuple[int, int, str]] = {}
    savers: dict[int, set[str]] = {}
    shapes: dict[int, str] = {}
    seen: set[Any] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        pending.extend(following for following, _ in node.next_functions if following is not None)
        for tensor in _saved_by(node):
            if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.is_cuda:
                address = tensor.data_ptr()
                kind = type(node).__name__
                found[address] = (tensor.get_device(), tensor.nbytes, _type_name(tensor.dtype))
                savers.setdefault(address, set()).add(kind)
                if kind in _SOFTMAX:
                    shapes[address] = "x".join(map(str, tensor.shape))
    for address, (device, size_bytes, dtype) in found.items():
        shape = (shapes[address],) if address in shapes else ()
        yield " ".join([*sorted(savers[address]), *shape, dtype]), device, address, size_bytes


@functools.cache
def _type_name(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


def _saved_by(node: Any) -> Iterator[Any]:
    kind = type(node)
    names = _saved_names.get(kind)
    if names is None:
        names = _saved_names[kind] = tuple(name for name in dir(node) if name.startswith("_raw_saved_"))
    for name in names:
        try:
            saved = getattr(node, name)
        except RuntimeError:  # freed by an earlier backward
            continue
        for item in saved if isinstance(saved, (list, tuple)) else (saved,):
            if item.unpack_hook is None:
                yield item.data
