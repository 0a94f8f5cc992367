"""Find the largest batch, sequence or any other number of a script that fits a card, by dry runs on an emulated one.

{NAME} in the script's arguments stands for the number. With --vary twice, the largest first number is found for the
second's least value, twice that, and so on: a frontier. Nobody needs to change the script.

Example:
  vramprof fit --emulate rtx4090 --vary batch=1:512 train.py --batch {batch}
  vramprof fit --emulate l4 --vary batch=1:64 --vary seq=512:8192 train.py --batch {batch} --seq {seq}
"""

from __future__ import annotations

import argparse
import json
import re
import sys

from vramprof.errors import FitError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--emulate", metavar="GPU", required=True, help="the card, e.g. a100-80gb:memory=24GiB")
    parser.add_argument("--vary", metavar="NAME=LO:HI", action="append", default=[], help="what to vary; up to twice")
    parser.add_argument("--jobs", type=int, metavar="N", help="dry runs at the same time (default: one a core)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up when one dry run takes longer")
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    parser.add_argument("script", metavar="SCRIPT", help="what to run")
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="its arguments, with {NAME}")


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.prediction.fit import fit
    from vramprof.renderers.fit import render_fit

    if arguments.jobs is not None and arguments.jobs < 1:
        raise FitError(f"--jobs {arguments.jobs}: at least one dry run has to run")
    found = fit(
        arguments.script,
        *arguments.arguments,
        gpu=arguments.emulate,
        vary=dict(map(_range, arguments.vary)),
        jobs=arguments.jobs,
        timeout_s=arguments.timeout,
    )
    sys.stdout.write(json.dumps(found.as_dict(), indent=1) + "\n" if arguments.json else render_fit(found))
    return 0 if found.best[0] else 1


def _range(text: str) -> tuple[str, tuple[int, int]]:
    match = re.fullmatch(r"(\w+)=(\d+):(\d+)", text)
    if match is None:
        raise FitError(f"--vary {text}: write it like batch=1:512")
    return match[1], (int(match[2]), int(match[3]))
