"""Run a script or module under the profiler, with no change to it.

The script's own exit code is passed through. Each rank of a torchrun job writes its own recording.

Example:
  vramprof run train.py --epochs 1
  vramprof run --emulate a100-80gb -o run.vram train.py
  vramprof run --mode monitor train.py
  vramprof run --steps 3:6 train.py
  vramprof run --predict train.py
  torchrun --nproc-per-node 8 -m vramprof run train.py
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vramprof.errors import VramprofError
from vramprof.process import recording_name, with_rank

MODES = ("trace", "monitor")
PREDICTED_STEPS = 3
PREDICTION_S = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--emulate", metavar="GPU", help="run on an emulated device, e.g. a100-80gb:memory=24GiB")
    parser.add_argument("-o", "--out", metavar="OUT.vram", help="where to record (default: a new folder here)")
    parser.add_argument("--mode", choices=MODES, default="trace", help="trace every allocation, or counters alone")
    parser.add_argument("--steps", metavar="A:B", help="trace steps A to B-1 alone, and monitor the others")
    parser.add_argument("--stop-after", metavar="N", type=int, help="end the program after N steps")
    parser.add_argument(
        "--predict",
        action="store_true",
        help="first a dry run of the first steps, on this card but emulated; then compare",
    )
    parser.add_argument("--predict-on", metavar="GPU", help="the same, on another card")
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
    predicted = _predict(arguments, out) if arguments.predict or arguments.predict_on else None
    program = prepare(arguments.script, arguments.arguments, module=arguments.module)
    session = profile(
        out=out, mode=arguments.mode, steps=arguments.steps, oom_dumps=not arguments.no_oom_dump,
        stop_after=arguments.stop_after, predicted=predicted,
    )  # fmt: skip
    code = run_program(program, session)
    if not session.finished:
        return code  # a warning has said why; the script's own exit code still counts
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(session.report().text(color=sys.stderr.isatty()))
    print(f"vramprof: recorded to {out}; see `vramprof report {out} --html page.html`", file=sys.stderr)
    return code


def _predict(arguments: argparse.Namespace, out: Path) -> Path | None:
    """Where the first steps' dry run is kept, beside `out`; None where there is none, for a reason told on stderr."""
    from vramprof.prediction.dry_run import dry_run
    from vramprof.prediction.this_card import find_this_card

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        print("vramprof: no prediction: a dry run is of one process, and this job has several", file=sys.stderr)
        return None
    folder = out.with_name(f"{out.stem}.predicted.vram")
    try:
        dry_run(
            arguments.script, arguments.arguments, gpu=arguments.predict_on or arguments.emulate or find_this_card(),
            out=folder, timeout_s=PREDICTION_S, steps=PREDICTED_STEPS, is_module=arguments.module,
        )  # fmt: skip
    except VramprofError as error:
        print(f"vramprof: no prediction: {error}", file=sys.stderr)
        return None
    return folder


def record_path(out: str | None, script: str) -> Path:
    """Where this process records; a rank's number comes before the suffix."""
    if out is None:
        return Path(f"{recording_name(script)}.vram")
    path = Path(out)
    stem = path.stem if path.suffix == ".vram" else path.name
    return path.with_name(f"{with_rank(stem)}.vram")
