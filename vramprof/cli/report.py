"""Show what a recording or a torch snapshot tells; several, such as the ranks of a job, on one page.

Example:
  vramprof report run.vram
  vramprof report snapshot.pickle --html page.html --json report.json --svg picture.svg
  vramprof report job-rank*.vram --html ranks.html
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from vramprof.renderers.forms import FORMS

    parser.add_argument("paths", metavar="RUN.vram|SNAPSHOT", nargs="+", help="a .vram folder, or a torch snapshot")
    for form, what in FORMS.items():
        parser.add_argument(f"--{form}", metavar="F", help=f"write {what} to F")


def execute(arguments: argparse.Namespace) -> int:
    from vramprof.api import load
    from vramprof.renderers.forms import FORMS

    files = {form: getattr(arguments, form) for form in FORMS if getattr(arguments, form)}
    if len(arguments.paths) > 1:
        return _several(arguments.paths, files)
    report = load(arguments.paths[0])
    for form, path in files.items():
        report.save_as(form, path)
        print(f"wrote {path}")
    if not files:
        terminal = sys.stdout.isatty()
        width = min(shutil.get_terminal_size().columns, 120) if terminal else 80
        sys.stdout.write(report.text(width=width, color=terminal))
    return 0


def _several(paths: list[str], files: dict[str, str]) -> int:
    from vramprof.api import load
    from vramprof.errors import VramprofError
    from vramprof.report import Reports

    if files.keys() - {"html"}:
        raise VramprofError("several recordings go to the terminal or to one page (--html)")
    reports = Reports({label: load(path) for label, path in zip(labels(paths), paths, strict=True)}, kind="ranks")
    if "html" in files:
        print(f"wrote {reports.save(files['html'])}")
    else:
        sys.stdout.write(reports.text())
    return 0


def labels(paths: list[str]) -> list[str]:
    """What tells the recordings apart: their names, with as many folders as that needs."""
    for count in range(1, max(len(Path(path).parts) for path in paths) + 1):
        found = ["/".join(Path(path).parts[-count:]) for path in paths]
        if len(set(found)) == len(found):
            return found
    return [f"{number}: {path}" for number, path in enumerate(paths)]
