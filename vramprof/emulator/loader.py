"""Turns a description of a GPU into an emulated CUDA device that the torch imported next will find.

A forked child has the device because its parent had. A fresh one (multiprocessing's spawn and forkserver, torchrun,
`accelerate launch`, any subprocess) has it because LD_PRELOAD in its environment names the libraries, and another
variable the card. The dynamic linker does what `start` does here, before anything runs, whatever the child is: another
interpreter, `python -I`, a C++ program. A folder on PYTHONPATH with a `sitecustomize` in it would serve Python alone,
hide a `sitecustomize` of the user's, and make each child import ours. A child that isn't to have the device is
given an environment without the two variables.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from vramprof.emulator.guesses import attach
from vramprof.emulator.symbols import defined_symbols, wanted_symbols
from vramprof.emulator.torch_build import TorchBuild, find_torch
from vramprof.errors import EmulatorError, TorchAlreadyImportedError, UnknownSymbolError, UnsupportedPlatformError
from vramprof.units import format_bytes

ENVIRONMENT_VARIABLE = "VRAMPROF_EMULATED_DEVICE"
MAX_DEVICES = 64
ADDRESS_SPACE_BYTES = 1 << 46
"""Half of what x86-64 gives a process: expandable segments reserve more than the card has."""

_HERE = Path(__file__).resolve().parent
_LIBRARY_FOLDER = _HERE / "lib"
_LISTS_FOLDER = _HERE / "native" / "symbols"
_MIB = 1 << 20

_BACKWARD_END_S = 0.02

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
    lag: int = 0
    """Launches that the device is behind the host: what `record_stream` defers is freed so much later."""


def start(spec: DeviceSpec, *, count: int = 1) -> None:
    """Makes `count` devices of this kind the only CUDA devices of this process and of those that it starts.

    To be called before torch is imported. A second call with the same arguments does nothing, nor does one in a child
    that inherited such devices; a child may also ask for others, before torch is imported. Raises EmulatorError
    or one of its kinds: TorchAlreadyImportedError, UnsupportedPlatformError, UnknownSymbolError.
    """
    global _active
    if active() == (spec, count):
        attach(device_library())
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
    os.environ[ENVIRONMENT_VARIABLE] = encode(spec, count, build)
    os.environ["TRITON_LIBCUDA_PATH"] = str(_LIBRARY_FOLDER)
    _preload_in_children(libraries)
    for library in libraries:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    attach(device_library())
    atexit.register(_let_backward_end)
    _active = (spec, count)


def _let_backward_end() -> None:
    """Where backward() is a program's last act, autograd's threads may still be putting its graph away.

    On a card the program would have waited for its results. Here it is over at once, and a thread of torch that asks
    for the interpreter while that shuts down aborts the process.
    """
    if "torch" in sys.modules:
        time.sleep(_BACKWARD_END_S)


def check() -> str:
    """Which torch the emulated device would serve here, loading nothing. Raises EmulatorError as `start` would."""
    _check_platform()
    build = find_torch()
    _check_symbols(build, _built_libraries()[0])
    return f"serves torch {build.version}"


def active() -> tuple[DeviceSpec, int] | None:
    """What is being emulated in this process, if anything, and how many of them; inherited or started here."""
    return _active or _inherited()


def _inherited() -> tuple[DeviceSpec, int] | None:
    """Both are needed: the libraries without a description offer no device, and a description alone is but text."""
    text = os.environ.get(ENVIRONMENT_VARIABLE)
    if not text:
        return None
    try:
        ctypes.CDLL(str(_LIBRARY_FOLDER / "libcuda.so.1"), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except (OSError, AttributeError):
        return None
    return _decode(text)


def _preload_in_children(libraries: tuple[Path, ...]) -> None:
    """Ours come after the user's own: some of those, such as sanitizers, insist on being first."""
    if any(separator in str(_LIBRARY_FOLDER) for separator in " :"):
        warnings.warn(
            f"child processes will have no emulated device: LD_PRELOAD cannot name a folder with a space or a colon in"
            f" it ({_LIBRARY_FOLDER}); install vramprof elsewhere",
            stacklevel=3,
        )
        return
    present = os.environ.get("LD_PRELOAD", "").replace(" ", ":").split(":")
    ours = [str(library) for library in libraries]
    os.environ["LD_PRELOAD"] = ":".join([*(name for name in present if name and name not in ours), *ours])


def device_library() -> ctypes.CDLL:
    """The loaded library of the emulated device."""
    return ctypes.CDLL(str(_LIBRARY_FOLDER / "libcuda.so.1"))


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
    if spec.total_bytes * count > ADDRESS_SPACE_BYTES:
        raise EmulatorError(
            f"{count} x {format_bytes(spec.total_bytes)} is more than the {format_bytes(ADDRESS_SPACE_BYTES)} of"
            " addresses that a process has for it: ask for less memory or fewer devices"
        )
    import resource  # not on Windows, where `_check_platform` has refused

    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY and spec.total_bytes * count > allowed:
        raise EmulatorError(
            f"{count} x {format_bytes(spec.total_bytes)} is more than the {format_bytes(allowed)} of addresses that"
            " this shell allows: `ulimit -v unlimited`, or ask for less memory"
        )


def _built_libraries() -> tuple[Path, Path]:
    libraries = (_LIBRARY_FOLDER / "libcuda.so.1", _LIBRARY_FOLDER / "libnvidia-ml.so.1")
    for library in libraries:
        if not library.is_file():
            raise EmulatorError(f"{library.name} of the emulated device was not built: install vramprof with pip again")
    return libraries


_INTEGER_FIELDS = {  # as native/device.c calls them, and as DeviceSpec does
    "total_bytes": "total_bytes",
    "context_bytes": "context_bytes",
    "multiprocessors": "multiprocessor_count",
    "shared_per_block": "shared_memory_per_block_bytes",
    "shared_per_block_optin": "shared_memory_per_block_optin_bytes",
    "shared_per_multiprocessor": "shared_memory_per_multiprocessor_bytes",
    "registers_per_multiprocessor": "registers_per_multiprocessor",
    "threads_per_multiprocessor": "max_threads_per_multiprocessor",
    "l2_bytes": "l2_cache_bytes",
    "clock_khz": "clock_khz",
    "memory_clock_khz": "memory_clock_khz",
    "memory_bus_bits": "memory_bus_bits",
    "lag": "lag",
}


def encode(spec: DeviceSpec, count: int, build: TorchBuild) -> str:
    """The device as native/device.c reads it from the environment."""
    major, minor = spec.compute_capability
    fields = {"name": spec.name, "count": count, "major": major, "minor": minor, "cuda_version": build.cuda_version}
    fields |= {ours: getattr(spec, theirs) for ours, theirs in _INTEGER_FIELDS.items()}
    return ";".join(f"{key}={value}" for key, value in fields.items())


def _decode(text: str) -> tuple[DeviceSpec, int]:
    fields = dict(field.split("=", 1) for field in text.split(";"))
    spec = DeviceSpec(
        name=fields["name"],
        compute_capability=(int(fields["major"]), int(fields["minor"])),
        **{theirs: int(fields[ours]) for ours, theirs in _INTEGER_FIELDS.items()},
    )
    return spec, int(fields["count"])


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
