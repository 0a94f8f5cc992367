"""Watch a run in progress: a full-screen view, from another shell or over SSH. The run is only read.

Without an argument: the newest recording that is being written here, with all its ranks, or else every process on the
GPUs. WHAT is a recording, a job's name (job.vram for job-rank*.vram), or a process id. Keys: ? shows them.

Example:
  vramprof live
  vramprof live run.vram
  vramprof live job-rank*.vram
  vramprof live 12345 --plain
"""

from __future__ import annotations

import argparse
import os
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="RUN.vram|PID", nargs="*", help="what to watch (default: what runs here)")
    parser.add_argument("--plain", action="store_true", help="a line a second, also where there is no terminal")


def execute(arguments: argparse.Namespace) -> int:
    from contextlib import closing

    from vramprof.live import follow_plainly, watch

    with closing(watch(arguments.what)) as watched:
        if arguments.plain or not _is_screen():
            follow_plainly(watched, sys.stdout)
        else:
            from vramprof.renderers.live.app import run_screen

            run_screen(watched)
    return 0


def _is_screen() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
