"""Turns a path, a stream of text or a recording into a diagnosis of why memory ran out."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from vramprof.errors import RecordingError
from vramprof.findings import find_all, gather_facts
from vramprof.findings.diagnosis import Diagnosis, OomCase, device_case, error_case, text_case
from vramprof.recording import Recording, open_folder
from vramprof.recording.scrub import scrub
from vramprof.recording.storage import origin_of, save_folder
from vramprof.renderers.diagnosis import as_dict, render_diagnosis
from vramprof.reruns import find_program, try_changes
from vramprof.sources.files import load_file
from vramprof.sources.kineto import looks_like_json
from vramprof.sources.oom_text import find_ooms
from vramprof.what_if import try_settings

_READ_BY_OTHERS = ("MPS", "XPU")


class Answer(Diagnosis):
    """A diagnosis that can be printed."""

    def text(self, *, width: int = 80, color: bool = False) -> str:
        """One screen for a terminal."""
        return render_diagnosis(self, width=width, color=color)

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as plain data, as --json prints it."""
        return as_dict(self)

    def __str__(self) -> str:
        return self.text()


def diagnose(
    source: Recording | str | Path | None = None,
    *,
    what_if: bool = False,
    changes: Sequence[str] | None = None,
    command: Sequence[str] = (),
    gpu: str = "",
    timeout_s: float = 300,
) -> Answer:
    """Why memory ran out: from a recording, a torch snapshot, a profiler's trace, or a log with the error's text.

    Args:
        source: a path, "-" for standard input, a Recording, or None: the newest recording or snapshot in this folder.
        what_if: replay the recording under other allocator settings (on an emulated device; needs torch, no GPU).
        changes: dry-run the program with these changes, as in ["batch=8", "gpu=l40s"]; [] takes those proposed.
        command: the program and its arguments, where the recording does not tell them.
        gpu: the card of the dry runs, where the recording does not tell it.
        timeout_s: after so many seconds a dry run is given up.

    Raises:
        RecordingError: there is no such file, or nothing in it can be read, or a change is not understood.
    """
    if changes is None:
        return _diagnose(source, what_if=what_if)[0]
    answer, recording = _diagnose(source, what_if=True)
    if not answer.cases:
        return answer
    try:
        program = find_program(recording, command=command, gpu=gpu)
    except RecordingError as error:
        if command or gpu:
            raise
        return replace(answer, cases=tuple(replace(case, not_rerun=str(error)) for case in answer.cases))
    first = try_changes(answer.cases[0], program, changes, timeout_s=timeout_s)
    return replace(answer, cases=(first, *answer.cases[1:]))


def _diagnose(source: Recording | str | Path | None, *, what_if: bool) -> tuple[Answer, Recording | None]:
    """The answer, and the recording that it was found in; None for a log."""
    if isinstance(source, Recording):
        return diagnose_recording(source, what_if=what_if), source
    if source == "-":
        return diagnose_log(sys.stdin.buffer, "standard input"), None
    path = newest_dump() if source is None else Path(source)
    if not path.exists():
        raise RecordingError(f"{path}: no such file or folder")
    recording = _load(path)
    if recording is not None:
        return diagnose_recording(recording, source=str(path), what_if=what_if), recording
    with _open(path) as stream:
        return diagnose_log(stream, str(path)), None


def _load(path: Path) -> Recording | None:
    """The recording, snapshot or trace at this path; None where it is text."""
    if path.is_dir() or _is_pickle(path):
        return load_file(path)
    if path.suffix != ".ipynb" and looks_like_json(path):
        try:
            return load_file(path)
        except RecordingError:
            if path.suffix == ".json":
                raise
    return None


def write_scrubbed(source: str | None, out: Path) -> None:
    """The same recording without paths, names and the command line, to be attached to a public report.

    Raises:
        RecordingError: there is no recording, or `out` exists.
    """
    path = newest_dump() if source is None else Path(source)
    if out.exists():
        raise RecordingError(f"{out}: exists already: name a new folder")
    save_folder(scrub(load_file(path)), out)


def newest_dump(folder: Path | None = None) -> Path:
    """The newest dump of an out-of-memory error or snapshot pickle; where there is neither, the newest `.vram` folder.

    Raises:
        RecordingError: there is none.
    """
    folder = folder or Path()
    recordings = [path for path in folder.glob("*.vram") if open_folder(path)]
    found = [path for path in recordings if origin_of(path) == "oom"]
    found += [path for pattern in ("*.pickle", "*.pkl") for path in folder.glob(pattern)]
    found = found or recordings
    if not found:
        raise RecordingError("no .vram folder and no snapshot pickle here: name a recording, a snapshot or a log")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def diagnose_recording(recording: Recording, *, source: str = "recording", what_if: bool = False) -> Answer:
    """Devices that ran out of memory; where none did, all of them."""
    facts = gather_facts(recording)
    gaps = tuple(str(reason) for reason in recording.gaps["reason"].tolist())
    elsewhere = error_case(facts)
    if elsewhere is not None:
        return Answer(source, recording.emulated, (elsewhere,), gaps)
    findings = find_all(facts)
    cases = [(device, device_case(facts, device, findings)) for device in facts.devices]
    failed = [(device, case) for device, case in cases if case.causes] or cases
    if what_if:
        failed = [(device, try_settings(case, recording, device)) for device, case in failed]
    return Answer(source, recording.emulated, tuple(case for _, case in failed), gaps)


def diagnose_log(stream: BinaryIO, name: str) -> Answer:
    """Every error text in a log, in constant memory.

    Raises:
        RecordingError: there is none, or only of devices that are not read.
    """
    cases: list[OomCase] = []
    others = set()
    for oom in find_ooms(stream):
        if oom.backend in _READ_BY_OTHERS:
            others.add(f"line {oom.line} is of {oom.backend}")
        else:
            cases.append(text_case(oom))
    if not cases and others:
        raise RecordingError(f"{name}: {sorted(others)[0]}: out-of-memory errors of CUDA and ROCm are read")
    if not cases:
        raise RecordingError(f"{name}: no out-of-memory error of torch in it")
    return Answer(name, False, tuple(cases), tuple(sorted(others)))


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix in (".pickle", ".pkl") or file.read(1) == b"\x80"


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast("BinaryIO", gzip.open(path, "rb") if packed else path.open("rb"))
