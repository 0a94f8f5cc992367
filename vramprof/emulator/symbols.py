"""Turns shared objects into the CUDA symbols that they ask for or offer, by reading the ELF tables and nothing else."""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path

CUDA_NAME = re.compile(
    rb"(?:__cuda|cuda|cu|cublas|cublasLt|cudnn|cufft|curand|cusolver|cusparse|cusparseLt|cuFile|cupti|nccl|nvJitLink"
    rb"|nvml|nvrtc|nvshmem|nvshmemid|nvshmemx)(?:[A-Z]\w*|_\w+)"
)

_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC_SYMBOLS = 11
_GNU_HASH = 0x6FFFFFF6


def wanted_symbols(library_folder: Path) -> frozenset[str]:
    """The CUDA symbols that the libraries of a folder leave undefined and do not define for one another."""
    wanted: set[str] = set()
    offered: set[str] = set()
    for library in sorted(library_folder.glob("*.so")):
        wanted.update(undefined_symbols(library))
        if "nvshmem" in library.name:
            offered.update(defined_symbols(library))
    return frozenset(wanted - offered)


def undefined_symbols(library: Path) -> frozenset[str]:
    """The CUDA symbols that a library imports."""
    return frozenset(name for name, is_defined in _symbols(library, imports_only=True) if not is_defined)


def defined_symbols(library: Path) -> frozenset[str]:
    """The CUDA symbols that a library exports."""
    return frozenset(name for name, is_defined in _symbols(library, imports_only=False) if is_defined)


def _symbols(library: Path, *, imports_only: bool) -> Iterator[tuple[str, bool]]:
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        if image[:6] != b"\x7fELF\x02\x01":
            return
        sections = _sections(image)
        table = next((section for section in sections if section[1] == _DYNAMIC_SYMBOLS), None)
        if table is None:
            return
        names = sections[table[6]]
        strings = image[names[4] : names[4] + names[5]]
        end = table[4] + table[5]
        if imports_only:
            end = min(end, table[4] + _first_export(image, sections) * _SYMBOL.size)
        for name_at, _, _, section_index, _, _ in _SYMBOL.iter_unpack(image[table[4] : end]):
            match = CUDA_NAME.match(strings, name_at)
            if match and strings[match.end()] == 0:
                yield match.group().decode(), section_index != 0


def _sections(image: mmap.mmap) -> list[tuple[int, ...]]:
    (table_at,) = struct.unpack_from("<Q", image, 40)
    entry_bytes, count = struct.unpack_from("<HH", image, 58)
    return [_SECTION_HEADER.unpack_from(image, table_at + i * entry_bytes) for i in range(count)]


def _first_export(image: mmap.mmap, sections: list[tuple[int, ...]]) -> int:
    """The GNU hash table covers exports alone, which stand behind all imports: a tenth of the table to read."""
    for section in sections:
        if section[1] == _GNU_HASH:
            (first,) = struct.unpack_from("<I", image, section[4] + 4)
            return int(first)
    return 1 << 62
