"""Makes torch choose on its meta device what it would on a card: autocast's casts, attention kernels, fused dropout.

Each choice is made at a dispatch key above autograd, that of autocast for a back end that nobody has here, so that
backward keeps what it would keep on a card. Which operations autocast knows is read from
the installed torch; what it does with each is torch's documentation (amp.html, "CUDA Ops that can autocast to ...").
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_KEY_NAME = "AutocastPrivateUse1"
_KEY = torch._C.DispatchKey.AutocastPrivateUse1
_aten = torch.ops.aten

LOWER = frozenset({
    "_convolution", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "convolution", "prelu", "addmm", "addmv", "addr", "matmul", "einsum", "mm", "mv",
    "linalg_vecdot", "linear", "addbmm", "baddbmm", "bmm", "chain_matmul", "linalg_multi_dot",
    "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "_scaled_dot_product_flash_attention", "scaled_dot_product_attention",
})  # fmt: skip
WIDEST = frozenset({
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "grid_sampler", "index_put", "scatter_add",
    "tensordot", "vdot",
})  # fmt: skip
"""Everything else that autocast knows runs in fp32."""
_REFUSED = ("binary_cross_entropy", "cudnn_convolution", "cudnn_convolution_transpose")


@contextmanager
def cards_choices() -> Iterator[None]:
    """While the block runs, in this thread."""
    casts = _Casts()
    with ExitStack() as stack:
        every, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
        stack.callback(own._destroy)
        stack.callback(every._destroy)
        every.fallback(torch.library.fallthrough_kernel, _KEY_NAME)
        kernels = {**{name: casts.kernel(name) for name in _autocast_names()}, **_chosen(casts)}
        for name, kernel in kernels.items():
            own.impl(name.removeprefix("aten::"), kernel, _KEY_NAME)
        clear = torch.clear_autocast_cache
        torch.clear_autocast_cache = casts.clear
        stack.callback(setattr, torch, "clear_autocast_cache", clear)
        torch._C._dispatch_tls_set_dispatch_key_excluded(_KEY, False)
        torch._C._dispatch_tls_set_dispatch_key_included(_KEY, True)
        stack.callback(torch._C._dispatch_tls_set_dispatch_key_excluded, _KEY, True)
        stack.callback(torch._C._dispatch_tls_set_dispatch_key_included, _KEY, False)
        yield


def _autocast_names() -> Iterator[str]:
    """Those that the installed torch has a kernel for under CUDA's autocast."""
    for name in torch._C._dispatch_get_all_op_names():
        known = name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(name, "AutocastCUDA")
        if known and name.removeprefix("aten::") not in _REFUSED:
            yield name


def _operation(name: str) -> Callable[..., Any]:
    packet, _, overload = name.removeprefix("aten::").partition(".")
    found: Callable[..., Any] = getattr(getattr(_aten, packet), overload or "default")
    return found


def _below() -> Any:
    """The rest of the dispatcher, as without us."""
    return torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_KEY))


class _Casts:
    """What autocast to a lower precision does to arguments; weights cast once are kept until autocast ends."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[torch.Tensor], torch.Tensor]] = {}

    def clear(self) -> None:
        """Autocast has ended."""
        self._kept.clear()

    def kernel(self, name: str) -> Callable[..., Any]:
        """The kernel of an operation that autocast knows."""
        base = name.removeprefix("aten::").partition(".")[0]
        operation = _operation(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with _below():
                if torch.is_autocast_enabled("cuda"):
                    dtype = self._dtype(base, args)
                    args, kwargs = self._cast(args, dtype), self._cast(kwargs, dtype)
                return operation(*args, **kwargs)

        return call

    def lower(self, value: Any) -> Any:
        """The value in autocast's dtype, if autocast is on."""
        return self._cast(value, torch.get_autocast_dtype("cuda")) if torch.is_autocast_enabled("cuda") else value

    def wide(self, value: Any) -> Any:
        """The value in fp32, if autocast is on."""
        return self._cast(value, torch.float32) if torch.is_autocast_enabled("cuda") else value

    def _dtype(self, base: str, args: Any) -> torch.dtype:
        lower = torch.get_autocast_dtype("cuda")
        if base in LOWER:
            return lower
        if base in WIDEST:
            found = {tensor.dtype for tensor in _floating(args)}
            return torch.float32 if torch.float32 in found else lower
        return torch.float32

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, torch.Tensor):
            return self._cast_tensor(value, dtype)
        if isinstance(value, (list, tuple)):
            return type(value)(self._cast(item, dtype) for item in value)
        if isinstance(value, dict):
            return {key: self._cast(item, dtype) for key, item in value.items()}
        return value

    def _cast_tensor(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if not torch._C.TensorBase.is_meta.__get__(tensor) or tensor.dtype == dtype:
            return tensor
        if not tensor.is_floating_point() or tensor.dtype == torch.float64:
            return tensor
        cached = tensor.is_leaf and tensor.requires_grad and tensor.dtype == torch.float32 and dtype != torch.float32
        if not cached or not torch.is_autocast_cache_enabled():
            return tensor.to(dtype)
        kept = self._kept.get(id(tensor))
        if kept is None or kept[0]() is not tensor:
            kept = self._kept[id(tensor)] = weakref.ref(tensor), tensor.to(dtype)
        return kept[1]


def _floating(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _floating(item)


def _chosen(casts: _Casts) -> dict[str, Callable[..., Any]]:
    """Operations that torch makes differently on a card than on a device that it does not know."""

    def dropout(value: torch.Tensor, p: float, train: bool) -> torch.Tensor:
        with _below():
            if train and 0 < p < 1 and value.numel():
                return _aten.native_dropout(value, p, train)[0]
            return _aten.dropout(value, p, train)

    def attention(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        with _below():
            query, key, value = casts.lower((query, key, value))
            if attn_mask is not None and attn_mask.is_floating_point():
                attn_mask = casts.lower(attn_mask)
            return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)

    def rms_norm(
        value: torch.Tensor, normalized_shape: list[int], weight: torch.Tensor | None = None, eps: float | None = None
    ) -> torch.Tensor:
        with _below():
            if _autocast_has_rms_norm:
                value, weight = casts.wide((value, weight))
            fused = getattr(_aten, "_fused_rms_norm", None)
            if fused is None:
                return _aten.rms_norm(value, normalized_shape, weight, eps)
            return fused(value, normalized_shape, weight, eps)[0]

    _autocast_has_rms_norm = torch._C._dispatch_has_kernel_for_dispatch_key("aten::rms_norm", "AutocastCUDA")
    return {"aten::dropout": dropout, "aten::scaled_dot_product_attention": attention, "aten::rms_norm": rms_norm}


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
    dropout_p: float, is_causal: bool, scale: float | None, enable_gqa: bool,
) -> torch.Tensor:  # fmt: skip
    """Flash where it can be, else the memory-efficient kernel, else scores written out: the order on cards before
    Hopper; the switches of `torch.backends.cuda` and `torch.nn.attention.sdpa_kernel` count."""
    backends, width = torch.backends.cuda, query.shape[-1]
    half = query.dtype in (torch.float16, torch.bfloat16)
    fused = query.dim() == 4 and width == value.shape[-1] and query.dtype == key.dtype == value.dtype
    if fused and half and mask is None and width <= 256 and backends.flash_sdp_enabled():
        padded = [_padded(one) for one in (query, key, value)]
        scale = scale or 1 / math.sqrt(width)
        found = _aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, scale=scale)[0]
        return found if width % 8 == 0 else found[..., :width]
    aligned = width % (8 if half else 4) == 0
    if fused and aligned and not enable_gqa and backends.mem_efficient_sdp_enabled():
        bias = None if mask is None else _bias(mask, query, key)
        keeps = any(one.requires_grad for one in (query, key, value)) and torch.is_grad_enabled()
        return _aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, keeps, dropout_p, is_causal, scale=scale
        )[0]
    return _aten._scaled_dot_product_attention_math(
        query, key, value, mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]


def _padded(tensor: torch.Tensor) -> torch.Tensor:
    lacking = -tensor.shape[-1] % 8
    return torch.nn.functional.pad(tensor, (0, lacking)) if lacking else tensor


def _bias(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """A mask as numbers, its rows padded to 16 as the kernel wants them."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), -math.inf)
    length = key.shape[-2]
    if length % 16:
        mask = torch.nn.functional.pad(mask, (0, -length % 16))[..., :length]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], length)
