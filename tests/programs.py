"""Runs small programs in child processes on an emulated device: torch is loaded once per process, after the device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from vramprof.emulator import check
from vramprof.errors import VramprofError

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}
NEUTRAL_FOLDER = Path(__file__).parent  # `python -c` looks here first, and no vramprof is here


def need_emulator() -> None:
    try:
        check()
    except VramprofError as error:
        pytest.skip(f"the emulated device cannot run here: {error}")


def run_program(
    code: str, *, gpu: str | None = "a100-80gb", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code in a child process, on an emulated device unless `gpu` is None."""
    if gpu is not None:
        need_emulator()
    head = "" if gpu is None else f"import vramprof; vramprof.emulate({gpu!r})\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=NEUTRAL_FOLDER,
        env={**ENVIRONMENT, **(environment or {})},
    )


def told_by(code: str, **options: Any) -> Any:
    """What the program prints as JSON on its last line."""
    result = run_program(code, **options)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


def run_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m vramprof ...` in a child process."""
    return subprocess.run(
        [sys.executable, "-m", "vramprof", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=cwd,
        env=ENVIRONMENT,
    )
