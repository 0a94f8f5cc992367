"""Turns a description of a GPU into an emulated CUDA device that the torch imported next will find."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from vramprof.emulator.symbols import defined_symbols, wanted_symbols
from vramprof.emulator.torch_build import TorchBuild, find_torch
from vramprof.errors import EmulatorError, TorchAlreadyImportedError, UnknownSymbolError, UnsupportedPlatformError

ENVIRONMENT_VARIABLE = "VRAMPROF_EMULATED_DEVICE"
MAX_DEVICES = 64

_HERE = Path(__file__).resolve().parent
_LIBRARY_FOLDER = _HERE / "lib"
_LISTS_FOLDER = _HERE / "native" / "symbols"
_MIB = 1 << 20

_active: tuple[DeviceSpec, int] | None = None


@dataclass(frozen=True)
class DeviceSpec:
    """A card as its driver would describe it. The defaults are those of an A100."""

    name: str
    total_bytes: int
    compute_capability: tuple[int, int] = (8, 0)
    multiprocessor_count: int = 108
    shared_memory_per_block_bytes: int = 48 << 10
    shared_memory_per_block_optin_bytes: int = 163 << 10
    shared_memory_per_multiprocessor_bytes: int = 164 << 10
    registers_per_multiprocessor: int = 65536
    max_threads_per_multiprocessor: int = 2048
    l2_cache_bytes: int = 40 * _MIB
    context_bytes: int = 450 * _MIB
    """What the CUDA context and its modules take on the device, outside torch."""
    clock_khz: int = 1_410_000
    memory_clock_khz: int = 1_215_000
    memory_bus_bits: int = 5120


def start(spec: DeviceSpec, *, count: int = 1) -> None:
    """Makes `count` devices of this kind the only CUDA devices of this process and of its children's environment.

    To be called before torch is imported. A second call with the same arguments does nothing. Raises EmulatorError
    or one of its kinds: TorchAlreadyImportedError, UnsupportedPlatformError, UnknownSymbolError.
    """
    global _active
    if _active == (spec, count):
        return
    if _active is not None:
        raise EmulatorError(
            f"already emulating {_active[1]} x {_active[0].name}: start another process for another GPU"
        )
    if "torch" in sys.modules:
        raise TorchAlreadyImportedError("torch is already imported: start the emulated device before importing torch")
    _check_platform()
    _check_spec(spec, count)
    libraries = _built_libraries()
    build = find_torch()
    _check_symbols(build, libraries[0])
    os.environ[ENVIRONMENT_VARIABLE] = _encode(spec, count, build)
    os.environ["TRITON_LIBCUDA_PATH"] = str(_LIBRARY_FOLDER)
    _preload_in_children(libraries)
    for library in libraries:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    _active = (spec, count)


def check() -> str:
    """Which torch the emulated device would serve here, loading nothing. Raises EmulatorError as `start` would."""
    _check_platform()
    build = find_torch()
    _check_symbols(build, _built_libraries()[0])
    return f"serves torch {build.version}"


def active() -> tuple[DeviceSpec, int] | None:
    """What is being emulated in this process, if anything, and how many of them."""
    return _active


def _check_platform() -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise UnsupportedPlatformError(
            f"the emulated device needs Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
        )


def _check_spec(spec: DeviceSpec, count: int) -> None:
    if not 1 <= count <= MAX_DEVICES:
        raise EmulatorError(f"cannot emulate {count} devices: ask for 1 to {MAX_DEVICES}")
    if not spec.name or len(spec.name) > 90 or any(character in ';="\\\n' for character in spec.name):
        raise EmulatorError(f"not a usable device name: {spec.name!r}: use up to 90 letters, digits and spaces")
    if not spec.context_bytes < spec.total_bytes:
        raise EmulatorError(f"{spec.name}: the context alone fills the card: give total_bytes above context_bytes")


def _built_libraries() -> tuple[Path, Path]:
    libraries = (_LIBRARY_FOLDER / "libcuda.so.1", _LIBRARY_FOLDER / "libnvidia-ml.so.1")
    for library in libraries:
        if not library.is_file():
            raise EmulatorError(f"{library.name} of the emulated device was not built: install vramprof with pip again")
    return libraries


def _preload_in_children(libraries: tuple[Path, Path]) -> None:
    """Spawned workers (DataLoader, torch.multiprocessing, Inductor's compilers) import torch with no call of ours."""
    ours = [str(library) for library in libraries]
    if any(mark in path for path in ours for mark in " :"):  # what separates the names in LD_PRELOAD
        return
    others = [path for path in os.environ.get("LD_PRELOAD", "").replace(":", " ").split() if path not in ours]
    os.environ["LD_PRELOAD"] = " ".join(ours + others)


def _encode(spec: DeviceSpec, count: int, build: TorchBuild) -> str:
    """The names are those that native/device.c reads."""
    fields: dict[str, str | int] = {
        "name": spec.name,
        "count": count,
        "total_bytes": spec.total_bytes,
        "context_bytes": spec.context_bytes,
        "major": spec.compute_capability[0],
        "minor": spec.compute_capability[1],
        "multiprocessors": spec.multiprocessor_count,
        "shared_per_block": spec.shared_memory_per_block_bytes,
        "shared_per_block_optin": spec.shared_memory_per_block_optin_bytes,
        "shared_per_multiprocessor": spec.shared_memory_per_multiprocessor_bytes,
        "registers_per_multiprocessor": spec.registers_per_multiprocessor,
        "threads_per_multiprocessor": spec.max_threads_per_multiprocessor,
        "l2_bytes": spec.l2_cache_bytes,
        "clock_khz": spec.clock_khz,
        "memory_clock_khz": spec.memory_clock_khz,
        "memory_bus_bits": spec.memory_bus_bits,
        "cuda_version": build.cuda_version,
    }
    return ";".join(f"{key}={value}" for key, value in fields.items())


def _check_symbols(build: TorchBuild, libcuda: Path) -> None:
    """A build whose list is shipped is trusted; any other is scanned once, and a good verdict remembered."""
    if (_LISTS_FOLDER / f"torch-{build.version}.txt").is_file():
        return
    verdict = _verdict_file(build, libcuda)
    if verdict.is_file():
        return
    unknown = sorted(wanted_symbols(build.library_folder) - defined_symbols(libcuda))
    if unknown:
        raise UnknownSymbolError(
            f"torch {build.version} asks for {unknown[0]} and {len(unknown) - 1} more that the emulated device does not"
            " know: install a torch that vramprof lists as supported"
        )
    try:
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.touch()
    except OSError:
        pass  # a read-only home costs the next start a second, no more


def _verdict_file(build: TorchBuild, libcuda: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch_cuda = build.library_folder / "libtorch_cuda.so"
    about = [build.version, str(torch_cuda)]
    about += [str(path.stat().st_mtime_ns) for path in (torch_cuda, libcuda) if path.is_file()]
    return cache / "vramprof" / f"symbols-known-{hashlib.sha256('|'.join(about).encode()).hexdigest()[:16]}"
