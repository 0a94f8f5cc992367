"""Turns the installed torch's files into its version and CUDA release, without importing it."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from vramprof.errors import EmulatorError, UnsupportedPlatformError


@dataclass(frozen=True)
class TorchBuild:
    """One installation of torch."""

    version: str
    """As torch says it, such as "2.14.1+cu130"."""
    cuda_version: int
    """As CUDA says it: 13000 for 13.0."""
    library_folder: Path


def find_torch() -> TorchBuild:
    """The torch that `import torch` would load. Raises EmulatorError or UnsupportedPlatformError."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise EmulatorError("torch is not installed: install a CUDA build of torch 2.6 or newer")
    return read_version(Path(next(iter(spec.submodule_search_locations))))


def read_version(package: Path) -> TorchBuild:
    """Reads torch/version.py, which assigns `__version__` and `cuda`."""
    text = (package / "version.py").read_text()
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=\n]*=\s*['\"](\d+)\.(\d+)", text, re.MULTILINE)
    if version is None:
        raise EmulatorError(f"{package / 'version.py'} does not say which torch this is: reinstall torch")
    if cuda is None:
        raise UnsupportedPlatformError(
            f"torch {version[1]} is not a CUDA build: install one from https://download.pytorch.org/whl/cu130"
        )
    return TorchBuild(version[1], int(cuda[1]) * 1000 + int(cuda[2]) * 10, package / "lib")
