"""List the GPUs of the catalog, by the names that --emulate takes.

Example:
  vramprof gpus
"""

from __future__ import annotations

import argparse

from vramprof.units import format_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.prediction.catalog import find_device, gpu_names

    for name in gpu_names():
        spec, _ = find_device(name)
        major, minor = spec.compute_capability
        print(f"{name:<16} {format_bytes(spec.total_bytes):>9}  sm_{major}{minor:<2} {spec.name}")
    return 0
