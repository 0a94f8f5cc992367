"""Names what a program nobody watched holds at this moment: the weights, buffers, gradients and states that are alive.

Nothing of autograd's graph is read: where memory runs out within backward, a thread holds the lock of the node that it
is in, and asking that node for what it saved would wait for ever.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from vramprof.recording import Recorder
from vramprof.sources.names import NameLog, storages

if TYPE_CHECKING:
    import torch


def name_what_is_alive(recorder: Recorder) -> None:
    """Every module and optimizer that Python's collector knows; about a third of a second for a million objects."""
    import torch

    modules, optimizers = _alive(torch.nn.Module, torch.optim.Optimizer)
    roots = _roots(modules)
    parameters = [item for root in roots for item in root.named_parameters()]
    paths = {id(parameter): path for path, parameter in parameters}
    parameters += [("", one) for optimizer in optimizers for one in _parameters(optimizer) if id(one) not in paths]
    buffers = [item for root in roots for item in root.named_buffers()]
    names = NameLog(recorder, marks=False)
    names.give("weights", _storages(parameters))
    names.give("buffers", _storages(buffers))
    names.give("gradients", _storages((path, parameter.grad) for path, parameter in parameters))
    for optimizer in optimizers:
        names.give("optimizer", _storages((paths.get(id(one), ""), state) for one, state in optimizer.state.items()))


def _alive(*kinds: type[Any]) -> tuple[list[Any], ...]:
    """What is alive of each kind. A class is asked once: some objects do odd things when they are asked."""
    found: tuple[list[Any], ...] = tuple([] for _ in kinds)
    places: dict[type[Any], list[Any] | None] = {}
    for item in gc.get_objects():
        kind = type(item)
        if kind not in places:
            places[kind] = next((rows for rows, one in zip(found, kinds, strict=True) if issubclass(kind, one)), None)
        place = places[kind]
        if place is not None:
            place.append(item)
    return found


def _roots(modules: list[torch.nn.Module]) -> list[torch.nn.Module]:
    """Those that are part of no other."""
    parts = {id(part) for module in modules for part in module._modules.values()}
    return [module for module in modules if id(module) not in parts]


def _parameters(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _storages(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, int, int, int]]:
    for name, value in named:
        yield from storages(value, name)
