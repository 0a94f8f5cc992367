from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from programs import ENVIRONMENT, run_command, run_program
from vramprof import diagnose, load
from vramprof.analyses.causes import CauseKind

HEAD = """
import sys; sys.argv = ["train.py"]
import vramprof; vramprof.install(folder={folder!r}); vramprof.install()
vramprof.emulate("a100-80gb:memory=2GiB")
import json, os, threading, torch
def take(mib):
    return torch.empty(mib << 20, dtype=torch.uint8, device="cuda")
def tried(mib):
    try:
        take(mib)
    except torch.OutOfMemoryError as error:
        return [type(error).__name__, str(error)[:22], getattr(error, "__notes__", []), error.__traceback__.tb_next.tb_next]
"""


def told(code: str, folder: Path, **options: Any) -> tuple[Any, str]:
    """What the program printed as JSON on its last line, and its stderr."""
    result = run_program(HEAD.format(folder=str(folder)) + code, gpu=None, **options)
    return (json.loads(result.stdout.splitlines()[-1]) if result.stdout else None), result.stderr


def test_caught_and_tried_again(tmp_path: Path) -> None:
    """Three dumps are kept, and the newest of the others; the error is torch's own; a made-up one is none of ours."""
    code = """
keep = [take(100) for _ in range(10)]
found = [tried(3000) for _ in range(3)]
"""
    notes, errors = told(code + "print(json.dumps(found, default=str))", tmp_path)
    print(notes, errors)
