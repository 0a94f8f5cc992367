"""Turns a program with a number left open into the largest number that fits a card, by dry runs in child processes.

The first runs tell how memory grows, and from that which numbers are worth trying next; what is said to fit was run on
the card asked for, and so was the first that does not. It is taken that more of the number never needs less memory.

Blind to: what a dry run is blind to, and programs that catch an out-of-memory error themselves (they seem to fit).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from vramprof.errors import FitError
from vramprof.prediction.catalog import find_device
from vramprof.prediction.dry_run import Program, dry_run

Values = Mapping[str, int]


@dataclass(frozen=True)
class Try:
    """One dry run. Peaks are those of the fullest device; of one that did not fit, those until then."""

    values: Values
    fits: bool
    peak_allocated_bytes: int
    peak_reserved_bytes: int


@dataclass(frozen=True)
class Fit:
    """What was found; everything in it is predicted on an emulated device.

    `best` is the try with the largest first number for each value of the second (one where a single number varies);
    `None` where not even the least fits. `limited` says whether a larger one was tried and did not fit.
    """

    gpu: str
    limit_bytes: int
    """What torch can reserve: the card less its context."""
    best: tuple[Try | None, ...]
    limited: tuple[bool, ...]
    tries: tuple[Try, ...]

    def margin_bytes(self, found: Try) -> int:
        """What a fitting try leaves free."""
        return self.limit_bytes - found.peak_reserved_bytes

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "schema_version": 1,
            "origin": "predicted",
            "emulated": True,
            "gpu": self.gpu,
            "limit_bytes": self.limit_bytes,
            "best": [one and {**asdict(one), "margin_bytes": self.margin_bytes(one)} for one in self.best],
            "limited": list(self.limited),
            "tries": [asdict(one) for one in self.tries],
        }


def fit(
    program: Program,
    *arguments: Any,
    gpu: str,
    vary: Mapping[str, tuple[int, int]],
    jobs: int | None = None,
    timeout_s: float | None = None,
) -> Fit:
    """The largest number that fits a card, by dry runs in child processes.

    `vramprof.fit("train.py", "--batch", "{batch}", gpu="l4", vary={"batch": (1, 512)})`

    `{batch}` stands for the number in a script's arguments; for a function, an argument that is "{batch}" becomes
    an int. With two numbers, the largest first one is sought for the second's least value, twice that, and so on.

    Args:
        program: a script's path, or a function at the top level of a module, as for `predict`.
        arguments: the script's, as strings, or the function's.
        gpu: as for `emulate`.
        vary: name to least and greatest value; one or two of them.
        jobs: dry runs at the same time; as many as there are cores unless given.
        timeout_s: after so many seconds a dry run is given up, and the search with it.

    Raises:
        FitError: a range is empty or not used, or there are none or more than two.
        UnknownGpuError: no such GPU.
        DryRunError: the program failed for another reason than memory.
    """
    _check(vary, arguments)
    device, _ = find_device(gpu)
    limit = device.total_bytes - device.context_bytes
    search = Search(
        limit, jobs or os.cpu_count() or 1, lambda values: _attempt(program, arguments, values, gpu, timeout_s)
    )
    (name, (low, high)), *second = vary.items()
    best: list[Try | None] = []
    limited: list[bool] = []
    for fixed in _steps(second):
        found, failed = search.largest(name, low, high, fixed)
        best.append(found)
        limited.append(failed or any(limited))
        if found is None:
            break
        high = found.values[name]  # more of the second number leaves no room for more of the first
    return Fit(gpu, limit, tuple(best), tuple(limited), tuple(search.tries))


def _check(vary: Mapping[str, tuple[int, int]], arguments: Sequence[Any]) -> None:
    if not 1 <= len(vary) <= 2:
        raise FitError("say what to vary: one number, or two for a frontier, as in batch=1:512")
    for name, (low, high) in vary.items():
        if not 1 <= low <= high:
            raise FitError(f"{name}={low}:{high}: a range goes from at least 1 upwards")
        if not any(f"{{{name}}}" in str(argument) for argument in arguments):
            raise FitError(f"no argument has {{{name}}} in it: write it where the number belongs")


def _steps(second: Sequence[tuple[str, tuple[int, int]]]) -> Iterator[Values]:
    """The values of the second number, doubling up to its greatest."""
    if not second:
        yield {}
        return
    name, (low, high) = second[0]
    doubled = itertools.takewhile(lambda value: value < high, (low * 2**power for power in itertools.count()))
    for value in (*doubled, high):
        yield {name: value}


def _attempt(program: Program, arguments: Sequence[Any], values: Values, gpu: str, timeout_s: float | None) -> Try:
    recording = dry_run(program, [_put(one, values) for one in arguments], gpu=gpu, timeout_s=timeout_s)
    peaks = recording.devices[["peak_allocated_bytes", "peak_reserved_bytes"]].max()
    allocated, reserved = (0 if recording.devices.empty else int(peak) for peak in peaks)
    return Try(dict(values), recording.origin != "oom", allocated, reserved)


def _put(argument: Any, values: Values) -> Any:
    """The argument with each `{NAME}` replaced; an int where it is nothing but that."""
    if not isinstance(argument, str):
        return argument
    for name, value in values.items():
        if argument == f"{{{name}}}":
            return value
        argument = argument.replace(f"{{{name}}}", str(value))
    return argument


class Search:
    """Tries values, several at a time, and remembers what came of them."""

    def __init__(self, limit_bytes: int, jobs: int, attempt: Callable[[Values], Try]) -> None:
        self.tries: list[Try] = []
        self._limit_bytes, self._jobs, self._attempt = limit_bytes, jobs, attempt

    def largest(self, name: str, low: int, high: int, fixed: Values) -> tuple[Try | None, bool]:
        """The largest value that fits, and whether the next one was seen not to."""
        found: dict[int, Try] = {}
        for values in self._plans(low, high, found):
            with ThreadPoolExecutor(self._jobs) as pool:
                tried = list(pool.map(self._attempt, [{name: value, **fixed} for value in values]))
            self.tries += tried
            found.update(zip(values, tried, strict=True))
        fitting = [value for value, one in found.items() if one.fits]
        best = max(fitting, default=None)
        return (None if best is None else found[best]), any(not one.fits for one in found.values())

    def _plans(self, low: int, high: int, found: dict[int, Try]) -> Iterator[list[int]]:
        """What to try next, until a value fits and the next one does not."""
        yield sorted({low, min(high, 2 * low + 2)})
        for guess in itertools.cycle((True, False)):  # a curve that no line follows is halved every other time
            fits = max((value for value, one in found.items() if one.fits), default=low - 1)
            fails = min((value for value, one in found.items() if not one.fits), default=high + 1)
            if fits < low or fails - fits <= 1:
                return
            inside = range(fits + 1, fails)
            values = [value for value in self._guesses(found) if value in inside] if guess else []
            yield sorted(set(values or self._spread(inside)))

    def _guesses(self, found: dict[int, Try]) -> Iterator[int]:
        """Around where the line through two runs meets the card; the further that is, the wider."""
        fitting = sorted(value for value, one in found.items() if one.fits)
        if len(fitting) < 2:
            return
        one, other = fitting[-2:]
        slope = (found[other].peak_reserved_bytes - found[one].peak_reserved_bytes) / (other - one)
        if slope > 0:
            last = int(other + (self._limit_bytes - found[other].peak_reserved_bytes) / slope)
            yield from (last * 7 // 8 if last > 2 * other else last, last + 1)

    def _spread(self, inside: range) -> list[int]:
        """As many values as run at a time, evenly between."""
        parts = min(self._jobs, len(inside)) + 1
        return [inside.start - 1 + (len(inside) + 1) * part // parts for part in range(1, parts)]
