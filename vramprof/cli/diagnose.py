"""Say why memory ran out, and what would have saved it.

PATH is a .vram folder, a torch snapshot pickle, a profiler's trace with memory events, a log that holds the error's
text, or - for standard input; without it, the newest recording or snapshot here. --what-if plays the recorded requests
through torch's own allocator under other settings, on an emulated device: no GPU is needed.

Exit code: 0 no out-of-memory error is there, 1 there is one, 3 there is one and --what-if found a setting under which
the request fits, 2 our own errors.

Example:
  vramprof diagnose snapshot.pickle --what-if
  vramprof diagnose train.log
  vramprof diagnose run.vram --scrub shared.vram
  kubectl logs job/train | vramprof diagnose - --json
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="?", help="a recording, snapshot, trace or log; - is standard input"
    )
    parser.add_argument("--what-if", action="store_true", help="replay the recording under other allocator settings")
    parser.add_argument("--scrub", metavar="OUT.vram", help="write the recording without paths and names, to be shared")
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.api import diagnose
    from vramprof.diagnosis import write_scrubbed

    if arguments.scrub:
        write_scrubbed(arguments.path, Path(arguments.scrub))
        return 0
    found = diagnose(arguments.path, what_if=arguments.what_if)
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        terminal = sys.stdout.isatty()
        width = min(shutil.get_terminal_size().columns, 120) if terminal else 80
        sys.stdout.write(found.text(width=width, color=terminal))
    if not found.failed:
        return 0
    return 3 if any(case.cure for case in found.cases) else 1
