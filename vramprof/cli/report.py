"""Show what a recording or a torch snapshot tells.

Example:
  vramprof report run.vram
  vramprof report snapshot.pickle --html page.html --json report.json --png picture.png
"""

from __future__ import annotations

import argparse
import shutil
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN.vram|SNAPSHOT", help="a .vram folder, or a torch snapshot pickle")
    for form in ("html", "json", "png"):
        parser.add_argument(f"--{form}", metavar="F", help=f"write {form.upper()} to F")


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.api import load

    report = load(arguments.path)
    files = {form: getattr(arguments, form) for form in ("html", "json", "png") if getattr(arguments, form)}
    for form, path in files.items():
        report.save_as(form, path)
        print(f"wrote {path}")
    if not files:
        terminal = sys.stdout.isatty()
        width = min(shutil.get_terminal_size().columns, 120) if terminal else 80
        sys.stdout.write(report.text(width=width, color=terminal))
    return 0
