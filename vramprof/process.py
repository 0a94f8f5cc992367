"""What this process is, and what a recording of it is called."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

_begin = time.strftime("%Y%m%d-%H%M%S")


def about_process() -> dict[str, object]:
    """Its command, number, Python and, in a job of several, rank; for the metadata of a recording."""
    about: dict[str, object] = {
        "command": list(sys.argv),
        "pid": os.getpid(),
        "python_version": sys.version.split()[0],
        "begin_ns": time.time_ns(),
    }
    for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        if os.environ.get(key, "").isdigit():
            about[key.lower()] = int(os.environ[key])
    return about


def recording_name(script: str = "") -> str:
    """SCRIPT-DATE-TIME-PID, and the rank in a job of several."""
    name = Path(script or sys.argv[0]).stem
    return with_rank(f"{name if name not in ('', '-c', '-m') else 'python'}-{_begin}-{os.getpid()}")


def with_rank(name: str) -> str:
    """The name, and the rank in a job of several."""
    rank = os.environ.get("RANK")
    return name if rank is None else f"{name}-rank{rank}"
