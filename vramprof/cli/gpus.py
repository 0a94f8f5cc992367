"""List the GPUs of the catalog, by the names that --emulate takes, or show one with the source of every figure.

NAME may be a file that describes a card of your own: ./mycard.toml, or ./cards.toml#NAME where it has several.

Example:
  vramprof gpus
  vramprof gpus h100-80gb
  vramprof gpus --json > gpus.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vramprof.units import format_bytes

if TYPE_CHECKING:
    from vramprof.prediction.gpu_file import Gpu


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this one, with its sources")
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.prediction.catalog import find_gpu, gpu_names

    names = [arguments.name] if arguments.name else gpu_names()
    gpus = {name: find_gpu(name) for name in names}
    if arguments.json:
        print(json.dumps({name: _plain(gpu) for name, gpu in gpus.items()}, indent=1))
    elif arguments.name:
        print("\n".join(_sheet(gpus[arguments.name])))
    else:
        print("\n".join(_list(gpus.items())))
    return 0


def _list(gpus: Iterable[tuple[str, Gpu]]) -> Iterable[str]:
    for name, gpu in gpus:
        major, minor = gpu.compute_capability
        yield f"{name:<16} {format_bytes(gpu.total):>9}  sm_{major}{minor:<2} {gpu.name}"


def _plain(gpu: Gpu) -> dict[str, Any]:
    context = {f"cuda{release}" if release else "any": size for release, size in gpu.context.items()}
    plain = {field: getattr(gpu, field) for field in gpu.__dataclass_fields__}
    return {**plain, "context": context, "compute_capability": "{}.{}".format(*gpu.compute_capability)}


def _sheet(gpu: Gpu) -> Iterable[str]:
    """Figures that have a source of their own are followed by it; the others have one for all, at the end."""
    plain = _plain(gpu)
    sources = plain.pop("source")
    for field, value in plain.items():
        yield f"{field:<27} {_written(field, value)}"
        if field in sources:
            yield f"    {sources[field]}"
    if "chip" in sources:
        yield f"everything else: {sources['chip']}"


def _written(field: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{format_bytes(size)} ({release})" for release, size in value.items())
    if field == "total":
        return f"{value} bytes, {format_bytes(value)}"
    return format_bytes(value) if field in ("l2", "modules") or field.startswith("shared") else str(value)
