"""Turns storages that only autograd's graph keeps into the tensor whose history they are.

Nodes are walked from each tensor's `grad_fn`; what a node saved is read as it was packed, so that no hook of the
user's runs and nothing is recomputed. Blind to: what hooks have packed into something else, and torch before
`SavedTensor.data`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

Key = tuple[int, int]
"""(device index, address of the storage)."""

_saved_names: dict[type, tuple[str, ...]] = {}


def find_graph_owners(
    wanted: set[Key], nodes_wanted: set[int], tensors: Iterable[Any], storage: Callable[[Any], Key | None],
    *, deadline: float,
) -> tuple[dict[Key, Any], dict[int, Any]]:  # fmt: skip
    """For each storage, and each node by its id, a tensor whose history holds it; those not found are left out.

    Args:
        wanted: the storages.
        nodes_wanted: ids of nodes that Python code has defined (`ctx`).
        tensors: every tensor that has a history.
        storage: the key of a tensor's storage.
        deadline: on `time.monotonic`.
    """
    owners: dict[Key, Any] = {}
    node_owners: dict[int, Any] = {}
    seen: set[Any] = set()
    for tensor in tensors:
        if time.monotonic() > deadline or (len(owners) == len(wanted) and len(node_owners) == len(nodes_wanted)):
            break
        pending = [tensor.grad_fn]
        while pending:
            node = pending.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if id(node) in nodes_wanted:
                node_owners.setdefault(id(node), tensor)
            for saved in _saved(node):
                key = storage(saved)
                if key in wanted:
                    owners.setdefault(key, tensor)
            pending += [following for following, _ in node.next_functions]
            if len(seen) % 1024 == 0 and time.monotonic() > deadline:
                break
    return owners, node_owners


def _saved(node: Any) -> list[Any]:
    """The tensors that a node keeps for its backward."""
    names = _saved_names.get(type(node))
    if names is None:
        names = tuple(name for name in dir(type(node)) if name.startswith("_raw_saved_"))
        _saved_names[type(node)] = names
    found = []
    for name in names:
        try:
            packed = getattr(node, name)
        except RuntimeError:  # freed by a backward
            continue
        for one in packed if type(packed) in (tuple, list) else (packed,):
            found.append(getattr(one, "data", None))
    return [one for one in found if one is not None]
