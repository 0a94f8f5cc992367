"""Judge programs in this process and write what came of each as a line of JSON, as soon as it is known."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surprises.registry import Program, programs


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m surprises", description=__doc__)
    parser.add_argument("names", nargs="*", help="the programs; all without one")
    parser.add_argument("--gpu", default="a100-80gb", help="what to emulate (default: a100-80gb)")
    parser.add_argument("--json", type=Path, required=True, help="where to write")
    return parser.parse_args()


def result_of(program: Program) -> dict[str, Any]:
    from surprises.runner import judge

    try:
        verdict = judge(program)
    except Exception as error:
        traceback.print_exc()
        said = {"name": program.name, "code": program.code, "failed": f"{type(error).__name__}: {error}"}
    else:
        said = {**asdict(verdict), "right": verdict.right}
    return {**said, "held_out": program.held_out}


def main() -> int:
    arguments = parse()
    import vramprof

    vramprof.emulate(arguments.gpu)
    known = programs()
    with arguments.json.open("w", encoding="utf-8") as file:
        for name in arguments.names or known:
            file.write(json.dumps(result_of(known[name])) + "\n")
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
