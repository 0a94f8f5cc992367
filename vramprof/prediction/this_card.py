"""Turns the card of this machine, as NVML has it, into the name that emulates the same."""

from __future__ import annotations

import os

from vramprof.errors import NoDeviceError, UnknownGpuError
from vramprof.prediction.catalog import find_gpu, gpu_names


def find_this_card() -> str:
    """The card that torch calls device 0, and how many this machine has: "a100-80gb:count=8".

    CUDA is not touched. Which of several cards are visible is left to CUDA_VISIBLE_DEVICES, there as here.

    Raises:
        NoDeviceError: NVML has no card.
        UnknownGpuError: the catalog has none of its name.
    """
    name, total_bytes, count = _read_nvml()
    nearest = card_named(name, total_bytes)
    return nearest if count == 1 else f"{nearest}:count={count}"


def card_named(name: str, total_bytes: int = 0) -> str:
    """The catalog's key of what a driver calls a card; of several the one whose memory is nearest.

    Raises:
        UnknownGpuError: the catalog has none of this name.
    """
    found = [key for key in gpu_names() if find_gpu(key).name == name]
    if not found:
        raise UnknownGpuError(f"no {name or 'card without a name'} in the catalog: say which, as in a100-80gb")
    return min(found, key=lambda key: abs(find_gpu(key).total - total_bytes))


def _read_nvml() -> tuple[str, int, int]:
    """Name and bytes of the first visible card, and the number of all."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            handle = _first_visible(pynvml)
            name = pynvml.nvmlDeviceGetName(handle)
            total_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            return name if isinstance(name, str) else name.decode(), total_bytes, int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise NoDeviceError(f"no card to predict for ({error}): say which, as in --predict-on a100-80gb") from None


def _first_visible(pynvml: object) -> object:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.startswith("GPU-"):
        return pynvml.nvmlDeviceGetHandleByUUID(first)  # type: ignore[attr-defined]
    return pynvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)  # type: ignore[attr-defined]
