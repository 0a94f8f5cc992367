"""Turns torch's view of the CUDA devices into rows, and a missing device into one clear error."""

from __future__ import annotations

from vramprof.errors import NoDeviceError
from vramprof.recording import Recorder


def require_device() -> None:
    """Make sure that torch sees a CUDA device.

    Raises:
        NoDeviceError: torch is missing, or there is no device.
    """
    try:
        import torch
    except ImportError:
        raise NoDeviceError("torch is not installed: pip install torch") from None
    if not torch.cuda.is_available():
        raise NoDeviceError(
            "no CUDA device: use a machine with an NVIDIA GPU, or emulate one with "
            "`vramprof run --emulate a100-80gb SCRIPT` or `vramprof.emulate('a100-80gb')` before `import torch`"
        )


def record_devices(recorder: Recorder, begin_allocated_bytes: dict[int, int]) -> None:
    """One row per device that torch has touched, with torch's own counters."""
    import torch

    recorder.metadata["torch_version"] = str(torch.__version__)
    recorder.metadata["cuda_version"] = str(torch.version.cuda)
    for index in range(torch.cuda.device_count()):
        stats = torch.cuda.memory_stats(index)
        if not stats.get("reserved_bytes.all.peak"):
            continue
        properties = torch.cuda.get_device_properties(index)
        recorder.add(
            "devices", index, properties.name, properties.total_memory, f"{properties.major}.{properties.minor}",
            begin_allocated_bytes.get(index, 0), stats["allocated_bytes.all.current"],
            stats["allocated_bytes.all.peak"], stats["reserved_bytes.all.peak"],
        )  # fmt: skip
    recorder.metadata["memory_fractions"] = _memory_fractions()


def _memory_fractions() -> dict[str, float]:
    """What share of a device torch may reserve, by device number, where the program has limited it."""
    import torch

    ask = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # since torch 2.7
    found = {} if ask is None else {str(index): float(ask(index)) for index in range(torch.cuda.device_count())}
    return {index: fraction for index, fraction in found.items() if fraction < 1}


def allocated_bytes() -> dict[int, int]:
    """What each device's allocator has handed out now."""
    import torch

    return {index: int(torch.cuda.memory_allocated(index)) for index in range(torch.cuda.device_count())}
