"""Compare two recordings: predicted with measured, before with after.

By category at the peak, by module and category where phases of a step differ most, and what surprises in the second:
each 5xx finding names a reason (unfused attention, tensors kept between steps, fragmentation, another process ...).

Example:
  vramprof compare before.vram after.vram
  vramprof compare predicted.vram measured.vram --html difference.html
"""

from __future__ import annotations

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="A", help="a .vram folder, or a torch snapshot")
    parser.add_argument("after", metavar="B", help="another")
    parser.add_argument("--html", metavar="F", help="write a page with both, side by side, to F")


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.api import load
    from vramprof.cli.report import labels

    before, after = labels([arguments.before, arguments.after])
    reports = load(arguments.before).compare(load(arguments.after), labels=(before, after))
    if arguments.html:
        print(f"wrote {reports.save(arguments.html)}")
    else:
        sys.stdout.write(reports.text())
    return 0
