"""Turns the name of a GPU, or of a file that describes one, into its figures."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vramprof.emulator import DeviceSpec
from vramprof.emulator.torch_build import find_torch
from vramprof.errors import EmulatorError, UnknownGpuError
from vramprof.prediction.gpu_file import LEAST_BYTES, Gpu, read_gpus
from vramprof.units import parse_bytes

CATALOG = Path(__file__).with_name("gpus.toml")
NEWEST_CUDA = 13


@functools.cache
def _catalog() -> Mapping[str, Gpu]:
    return read_gpus(CATALOG)


def gpu_names() -> tuple[str, ...]:
    """Every name of the catalog."""
    return tuple(_catalog())


def find_gpu(name: str) -> Gpu:
    """A card of the catalog, or of a TOML file: `t4`, `./mycard.toml`, `./cards.toml#NAME`.

    Raises:
        UnknownGpuError: no such name.
        GpuFileError: the file is not there or wrong.
    """
    path, _, card = name.strip().partition("#")
    if path.lower().endswith(".toml"):
        return _choose(read_gpus(Path(path).expanduser(), _catalog().values()), card, path)
    key = name.strip().lower()
    if key not in _catalog():
        near = difflib.get_close_matches(key, _catalog(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`vramprof gpus` lists them"
        raise UnknownGpuError(f"no GPU {key!r} in the catalog: {hint}")
    return _catalog()[key]


def find_device(text: str) -> tuple[DeviceSpec, int]:
    """The device and the number of them that `name` or `name:memory=24GiB,count=8` means.

    Its context is that of the CUDA release of the installed torch.

    Raises:
        UnknownGpuError: no such name, or a change that is not understood.
        GpuFileError: the name is that of a TOML file which is not there or wrong.
    """
    name, _, changes = text.partition(":")
    spec, count = find_gpu(name).device(_cuda_major()), 1
    for change in filter(None, changes.split(",")):
        key, _, value = change.partition("=")
        try:
            if key == "memory":
                spec = replace(spec, total_bytes=_memory(value))
            elif key == "count":
                count = _count(value)
            elif key == "lag":
                spec = replace(spec, lag=_launches(value))
            else:
                raise ValueError("use memory=24GiB, count=8 or lag=1000")
        except ValueError as error:
            raise UnknownGpuError(f"--emulate {text}: cannot read {change!r}: {error}") from None
    return spec, count


def _choose(cards: Mapping[str, Gpu], card: str, path: str) -> Gpu:
    if card in cards:
        return cards[card]
    if not card and len(cards) == 1:
        return next(iter(cards.values()))
    names = ", ".join(filter(None, cards)) or "one card without a name"
    raise UnknownGpuError(f"{path} has {names}: say which, as in {path}#{next(iter(cards), '') or 'NAME'}")


def _cuda_major() -> int:
    try:
        return find_torch().cuda_version // 1000
    except EmulatorError:  # no torch, or a CPU build: the figures can be shown all the same
        return NEWEST_CUDA


def _memory(value: str) -> int:
    size_bytes = parse_bytes(value)
    if size_bytes < LEAST_BYTES:
        raise ValueError("a device has at least 512 MiB")
    return size_bytes


def _count(value: str) -> int:
    if not value.isdigit() or not 1 <= int(value) <= 64:
        raise ValueError("count is 1 to 64")
    return int(value)


def _launches(value: str) -> int:
    if not value.isdigit():
        raise ValueError("lag is a number of launches")
    return int(value)
