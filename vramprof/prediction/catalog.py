"""Turns a GPU's name into its figures.

Total memory is what the driver reports to torch, read off out-of-memory messages and `nvidia-smi` prints of such cards
("a total capacity of 79.15 GiB"), so it is exact to 10 MiB; multiprocessors, shared memory and L2 are from NVIDIA's
architecture white papers and the CUDA programming guide's table of compute capabilities; the context is an estimate.
"""

from __future__ import annotations

import difflib
from dataclasses import replace

from vramprof.emulator import DeviceSpec
from vramprof.errors import UnknownGpuError
from vramprof.units import GIB, KIB, MIB, parse_bytes

_SHARED_KIB = {  # compute capability: (per block with opt-in, per multiprocessor, threads per multiprocessor)
    (7, 0): (96, 96, 2048), (7, 5): (64, 64, 1024), (8, 0): (163, 164, 2048), (8, 6): (99, 100, 1536),
    (8, 9): (99, 100, 1536), (9, 0): (227, 228, 2048), (10, 0): (227, 228, 2048), (10, 3): (227, 228, 2048),
    (12, 0): (99, 100, 1536),
}  # fmt: skip

# name: (driver's name, GiB, compute capability, multiprocessors, L2 MiB)
_ROWS: dict[str, tuple[str, float, tuple[int, int], int, float]] = {
    "t4": ("Tesla T4", 14.74, (7, 5), 40, 4),
    "v100-16gb": ("Tesla V100-SXM2-16GB", 15.77, (7, 0), 80, 6),
    "v100-32gb": ("Tesla V100-SXM2-32GB", 31.74, (7, 0), 80, 6),
    "rtx2080ti": ("NVIDIA GeForce RTX 2080 Ti", 10.75, (7, 5), 68, 5.5),
    "rtx3060": ("NVIDIA GeForce RTX 3060", 11.76, (8, 6), 28, 3),
    "rtx3090": ("NVIDIA GeForce RTX 3090", 23.69, (8, 6), 82, 6),
    "rtx4060ti-16gb": ("NVIDIA GeForce RTX 4060 Ti", 15.60, (8, 9), 34, 32),
    "rtx4090": ("NVIDIA GeForce RTX 4090", 23.64, (8, 9), 128, 72),
    "rtx5090": ("NVIDIA GeForce RTX 5090", 31.36, (12, 0), 170, 96),
    "a10": ("NVIDIA A10", 22.06, (8, 6), 72, 6),
    "a10g": ("NVIDIA A10G", 22.06, (8, 6), 80, 6),
    "l4": ("NVIDIA L4", 22.03, (8, 9), 58, 48),
    "l40s": ("NVIDIA L40S", 44.40, (8, 9), 142, 96),
    "a40": ("NVIDIA A40", 44.43, (8, 6), 84, 6),
    "a6000": ("NVIDIA RTX A6000", 47.53, (8, 6), 84, 6),
    "rtx6000-ada": ("NVIDIA RTX 6000 Ada Generation", 47.50, (8, 9), 142, 96),
    "rtx-pro-6000": ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 94.97, (12, 0), 188, 128),
    "a100-40gb": ("NVIDIA A100-SXM4-40GB", 39.39, (8, 0), 108, 40),
    "a100-80gb": ("NVIDIA A100-SXM4-80GB", 79.15, (8, 0), 108, 40),
    "h100-80gb": ("NVIDIA H100 80GB HBM3", 79.10, (9, 0), 132, 50),
    "h100-96gb": ("NVIDIA H100 96GB HBM3", 95.00, (9, 0), 132, 60),
    "h200": ("NVIDIA H200", 139.80, (9, 0), 132, 60),
    "h20": ("NVIDIA H20", 95.00, (9, 0), 78, 60),
    "gh200": ("NVIDIA GH200 480GB", 94.50, (9, 0), 132, 60),
    "b200": ("NVIDIA B200", 178.35, (10, 0), 148, 126),
    "gb200": ("NVIDIA GB200", 184.30, (10, 0), 152, 126),
    "b300": ("NVIDIA B300 SXM6 AC", 267.70, (10, 3), 148, 126),
}


def gpu_names() -> tuple[str, ...]:
    """Every name of the catalog."""
    return tuple(_ROWS)


def find_device(text: str) -> tuple[DeviceSpec, int]:
    """The device and the number of them that `name` or `name:memory=24GiB,count=8` means.

    Raises:
        UnknownGpuError: no such name, or a change that is not understood.
    """
    name, _, changes = text.partition(":")
    spec, count = _spec(name.strip().lower()), 1
    for change in filter(None, changes.split(",")):
        key, _, value = change.partition("=")
        try:
            if key == "memory":
                spec = replace(spec, total_bytes=_whole_pages(parse_bytes(value)))
            elif key == "count":
                count = _count(value)
            else:
                raise ValueError("use memory=24GiB or count=8")
        except ValueError as error:
            raise UnknownGpuError(f"--emulate {text}: cannot read {change!r}: {error}") from None
    return spec, count


def _whole_pages(size_bytes: int) -> int:
    if size_bytes < GIB // 2:
        raise ValueError("a device has at least 512 MiB")
    if size_bytes > 2**45:
        raise ValueError("more than 32 TiB does not fit the address space")
    return size_bytes


def _count(value: str) -> int:
    if not value.isdigit() or not 1 <= int(value) <= 64:
        raise ValueError("count is 1 to 64")
    return int(value)


def _spec(name: str) -> DeviceSpec:
    if name not in _ROWS:
        near = difflib.get_close_matches(name, _ROWS, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`vramprof gpus` lists them"
        raise UnknownGpuError(f"no GPU {name!r} in the catalog: {hint}")
    full_name, total_gib, capability, multiprocessors, l2_mib = _ROWS[name]
    optin, per_multiprocessor, threads = _SHARED_KIB[capability]
    return DeviceSpec(
        name=full_name,
        total_bytes=int(total_gib * GIB) // MIB * MIB,
        compute_capability=capability,
        multiprocessor_count=multiprocessors,
        shared_memory_per_block_optin_bytes=optin * KIB,
        shared_memory_per_multiprocessor_bytes=per_multiprocessor * KIB,
        max_threads_per_multiprocessor=threads,
        l2_cache_bytes=int(l2_mib * MIB),
    )
