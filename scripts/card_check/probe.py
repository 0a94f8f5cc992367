"""Turns the card of this process into the TOML fields of vramprof's GPU files, and says what a context takes on it.

python -m card_check.probe [--gpu GPU]      prints JSON; the exit code is 2, with one line, where there is no card
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from typing import Any

from vramprof.errors import VramprofError

ATTRIBUTES = {  # CUdevice_attribute
    "clock_khz": 13,
    "multiprocessors": 16,
    "memory_clock_khz": 36,
    "memory_bus_bits": 37,
    "l2": 38,
    "threads_per_multiprocessor": 39,
    "shared_per_multiprocessor": 81,
    "shared_per_block_optin": 97,
}


class NoCardError(Exception):
    """There is nothing to look at."""


class Meter:
    """What NVML says that this process has on the card; in a container whose processes NVML cannot name, by how
    much the use of the whole card has grown, which other processes disturb."""

    def __init__(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        self.nvml = pynvml
        self.handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self.before = self.used_bytes()
        self.named = False

    def find_card(self, uuid: object) -> None:
        """NVML counts cards without regard to CUDA_VISIBLE_DEVICES."""
        try:
            self.handle = self.nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except self.nvml.NVMLError:
            return

    def used_bytes(self) -> int:
        return int(self.nvml.nvmlDeviceGetMemoryInfo(self.handle).used)

    def process_bytes(self) -> int:
        processes = self.nvml.nvmlDeviceGetComputeRunningProcesses(self.handle)
        mine = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
        self.named = bool(mine and mine[0])
        return int(mine[0]) if self.named else self.used_bytes() - self.before

    def driver(self) -> str:
        return str(self.nvml.nvmlSystemGetDriverVersion())


def attributes() -> dict[str, int]:
    driver = ctypes.CDLL("libcuda.so.1")
    told = {}
    for name, number in ATTRIBUTES.items():
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), number, 0) == 0 and value.value > 0:
            told[name] = value.value
    for name in ("clock", "memory_clock"):
        if f"{name}_khz" in told:
            told[f"{name}_mhz"] = round(told.pop(f"{name}_khz") / 1000)
    return told


def usual_work() -> None:
    """Kernels and handles of the usual kinds: matrix products, normalisation, attention, convolution, an optimizer."""
    import torch
    from torch import nn

    layer = nn.TransformerEncoderLayer(256, 4, dim_feedforward=512, batch_first=True).cuda()
    image = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU()).cuda()
    optimizer = torch.optim.AdamW([*layer.parameters(), *image.parameters()])
    for kind in (torch.float32, torch.bfloat16):
        with torch.autocast("cuda", kind, enabled=kind is not torch.float32):
            loss = layer(torch.randn(4, 64, 256, device="cuda")).square().mean()
            loss = loss + image(torch.randn(4, 3, 64, 64, device="cuda")).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()


def look() -> dict[str, Any]:
    """The card's fields, and what else the report shows of it."""
    import torch

    if not torch.cuda.is_available():
        raise NoCardError("torch sees no CUDA device")
    torch.cuda.init()
    properties = torch.cuda.get_device_properties(0)
    meter = Meter()
    meter.find_card(properties.uuid)
    meter.before = meter.used_bytes()
    torch.cuda.synchronize()
    context = meter.process_bytes()
    usual_work()
    outside = meter.process_bytes() - torch.cuda.memory_reserved()
    told = meter.driver(), "this process" if meter.named else "growth of the whole card"
    card = {
        "name": properties.name,
        "total": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        **attributes(),
        "context": context,
        "modules": max(outside - context, 0),
    }
    build = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"card": card, **build, "driver": told[0], "context_from": told[1]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m card_check.probe", description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", metavar="GPU", help="look at an emulated card")
    gpu = parser.parse_args().gpu
    try:
        if gpu:
            from vramprof.prediction.device import emulate

            emulate(gpu)
        print(json.dumps(look()), flush=True)
    except ImportError as error:
        print(f"{error.name} is not installed: pip install torch nvidia-ml-py", file=sys.stderr)
        return 2
    except (NoCardError, VramprofError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
