"""Profile a few training steps of a GPT-2-size model, and write the page, the JSON and the recording.

On a machine without a GPU it runs on an emulated A100, and says so.

Example:
  vramprof demo
  vramprof demo --out /tmp/demo --emulate rtx4090
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path

_FIND_DEVICE = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", metavar="FOLDER", default="vramprof-demo", help="where to write (default: %(default)s)"
    )
    parser.add_argument("--emulate", metavar="GPU", help="emulate this GPU even where there is a real one")


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.api import emulate, profile
    from vramprof.cli.program import prepare, run_program

    gpu = arguments.emulate or (None if _has_device() else "a100-80gb")
    if gpu:
        print(f"{'as asked' if arguments.emulate else 'no GPU here'}: running on an emulated {gpu}\n")
        emulate(gpu)
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    with as_file(files("vramprof.cli").joinpath("demo_program.py")) as script:
        program = prepare(str(script), [], module=False)
        session = profile(out=folder / "demo.vram")
        code = run_program(program, session)
    report = session.report()
    sys.stdout.write(report.text(color=sys.stdout.isatty()))
    for name in ("demo.html", "demo.json", "demo.png"):
        print(f"wrote {report.save(folder / name)}")
    print(f"wrote {folder / 'demo.vram'}")
    return code


def _has_device() -> bool:
    """Asked in a child process: this one must not import torch before the emulated device is loaded."""
    return subprocess.run([sys.executable, "-c", _FIND_DEVICE], capture_output=True, check=False).returncode == 0
