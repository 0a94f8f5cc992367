"""Run a script or module under the profiler, with no change to it.

The script's own exit code is passed through. Each rank of a torchrun job writes its own recording.

Example:
  vramprof run train.py --epochs 1
  vramprof run --emulate a100-80gb -o run.vram train.py
  vramprof run --mode monitor train.py
  vramprof run --steps 3:6 train.py
  torchrun --nproc-per-node 8 -m vramprof run train.py
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vramprof.process import recording_name, with_rank

MODES = ("trace", "monitor")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--emulate", metavar="GPU", help="run on an emulated device, e.g. a100-80gb:memory=24GiB")
    parser.add_argument("-o", "--out", metavar="OUT.vram", help="where to record (default: a new folder here)")
    parser.add_argument("--mode", choices=MODES, default="trace", help="trace every allocation, or counters alone")
    parser.add_argument("--steps", metavar="A:B", help="trace steps A to B-1 alone, and monitor the others")
    parser.add_argument("--no-oom-dump", action="store_true", help="when memory runs out, write OUT.vram alone")
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is the name of a module")
    parser.add_argument("script", metavar="SCRIPT", help="what to run")
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="its arguments")


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.api import emulate, profile
    from vramprof.cli.program import prepare, run_program

    if arguments.emulate:
        emulate(arguments.emulate)
    out = record_path(arguments.out, arguments.script)
    program = prepare(arguments.script, arguments.arguments, module=arguments.module)
    session = profile(out=out, mode=arguments.mode, steps=arguments.steps, oom_dumps=not arguments.no_oom_dump)
    code = run_program(program, session)
    if not session.finished:
        return code  # a warning has said why; the script's own exit code still counts
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(session.report().text(color=sys.stderr.isatty()))
    print(f"vramprof: recorded to {out}; see `vramprof report {out} --html page.html`", file=sys.stderr)
    return code


def record_path(out: str | None, script: str) -> Path:
    """Where this process records; a rank's number comes before the suffix."""
    if out is None:
        return Path(f"{recording_name(script)}.vram")
    path = Path(out)
    stem = path.stem if path.suffix == ".vram" else path.name
    return path.with_name(f"{with_rank(stem)}.vram")
