"""Compare two recordings: predicted with measured, before with after.

By category at the peak, by module and category where phases of a step differ most, and what surprises in the second:
each 5xx finding names a reason (unfused attention, tensors kept between steps, fragmentation, another process ...).

Example:
  vramprof compare before.vram after.vram
  vramprof compare predicted.vram measured.vram --html difference.html
  vramprof compare run.vram --plan gpt2 --gpu a100-80gb --batch 8 --seq 1024 --mixed amp --dtype fp32
"""

from __future__ import annotations

import argparse
import sys

from vramprof.cli.plan import add_workload, workload_of
from vramprof.errors import VramprofError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="A", help="a .vram folder, or a torch snapshot")
    parser.add_argument("after", metavar="B", nargs="?", help="another")
    parser.add_argument("--html", metavar="F", help="write a page with both, side by side, to F")
    parser.add_argument("--plan", metavar="MODEL", help="compare A with what `vramprof plan MODEL ...` says instead")
    add_workload(parser)


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.api import load
    from vramprof.cli.report import labels

    if (arguments.after is None) == (arguments.plan is None):
        raise VramprofError("compare two recordings, or one with a plan: vramprof compare A B, or A --plan MODEL")
    if arguments.plan is not None:
        return _with_plan(arguments)
    before, after = labels([arguments.before, arguments.after])
    reports = load(arguments.before).compare(load(arguments.after), labels=(before, after))
    if arguments.html:
        print(f"wrote {reports.save(arguments.html)}")
    else:
        sys.stdout.write(reports.text())
    return 0


def _with_plan(arguments: argparse.Namespace) -> int:
    from vramprof.api import load
    from vramprof.prediction.plan import plan
    from vramprof.prediction.this_card import card_named
    from vramprof.renderers.several import render_plan_difference

    facts = load(arguments.before).facts
    gpu = arguments.gpu or card_named(facts.devices[0].name if facts.devices else "")
    sys.stdout.write(render_plan_difference(plan(arguments.plan, gpu=gpu, **workload_of(arguments)), facts))
    return 0
