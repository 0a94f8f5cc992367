"""Makes programs that ask for a CUDA device use torch's meta device, and see a card when they look.

A function mode maps "cuda" to "meta" wherever torch's API takes a device, and back where a tensor tells its own; the
names of `torch.cuda` that programs ask are answered for the card.

Blind to: C++ that looks for a device by itself, `torch.Generator("cuda")`, process groups, and more than one card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo  # what torch imports by itself on first use would not bear the names exchanged below
import torch.utils._foreach_utils
from torch.overrides import TorchFunctionMode

from vramprof.sources.meta_device.ledger import Ledger

_base = torch._C.TensorBase
_is_meta = _base.is_meta.__get__
CUDA = torch.device("cuda", 0)


@dataclass(frozen=True)
class Card:
    """What a program can learn of the card."""

    name: str
    total_memory: int
    major: int
    minor: int
    multi_processor_count: int
    limit_bytes: int
    """Of total memory, what torch can reserve."""


class Devices(TorchFunctionMode):  # type: ignore[misc]  # torch leaves it untyped
    """cuda in, meta below, cuda out."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._answers: dict[Any, Callable[..., Any]] = {
            _base.device.__get__: lambda tensor: CUDA,
            _base.is_cuda.__get__: lambda tensor: True,
            _base.is_meta.__get__: lambda tensor: False,
            _base.get_device: lambda tensor: 0,
            _base.data_ptr: ledger.address_of,
            _base.pin_memory: lambda tensor, *_: tensor,
            _base.is_pinned: lambda tensor, *_: False,
            _base.record_stream: lambda tensor, stream: None,
            _base.cuda: lambda tensor, *args, **kwargs: tensor,
            _base.tolist: lambda tensor: tensor.to("cpu").tolist(),
            _base.numpy: lambda tensor, *args, **kwargs: tensor.to("cpu").numpy(*args, **kwargs),
        }
        self._real = {
            _base.cuda: lambda tensor, *_, **__: tensor.to("meta"),
            _base.pin_memory: lambda tensor, *_: tensor,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = self._answers.get(func)
        if answer is not None and isinstance(args[0], torch.Tensor):
            if _is_meta(args[0]):
                return answer(*args, **kwargs)
            if func in self._real:
                return self._real[func](*args, **kwargs)
        if kwargs:
            if kwargs.get("pin_memory"):
                kwargs = {**kwargs, "pin_memory": False}
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": _below(kwargs["device"])}
        return func(*map(_below, args), **kwargs)


def _below(value: Any) -> Any:
    """The device that is used for this one; every other value as it is."""
    if isinstance(value, torch.device):
        return torch.device("meta") if value.type == "cuda" else value
    return "meta" if isinstance(value, str) and (value == "cuda" or value.startswith("cuda:")) else value


class _Nothing:
    """A stream or an event of a device that is done at once."""

    device, cuda_stream = CUDA, 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: {"elapsed_time": 0.0, "is_capturing": False}.get(name, True)

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@contextmanager
def card_surface(card: Card, ledger: Ledger, notes: set[str]) -> Iterator[None]:
    """While the block runs, programs in this thread find the card."""
    allocator = ledger.allocator

    def left_as_it_is(model: Any = None, *args: Any, **kwargs: Any) -> Any:
        notes.add("torch.compile is left out: what it fuses or plans in memory is not in this prediction")
        return model if model is not None else lambda function: function

    def reset_peaks(*_: Any) -> None:
        allocator.peak_allocated, allocator.peak_reserved = allocator.allocated, allocator.reserved

    with ExitStack() as stack:
        for owner, names in (
            (torch.cuda, {
                "is_available": lambda: True, "is_initialized": lambda: True, "device_count": lambda: 1,
                "current_device": lambda: 0, "set_device": _ignored, "init": _ignored, "_lazy_init": _ignored,
                "synchronize": _ignored, "empty_cache": allocator.empty_cache, "get_device_name": lambda *_: card.name,
                "get_device_capability": lambda *_: (card.major, card.minor), "get_device_properties": lambda *_: card,
                "is_bf16_supported": lambda *_, **__: card.major >= 8, "manual_seed": _ignored, "ipc_collect": _ignored,
                "manual_seed_all": _ignored, "memory_allocated": lambda *_: allocator.allocated,
                "max_memory_allocated": lambda *_: allocator.peak_allocated,
                "memory_reserved": lambda *_: allocator.reserved,
                "max_memory_reserved": lambda *_: allocator.peak_reserved,
                "reset_peak_memory_stats": reset_peaks, "reset_max_memory_allocated": reset_peaks,
                "mem_get_info": lambda *_: (card.limit_bytes - allocator.reserved, card.total_memory),
                "is_current_stream_capturing": lambda: False,
                "Stream": _Nothing, "Event": _Nothing, "current_stream": _Nothing, "default_stream": _Nothing,
                "stream": lambda *_: nullcontext(), "device": lambda *_: nullcontext(),
                "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8), "set_rng_state": _ignored,
                "get_rng_state_all": lambda *_: [], "set_rng_state_all": _ignored,
            }),
            (torch, {"compile": left_as_it_is}),
            (torch.nn.RNNBase, {"flatten_parameters": _ignored}),
            (getattr(torch, "accelerator", None), {
                "is_available": lambda: True, "device_count": lambda: 1, "current_device_index": lambda: 0,
                "current_accelerator": lambda *_, **__: torch.device("cuda"), "synchronize": _ignored,
                "current_stream": _Nothing, "set_stream": _ignored, "set_device_index": _ignored,
                "set_device_idx": _ignored,
            }),
            (torch.utils._foreach_utils, {
                "_get_foreach_kernels_supported_devices": lambda: ["cuda", "meta"],
                "_get_fused_kernels_supported_devices": lambda: ["cuda", "meta", "cpu"],
            }),
        ):  # fmt: skip
            for name, value in names.items():
                if hasattr(owner, name):
                    stack.callback(setattr, owner, name, getattr(owner, name))
                    setattr(owner, name, value)
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter stays itself, as it does on a card
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        stack.enter_context(Devices(ledger))
        yield


def _ignored(*args: Any, **kwargs: Any) -> None:
    pass
