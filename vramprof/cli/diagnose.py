"""Say why memory ran out, and what would have saved it.

PATH is a .vram folder, a torch snapshot pickle, a profiler's trace with memory events, a log that holds the error's
text, or - for standard input; without it, the newest recording or snapshot here. --what-if plays the recorded requests
through torch's own allocator under other settings, on an emulated device: no GPU is needed. --try runs the program
itself there, as it was and with changes: the settings that the replay found, checkpointing (put around the layers in
the child process alone), and the batch or sequence where the command names it; or the changes that you name.

Exit code: 0 no out-of-memory error is there, 1 there is one, 3 there is one and --what-if or --try showed a way out on
the same card, 2 our own errors.

Example:
  vramprof diagnose snapshot.pickle --what-if
  vramprof diagnose run.vram --try
  vramprof diagnose run.vram --try batch=8 --try gpu=l40s --try PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
  vramprof diagnose train.log --try --emulate a100-80gb -- train.py --batch 32
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
    parser.add_argument(
        "--try", dest="changes", metavar="CHANGE", nargs="?", const="", action="append",
        help="dry-run the program with changes: what is proposed, or NAME=VALUE of an argument, a variable, gpu",
    )  # fmt: skip
    parser.add_argument("--emulate", metavar="GPU", default="", help="the card of --try, else the recording's own")
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="SECONDS", help="give up a dry run (default: 300)"
    )
    parser.add_argument("--scrub", metavar="OUT.vram", help="write the recording without paths and names, to be shared")
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.api import diagnose
    from vramprof.diagnosis import write_scrubbed

    path, changes = _path_and_changes(arguments.path, arguments.changes)
    if arguments.scrub:
        write_scrubbed(path, Path(arguments.scrub))
        return 0
    found = diagnose(
        path, what_if=arguments.what_if, changes=changes, command=arguments.after_dashes, gpu=arguments.emulate,
        timeout_s=arguments.timeout,
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        terminal = sys.stdout.isatty()
        width = min(shutil.get_terminal_size().columns, 120) if terminal else 80
        sys.stdout.write(found.text(width=width, color=terminal))
    if not found.failed:
        return 0
    return 3 if any(case.saved for case in found.cases) else 1


def _path_and_changes(path: str | None, changes: list[str] | None) -> tuple[str | None, list[str] | None]:
    """A word after --try that is no NAME=VALUE is the path."""
    if changes is None:
        return path, None
    words = [change for change in changes if change and "=" not in change]
    return path or (words[0] if words else None), [change for change in changes if "=" in change]
