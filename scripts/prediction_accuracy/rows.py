"""What a source states (a Row), what we ran for it (a Program) and what came of it (a Result)."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = Path(os.environ.get("VRAMPROF_SHARED_DATA") or ROOT.parent / "shared" / "data")
QUANTITIES = ("allocated", "reserved", "process")


@dataclass(frozen=True)
class Program:
    """A module of `programs/` and what its `run` is called with. Equal programs run once.

    `run(**parameters)` either returns nothing, and the peaks are read at its end, or yields pairs of a point and its
    bytes by quantity; `{"failure": reason}` in their place says that this point has none.
    """

    module: str
    card: str
    parameters: tuple[tuple[str, Any], ...] = ()
    torch_version: str = ""
    """The build that the source used, where it says so; "" leaves the choice to the driver."""
    packages: tuple[str, ...] = ()
    """Requirements such as "liger-kernel==0.2.1", installed without their dependencies, ahead of what is there."""

    @classmethod
    def of(
        cls, module: str, card: str, *, torch_version: str = "", packages: tuple[str, ...] = (), **parameters: Any
    ) -> Program:
        """The same, with parameters as keywords; their values must be hashable and fit JSON (tuples for lists)."""
        return cls(module, card, tuple(sorted(parameters.items())), torch_version, packages)


@dataclass(frozen=True)
class Row:
    """One figure measured on a real GPU, and the program whose dry run should give it."""

    source: str
    group: str
    """Rows of one group are summed up together: "plain PyTorch", "LoRA" ..."""
    key: str
    card: str
    quantity: str
    measured_bytes: int
    program: Program
    point: str = ""
    """Which of the figures that the program yields; "" is the one at its end."""
    torch_version: str = ""
    """As stated by the source; "" where it does not say."""
    fully_stated: bool = True
    """Whether the source says all that the program needs, so that nothing was guessed."""
    rivals: tuple[tuple[str, int], ...] = ()
    """Other predictors' published bytes for this very row."""
    note: str = ""


@dataclass(frozen=True)
class Result:
    """A row with the dry run's figure, as it stands in the CSV. `predicted_bytes` is None where it failed."""

    source: str
    group: str
    key: str
    card: str
    quantity: str
    measured_bytes: int
    predicted_bytes: int | None
    torch_stated: str = ""
    torch_used: str = ""
    fully_stated: bool = True
    seconds: float = 0.0
    failure: str = ""
    rivals: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def difference_bytes(self) -> int | None:
        return None if self.predicted_bytes is None else self.predicted_bytes - self.measured_bytes

    @property
    def error_ratio(self) -> float | None:
        """Signed: above zero the dry run says more than was measured."""
        return None if self.difference_bytes is None else self.difference_bytes / self.measured_bytes


@dataclass(frozen=True)
class Explanation:
    """Why results whose `group/key` fits a pattern are off."""

    pattern: str
    reason: str

    def covers(self, result: Result) -> bool:
        """Shell patterns, matched as a whole and by case."""
        return fnmatchcase(f"{result.group}/{result.key}", self.pattern)


@dataclass(frozen=True)
class Goal:
    """A floor or ceiling for the results of one source that `of` picks."""

    text: str
    of: Callable[[Result], bool]
    value: Callable[[list[Result]], float]
    limit: float
    at_least: bool = False


def write_results(path: Path, results: Iterable[Result]) -> None:
    """One line per result, sorted, so that two sources measured apart merge cleanly."""
    ordered = sorted(results, key=lambda result: (result.source, result.group, result.key, result.quantity))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Result)], lineterminator="\n")
        writer.writeheader()
        for result in ordered:
            rivals = ";".join(f"{name}={value}" for name, value in sorted(result.rivals.items()))
            writer.writerow({**asdict(result), "rivals": rivals})


def read_results(path: Path) -> list[Result]:
    """What `write_results` wrote; nothing where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [_result(line) for line in csv.DictReader(file)]


def _result(line: dict[str, str]) -> Result:
    rivals = dict(pair.split("=") for pair in line["rivals"].split(";") if pair)
    return Result(
        **{name: line[name] for name in ("source", "group", "key", "card", "quantity", "torch_stated", "torch_used")},
        measured_bytes=int(line["measured_bytes"]),
        predicted_bytes=int(line["predicted_bytes"]) if line["predicted_bytes"] else None,
        fully_stated=line["fully_stated"] == "True",
        seconds=float(line["seconds"]),
        failure=line["failure"],
        rivals={name: int(value) for name, value in rivals.items()},
        note=line["note"],
    )
