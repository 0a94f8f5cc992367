"""Turns the evidence of an out-of-memory error into a `.vram` folder and the few words that stand under the error."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from vramprof.analyses.causes import CauseKind
from vramprof.analyses.frames import users_frame
from vramprof.analyses.peak import bytes_by_stack
from vramprof.findings import find_all, gather_facts
from vramprof.findings.diagnosis import Diagnosis, OomCase, device_case, error_case
from vramprof.findings.facts import DeviceFacts, Facts
from vramprof.recording import Recording, open_folder
from vramprof.recording.storage import save_folder
from vramprof.renderers.console import place_of
from vramprof.renderers.diagnosis import render_diagnosis
from vramprof.sources.oom_signals import Failure
from vramprof.units import format_bytes

MOST_KEPT = 3
_PAUSE_RATIO = 20
_MOST_FRAMES = 12


class Dumps:
    """The dumps of one process: FOLDER/NAME-oom1.vram to -oom3, and -oom-latest, which newer ones replace.

    From the fourth on, writing them takes a twentieth of the program's time at most.
    """

    def __init__(self, folder: Path, name: Callable[[], str]) -> None:
        self._folder = folder.absolute()
        self._name = name
        self._not_before = 0.0
        self._count = 0
        self.kept: list[Path] = []
        self.newest: Path | None = None
        self.is_new = False

    def write(self, take: Callable[[], Recording], failure: Failure, *, at_once: bool = False) -> str:
        """Take the evidence and write it; gives what to tell the user, in a few lines.

        What cannot be written is told on stderr. `at_once`: even if the one before it was a moment ago.
        """
        if time.monotonic() < self._not_before and not at_once:
            self.is_new = False
            return f"vramprof: memory ran out again; of a time before, there is\n  {self.command or 'what was printed'}"
        self.is_new = True
        begin = time.monotonic()
        recording, path = None, self._next_path()
        try:
            recording = take()
            _write(recording, path)
        except Exception as error:  # disk full, no right to write, host memory short
            note = _note(recording, f"no dump at {_shown(path)}: {_words(error)}")
            _print_gist(recording, failure, note)
        else:
            self.newest = path
            note = _note(recording, self.command)
        self._count += 1
        now = time.monotonic()
        self._not_before = now + _PAUSE_RATIO * (now - begin) if self._count >= MOST_KEPT else 0.0
        return note

    def keep(self) -> None:
        """An error came of it: the newest stays, and the next one gets a name of its own."""
        if self.newest is not None and self.newest not in self.kept:
            self.kept.append(self.newest)

    def close(self) -> None:
        """Nothing more will be written. The newest goes, if no error came of it."""
        if self.newest is not None and self.newest not in self.kept:
            shutil.rmtree(self.newest, ignore_errors=True)
            self.newest = self.kept[-1] if self.kept else None

    @property
    def command(self) -> str:
        """What to type to read the newest one."""
        return "" if self.newest is None else _command(self.newest)

    def _next_path(self) -> Path:
        number = len(self.kept) + 1
        ending = f"oom{number}" if number <= MOST_KEPT else "oom-latest"
        return self._folder / f"{self._name()}-{ending}.vram"


def _write(recording: Recording, path: Path) -> None:
    """Whole or not at all; an older recording there is replaced, anything else is left and refused."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    if path.exists() and not open_folder(path):
        raise FileExistsError(f"{path.name} is there and is no recording")
    try:
        save_folder(recording, partial)
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _note(recording: Recording | None, last: str) -> str:
    """What happened, who holds most, and where to read on. There may be no evidence, or none that can be read."""
    head = "vramprof"
    lines: list[str] = []
    if recording is not None:
        head = "vramprof (EMULATED)" if recording.emulated else head
        with suppress(Exception):
            lines = [*_findings(gather_facts(recording))]
    return "\n  ".join([f"{head}: {lines[0] if lines else 'ran out of memory'}", *lines[1:], last])


def _findings(facts: Facts) -> Iterator[str]:
    device, case = _failed(facts)
    hedge = "" if case.causes[0].certain else " (likely)"
    yield f"{case.causes[0].kind.value}{hedge}: {case.causes[0].sentence}"
    if device is not None:
        yield from _holder(facts, device, case)


def _failed(facts: Facts) -> tuple[DeviceFacts | None, OomCase]:
    """The device whose request failed last, unless the error is not of torch's allocator."""
    elsewhere = error_case(facts)
    if elsewhere is not None:
        return None, elsewhere
    failed = [device for device in facts.devices if device.oom is not None]
    device = max(failed, key=lambda one: one.oom.moment.time_ns if one.oom is not None else 0)
    return device, device_case(facts, device, find_all(facts))


def _holder(facts: Facts, device: DeviceFacts, case: OomCase) -> Iterator[str]:
    """Who has the memory: what leaks, else who holds segments open, else the line with the most bytes."""
    assert case.state is not None
    if case.leaks:
        yield f"leak: {case.leaks[0].title}"
        return
    if case.causes[0].kind is CauseKind.FRAGMENTATION and case.state.moment.pins:
        pin = case.state.moment.pins[0]
        yield f"held open by blocks of {place_of(users_frame(pin.frames))}, {format_bytes(pin.held_bytes)}"
        return
    alive = device.allocations.alive(case.state.moment.row)
    lines: Counter[str] = Counter()
    for one in bytes_by_stack(facts.recording, device.attribution.stack[alive], device.allocations.size_bytes[alive]):
        if one.frames:  # nothing was traced otherwise
            lines[place_of(users_frame(one.frames))] += one.bytes
    for place, size_bytes in lines.most_common(1):
        yield f"held most: {place}, {format_bytes(size_bytes)} of {format_bytes(case.state.moment.allocated_bytes)}"


def _command(path: Path) -> str:
    return f"vramprof diagnose {_shown(path)}"


def _shown(path: Path) -> str:
    """As one would type it here."""
    with suppress(ValueError, OSError):
        return shlex.quote(str(path.relative_to(Path.cwd())))
    return shlex.quote(str(path))


def _words(error: Exception) -> str:
    told = error.strerror if isinstance(error, OSError) else None
    return told or str(error).splitlines()[0] if str(error) else type(error).__name__


def _print_gist(recording: Recording | None, failure: Failure, note: str) -> None:
    """The evidence as text, for a log: all that is left where nothing can be written."""
    lines = [note]
    with suppress(Exception):
        if recording is not None:
            _, case = _failed(gather_facts(recording))
            lines.append(render_diagnosis(Diagnosis("", recording.emulated, (case,))).rstrip())
    lines += ["asked for at:", *(f"  {place_of(frame)}" for frame in failure.frames[:_MOST_FRAMES])]
    with suppress(Exception):
        print("\n".join(lines), file=sys.stderr)
