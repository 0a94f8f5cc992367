"""The command line: one file per subcommand, help from its docstring, errors to one line and exit code 2."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from vramprof.errors import VramprofError

COMMANDS = ("run", "report", "diagnose", "compare", "plan", "fit", "live", "gpus", "doctor", "demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and give its exit code; our own errors are one line on stderr and 2."""
    parser = argparse.ArgumentParser(prog="vramprof", description="A GPU-memory profiler for PyTorch.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"vramprof.cli.{name}")
        head, _, rest = (module.__doc__ or "").partition("\n")
        command = commands.add_parser(
            name, help=head, description=head, epilog=rest.strip("\n"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.add_arguments(command)
        command.set_defaults(execute=module.execute)
    arguments = _parse(parser, list(sys.argv[1:] if argv is None else argv))
    try:
        return int(arguments.execute(arguments))
    except VramprofError as error:
        print(f"vramprof: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """The arguments; of `diagnose`, what stands behind -- is a program's and goes to `after_dashes` as it is."""
    after: list[str] = []
    if words[:1] == ["diagnose"] and "--" in words:
        dashes = words.index("--")
        words, after = words[:dashes], words[dashes + 1 :]
    return parser.parse_args(words, argparse.Namespace(after_dashes=after))
