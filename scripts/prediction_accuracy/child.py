"""Runs one program, given as JSON with module, card and parameters, on the emulated device and prints its peaks."""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from pathlib import Path
from typing import Any

SCRIPTS, ROOT = Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2]
PACKAGES = ROOT / "build" / "packages"
MARK = "PEAKS "


def main() -> None:
    """One line per point: MARK, then JSON of [point, {quantity: bytes}]; the point "" is the end of the program."""
    job = json.loads(sys.argv[1])
    sys.path[0] = str(SCRIPTS)
    sys.path.append(str(ROOT))  # an installed vramprof comes first
    from vramprof import emulator
    from vramprof.prediction.catalog import find_device

    spec, count = find_device(job["card"])
    emulator.start(spec, count=count)
    _load_packaged_cudnn()
    import torch

    print(MARK + json.dumps(["torch", torch.__version__]), flush=True)
    program = importlib.import_module(f"prediction_accuracy.programs.{job['module']}")
    for point, figures in program.run(**job["parameters"]) or ():
        print(MARK + json.dumps([point, figures]), flush=True)
    print(MARK + json.dumps(["", _peaks(torch)]), flush=True)


def _load_packaged_cudnn() -> None:
    """A cuDNN among the program's packages goes before the one that torch was installed with."""
    for folder in map(Path, sys.path):
        library = folder / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
        if PACKAGES in library.parents and library.is_file():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _peaks(torch: Any) -> dict[str, int]:
    """The process's peak is what is used now, context included, plus what torch handed back since its own peak."""
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.max_memory_reserved()
    handed_back = reserved - torch.cuda.memory_reserved()
    return {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": reserved,
        "process": total - free + handed_back,
    }


if __name__ == "__main__":
    main()
