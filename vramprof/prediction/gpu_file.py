"""Turns a TOML description of cards into figures that were checked, each with its source.

A file has `[gpu.NAME]` tables, or one card's fields at its top:

    name = "My card"               # required: what the driver calls it
    total = "23.5 GiB"             # required: what the driver reports to torch; a size, or a number of bytes
    compute_capability = "8.6"     # required
    multiprocessors = 82           # required
    l2 = "6 MiB"
    shared_per_block_optin = "99 KiB"
    shared_per_multiprocessor = "100 KiB"
    threads_per_multiprocessor = 1536
    clock_mhz = 1695
    memory_clock_mhz = 9751
    memory_bus_bits = 384
    context = "256 MiB"            # or by the CUDA release of torch: { cuda12 = "256 MiB", cuda13 = "250 MiB" }
    modules = "75 MiB"             # what lazily loaded kernels and library handles add to the context
    source = { total = "nvidia-smi of ours" }

What is not given is that of the card of the catalog with the same compute capability whose number of multiprocessors is
nearest.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vramprof.emulator import DeviceSpec
from vramprof.errors import GpuFileError
from vramprof.units import MIB, parse_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LEAST_BYTES = 512 * MIB


@dataclass(frozen=True)
class Gpu:
    """A card: fields as in the file, sizes in bytes."""

    name: str
    total: int
    compute_capability: tuple[int, int]
    multiprocessors: int
    l2: int
    shared_per_block_optin: int
    shared_per_multiprocessor: int
    threads_per_multiprocessor: int
    clock_mhz: int
    memory_clock_mhz: int
    memory_bus_bits: int
    context: Mapping[int, int]
    """By major release of CUDA."""
    modules: int
    source: Mapping[str, str]

    def device(self, cuda_major: int) -> DeviceSpec:
        """The emulated device, for a torch of this release of CUDA; of the nearest release that is known."""
        nearest = min(self.context, key=lambda major: abs(major - cuda_major))
        return DeviceSpec(
            name=self.name,
            total_bytes=self.total,
            compute_capability=self.compute_capability,
            multiprocessor_count=self.multiprocessors,
            shared_memory_per_block_optin_bytes=self.shared_per_block_optin,
            shared_memory_per_multiprocessor_bytes=self.shared_per_multiprocessor,
            max_threads_per_multiprocessor=self.threads_per_multiprocessor,
            l2_cache_bytes=self.l2,
            context_bytes=self.context[nearest] + self.modules,
            clock_khz=self.clock_mhz * 1000,
            memory_clock_khz=self.memory_clock_mhz * 1000,
            memory_bus_bits=self.memory_bus_bits,
        )


def read_gpus(path: Path, known: Iterable[Gpu] = ()) -> dict[str, Gpu]:
    """The cards of a file by their names; "" is that of a card at its top.

    `known` are those that fill in what is not given.

    Raises:
        GpuFileError: one line with the file, the table and the field.
    """
    content = _content(path)
    if "gpu" not in content:
        return {"": _gpu(content, str(path), known=known)}
    stray = [key for key in content if key not in ("gpu", "capability", "source")]
    if stray:
        raise GpuFileError(f"{path}: {stray[0]!r} is in no table: move it into a [gpu.NAME]")
    tables = content["gpu"]
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise GpuFileError(f"{path}: gpu is not a table of cards: write [gpu.NAME], then one field a line")
    shared = {"capabilities": content.get("capability", {}), "texts": content.get("source", {})}
    return {name: _gpu(table, f"{path}: [gpu.{name}]", known=known, **shared) for name, table in tables.items()}


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GpuFileError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GpuFileError(f"{path}: not TOML: {error}") from None


def _gpu(
    table: dict[str, Any],
    where: str,
    *,
    known: Iterable[Gpu],
    capabilities: Mapping[str, Any] = MappingProxyType({}),
    texts: Mapping[str, str] = MappingProxyType({}),
) -> Gpu:
    given = _checked({**capabilities.get(str(table.get("compute_capability")), {}), **table}, where)
    _require(given, REQUIRED, f"{where}: not given: {{}}; a card needs at least {', '.join(REQUIRED)}")
    values = {**_like(given, known), **given}
    values["source"] = {
        field: texts.get(text, text)
        for field, text in {**_like(given, known).get("source", {}), **given.get("source", {})}.items()
    }
    capability = "{}.{}".format(*given["compute_capability"])
    names = [field.name for field in fields(Gpu)]
    _require(values, names, f"{where}: no known card has compute capability {capability}: give {{}}, too")
    gpu = Gpu(**values)
    if gpu.total < LEAST_BYTES:
        raise GpuFileError(f"{where}: total: a card has at least 512 MiB")
    if max(gpu.context.values()) + gpu.modules >= gpu.total:
        raise GpuFileError(f"{where}: context and modules alone fill the card: total is {gpu.total // MIB} MiB")
    return gpu


def _require(values: dict[str, Any], names: Iterable[str], complaint: str) -> None:
    missing = [name for name in names if name not in values]
    if missing:
        raise GpuFileError(complaint.format(", ".join(missing)))


def _like(given: dict[str, Any], known: Iterable[Gpu]) -> dict[str, Any]:
    """What is not given, from the nearest card that is known."""
    same = [gpu for gpu in known if gpu.compute_capability == given["compute_capability"]]
    if not same:
        return {}
    nearest = min(same, key=lambda gpu: abs(gpu.multiprocessors - given["multiprocessors"]))
    values = {field.name: getattr(nearest, field.name) for field in fields(Gpu) if field.name not in given}
    return {**values, "source": {field: f"that of the {nearest.name}" for field in values if field != "source"}}


def _checked(table: dict[str, Any], where: str) -> dict[str, Any]:
    """Every field, read."""
    read = {}
    for field, value in table.items():
        if field not in _READERS:
            near = difflib.get_close_matches(field, _READERS, n=1)
            raise GpuFileError(f"{where}: no field is called {field!r}: " + _hint(near))
        try:
            read[field] = _READERS[field](value)
        except ValueError as error:
            raise GpuFileError(f"{where}: {field}: {error}") from None
    return read


def _hint(near: list[str]) -> str:
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(_READERS)}"


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a text in quotes")
    return value


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f'{value!r} is not a size: write it like "24 GiB", or as a number of bytes')
    size_bytes = parse_bytes(value) if isinstance(value, str) else value
    if size_bytes < 0:
        raise ValueError(f"{value!r} is below 0")
    return size_bytes


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{value!r} is not a whole number above 0")
    return value


def _capability(value: object) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d)", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{value!r} is not a compute capability: write it like "8.6", in quotes')
    return int(match[1]), int(match[2])


def _context(value: object) -> dict[int, int]:
    if not isinstance(value, dict):
        return {0: _size(value)}
    if not value or any(re.fullmatch(r"cuda\d+", release) is None for release in value):
        raise ValueError('not by CUDA release: write it like { cuda12 = "414 MiB", cuda13 = "414 MiB" }')
    return {int(release.removeprefix("cuda")): _size(size) for release, size in value.items()}


def _sources(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError('not a table of texts: write it like { total = "nvidia-smi of ours" }')
    return value


REQUIRED = ("name", "total", "compute_capability", "multiprocessors")
_READERS: dict[str, Callable[[object], Any]] = {
    "name": _text,
    "total": _size,
    "compute_capability": _capability,
    "multiprocessors": _count,
    "l2": _size,
    "shared_per_block_optin": _size,
    "shared_per_multiprocessor": _size,
    "threads_per_multiprocessor": _count,
    "clock_mhz": _count,
    "memory_clock_mhz": _count,
    "memory_bus_bits": _count,
    "context": _context,
    "modules": _size,
    "source": _sources,
}
