"""Runs every distinct program once, in a child process on the emulated card, and pairs rows with what came of it."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prediction_accuracy.child import MARK, PACKAGES
from prediction_accuracy.rows import Program, Result, Row

CHILD = Path(__file__).with_name("child.py")
ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt)\b")


@dataclass(frozen=True)
class Outcome:
    """What one child told: bytes by point and quantity, up to where it got."""

    figures: dict[str, dict[str, Any]]
    torch_version: str
    seconds: float
    failure: str


@dataclass(frozen=True)
class Interpreters:
    """The Python that has the torch build of a source, or the one that runs this."""

    by_version: dict[str, str]

    @classmethod
    def in_folder(cls, folder: Path | None) -> Interpreters:
        """Virtual environments named `torch-X.Y.Z` in a folder."""
        found = {} if folder is None else {path.name[6:]: path / "bin" / "python" for path in folder.glob("torch-*")}
        return cls({version: str(python) for version, python in found.items() if python.is_file()})

    def serving(self, version: str) -> str:
        """The build asked for, else the lowest one above it, else the interpreter of this process."""
        above = sorted((known for known in self.by_version if _order(known) >= _order(version)), key=_order)
        return self.by_version[above[0]] if version and above else sys.executable


def measure(
    rows: Iterable[Row], *, interpreters: Interpreters, timeout_s: float, tell: Callable[[str], None]
) -> Iterator[tuple[Program, Outcome, list[Result]]]:
    """Each program when it is done, what it told, and one result for each of its rows. A failed one's say why."""
    rows = list(rows)
    programs = list(dict.fromkeys(row.program for row in rows))
    for number, program in enumerate(programs, 1):
        outcome = run(program, interpreters=interpreters, timeout_s=timeout_s)
        state = outcome.failure or "done"
        tell(f"[{number}/{len(programs)}] {program.module} on {program.card}: {state}, {outcome.seconds:.0f} s")
        yield program, outcome, [_result(row, outcome) for row in rows if row.program == program]


def sample(rows: Iterable[Row], *, count: int, seed: int) -> list[Row]:
    """`count` rows drawn at random, or all where there are fewer."""
    rows = list(rows)
    return random.Random(seed).sample(rows, min(count, len(rows)))


def run(program: Program, *, interpreters: Interpreters, timeout_s: float) -> Outcome:
    """Runs a program in a child process of its own."""
    job = {"module": program.module, "card": program.card, "parameters": dict(program.parameters)}
    command = [interpreters.serving(program.torch_version), str(CHILD), json.dumps(job)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    begin = time.perf_counter()
    try:
        folders = [_installed(requirement) for requirement in program.packages]
        environment["PYTHONPATH"] = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])
        child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.CalledProcessError as error:
        return Outcome({}, "", time.perf_counter() - begin, f"pip could not install {error.cmd[-1]}")
    except subprocess.TimeoutExpired as error:
        return _outcome(_text(error.stdout), time.perf_counter() - begin, f"took more than {timeout_s:.0f} s")
    failure = "" if child.returncode == 0 else _last_words(child.stderr, child.returncode)
    return _outcome(child.stdout, time.perf_counter() - begin, failure)


def _installed(requirement: str) -> Path:
    """The folder that has a requirement from PyPI, and nothing else."""
    folder = PACKAGES / quote(requirement, safe="=<>+")
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(folder), requirement]
        subprocess.run(pip, check=True)
        for package in folder.glob("[!.]*[!o]/"):  # one without __init__.py would lose to any other copy on the path
            if any(package.glob("*/*.py")):
                (package / "__init__.py").touch()
    return folder


def _outcome(printed: str, seconds: float, failure: str) -> Outcome:
    told: list[tuple[str, Any]] = [
        json.loads(line.removeprefix(MARK)) for line in printed.splitlines() if line.startswith(MARK)
    ]
    figures = {point: figures for point, figures in told if point != "torch"}
    versions = [figures for point, figures in told if point == "torch"]
    return Outcome(figures, versions[0] if versions else "", seconds, failure)


def _result(row: Row, outcome: Outcome) -> Result:
    figures = outcome.figures.get(row.point)
    predicted = None if figures is None else figures.get(row.quantity)
    told = None if figures is None else figures.get("failure")
    missing = told or outcome.failure or f"the program told no {row.quantity} bytes for {row.point!r}"
    return Result(
        source=row.source,
        group=row.group,
        key=row.key,
        card=row.card,
        quantity=row.quantity,
        measured_bytes=row.measured_bytes,
        predicted_bytes=predicted,
        torch_stated=row.torch_version,
        torch_used=outcome.torch_version,
        fully_stated=row.fully_stated,
        seconds=round(outcome.seconds, 1),
        failure="" if predicted is not None else missing,
        rivals=dict(row.rivals),
        note=row.note,
    )


def _last_words(stderr: str, code: int) -> str:
    """The error's own line, without the folders of this machine."""
    lines = [line.strip() for line in stderr.splitlines() if ERROR_LINE.match(line)]
    return re.sub(r"(/[\w.+-]+){3,}", "...", lines[-1])[:200] if lines else f"exit code {code}"


def _text(printed: str | bytes | None) -> str:
    return printed.decode(errors="replace") if isinstance(printed, bytes) else printed or ""


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0]))
