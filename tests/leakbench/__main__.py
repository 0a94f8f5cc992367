"""Judge programs in this process and write what came of each as a line of JSON, as soon as it is known."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from leakbench.registry import Program, programs


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m leakbench", description=__doc__)
    parser.add_argument("names", nargs="*", help="the programs; all without one")
    parser.add_argument("--real", action="store_true", help="run on this machine's own card")
    parser.add_argument("--gpu", default="a100-80gb", help="what to emulate (default: a100-80gb)")
    parser.add_argument("--steps", type=int, help="instead of the program's own number")
    parser.add_argument("--json", type=Path, required=True, help="where to write")
    return parser.parse_args()


def result_of(program: Program) -> dict[str, Any]:
    from leakbench.rivals import RULES
    from leakbench.runner import as_dict, judge

    try:
        verdict, recording, device = judge(program)
    except Exception as error:
        traceback.print_exc()
        return {"name": program.name, "leaks": program.leaks, "failed": f"{type(error).__name__}: {error}"}
    rivals = {words: bool(holds(device)) for words, holds in RULES.items()} if device is not None else {}
    return {**as_dict(verdict), "rivals": rivals, "emulated": recording.emulated, "steps": program.steps}


def main() -> int:
    arguments = parse()
    if not arguments.real:
        import vramprof

        vramprof.emulate(arguments.gpu)
    known = programs()
    with arguments.json.open("w", encoding="utf-8") as file:
        for name in arguments.names or known:
            program = known[name] if arguments.steps is None else replace(known[name], steps=arguments.steps)
            file.write(json.dumps(result_of(program)) + "\n")
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
