"""Turns a program's name into what came of running it in a child process, whatever came of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoke.registry import programs

SCRIPTS = Path(__file__).resolve().parents[1]


def run(
    name: str,
    *,
    python: str = sys.executable,
    gpu: str | None = None,
    real: bool = False,
    history: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 300,
) -> dict[str, Any]:
    """The result that `python -m smoke NAME` writes, or one that says how the child died.

    Keys: name, subject, emulated, outcome ("ran", "failed", "not installed", "timed out", "killed by SIGSEGV" ...),
    reason (unless it ran), torch, device, peak_allocated_bytes, peak_reserved_bytes, device_used_bytes, process_bytes
    (None where NVML can't tell), guessed_reads, estimated_sizes, step_seconds, seconds, host_peak_bytes, stderr (its
    end).
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "result.json"
        command = [python, "-X", "faulthandler", "-m", "smoke", name, "--json", str(told)]
        command += ["--real"] if real else ["--gpu", gpu] if gpu else []
        command += ["--history", str(history)] if history else []
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            cwd=folder,
            env=child_environment(environment or {}),
        )
        try:
            _, errors = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return failure(name, real, "timed out", f"after {timeout_s:.0f} s")
        finally:
            end_group(child)
        if told.is_file():
            return {**json.loads(told.read_text()), "stderr": errors[-4000:]}
    return failure(name, real, how_it_died(child.returncode), errors[-4000:].strip() or "no message")


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    paths = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", **changes}


def end_group(child: subprocess.Popen[str]) -> None:
    """The child leads a session of its own, so that what it started ends with it, however it ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def how_it_died(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def failure(name: str, real: bool, outcome: str, reason: str) -> dict[str, Any]:
    subject = programs()[name].subject
    return {"name": name, "subject": subject, "emulated": not real, "outcome": outcome, "reason": reason}
