"""Watches runs in progress from outside: what to watch, what is new since the last look, and what it all says.

Nothing here touches the observed process: files are read, and NVML is asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from vramprof import emulator
from vramprof.analyses.progress import Subject, Track
from vramprof.errors import RecordingError, VramprofError
from vramprof.recording.feed import Head
from vramprof.renderers.live.figures import line_of
from vramprof.sources.gpu_processes import GpuProcesses
from vramprof.sources.running import Run, State, find_runs, folder_of, ranks_of

_PROCESSES_S = 1.0
_STATE_S = 1.0


class WatchedRun:
    """A recording as it is written."""

    def __init__(self, folder: Path) -> None:
        self._run = Run(folder)
        metadata = self._run.metadata
        rank = metadata.get("rank")
        self.subject = Subject(
            label=folder.stem if rank is None else f"rank {rank}",
            about=" ".join(map(str, metadata.get("command", []))) or folder.name,
            emulated=bool(metadata.get("emulated")),
            begin_ns=int(metadata.get("begin_ns", 0)),
            hint=f"vramprof report {folder}",
        )
        self._state: State | None = None
        self._look_s = 0.0

    def poll(self) -> bool:
        """Whether there is anything new."""
        rows = self._run.read()
        if rows:
            self.subject.take(rows, self._run.devices)
        return self._ask_state() or bool(rows)

    def _ask_state(self) -> bool:
        now = time.monotonic()
        if now < self._look_s or self.subject.ended:
            return False
        self._look_s = now + _STATE_S
        state, before = self._run.state(), self.subject.state
        if state is State.ENDED:
            self._end()
        elif state is State.GONE:
            self.subject.ended, self.subject.state = True, "the process is gone and did not finish its recording"
        else:
            silent = f"nothing new for {self._run.silent_s():.0f} s" if state is State.SILENT else ""
            self.subject.state = silent
        return self.subject.state != before

    def _end(self) -> None:
        """The last peaks are torch's own; until the recording is whole, they are waited for."""
        peaks = self._run.final_peaks()
        how = "ran out of memory" if self._run.metadata.get("origin") == "oom" else "has ended"
        self.subject.state = f"the run {how}"
        for track in self.subject.tracks:
            allocated_bytes, reserved_bytes = peaks.get(track.device, (0, 0))
            track.peak_bytes = max(track.peak_bytes, allocated_bytes)
            track.peak_reserved_bytes = max(track.peak_reserved_bytes, reserved_bytes)
        self.subject.ended = bool(peaks)

    def close(self) -> None:
        """Let go of its files."""
        self._run.close()


class WatchedProcesses:
    """Processes that write no recording: by NVML alone."""

    def __init__(self, pid: int | None) -> None:
        self._processes = GpuProcesses(pid)
        self._emulated = emulator.active() is not None
        self._next_s = 0.0
        self.subjects: dict[int, Subject] = {}

    def poll(self) -> bool:
        """Ask NVML, once a second."""
        now = time.monotonic()
        if now < self._next_s:
            return False
        self._next_s = now + _PROCESSES_S
        usages = self._processes.read()
        for usage in usages:
            if usage.pid not in self.subjects:
                about = usage.name or "a process that may not be looked into"
                self.subjects[usage.pid] = Subject(
                    f"process {usage.pid}", about, self._emulated, begin_ns=usage.row.time_ns
                )
            self.subjects[usage.pid].take([usage.row], self._processes.devices)
        there = {usage.pid for usage in usages}
        for pid, subject in self.subjects.items():
            subject.ended = pid not in there
            subject.state = "no longer on a device" if subject.ended else ""
        return True

    @property
    def devices(self) -> list[Head]:
        """Every device that NVML shows."""
        return self._processes.devices

    def close(self) -> None:
        """Let NVML go."""
        self._processes.close()


class Watch:
    """Everything that is watched; `poll` says whether anything has changed."""

    def __init__(self, runs: Sequence[WatchedRun], processes: WatchedProcesses | None = None) -> None:
        self._runs = runs
        self._processes = processes

    @property
    def subjects(self) -> list[Subject]:
        """In the order in which they are shown."""
        others = self._processes.subjects.values() if self._processes else ()
        return [*(run.subject for run in self._runs), *others]

    @property
    def lines(self) -> list[tuple[Subject, Track]]:
        """Each device of each run or process."""
        return [(subject, track) for subject in self.subjects for track in subject.tracks]

    @property
    def emulated(self) -> bool:
        """Whether anything that is shown never saw a GPU."""
        return any(subject.emulated for subject in self.subjects)

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        return bool(self._runs) and all(run.subject.ended for run in self._runs)

    def poll(self) -> bool:
        """Look again."""
        changed = [run.poll() for run in self._runs]
        if self._processes is not None:
            changed.append(self._processes.poll())
        return any(changed)

    def close(self) -> None:
        """Let go of everything."""
        for run in self._runs:
            run.close()
        if self._processes is not None:
            self._processes.close()


def watch(what: Sequence[str] = ()) -> Watch:
    """Recordings being written, by path, by the name of a job with ranks, or by process id; or nothing: what is here.

    Raises:
        RecordingError: a path is no recording.
        NoDeviceError: NVML is needed and cannot be read.
    """
    if not what:
        found = find_runs(Path())
        return Watch([WatchedRun(path) for path in found], None if found else WatchedProcesses(None))
    if len(what) == 1 and what[0].isdigit() and not Path(what[0]).exists():
        return _watch_process(int(what[0]))
    return Watch([WatchedRun(path) for text in what for path in _recordings(Path(text))])


def _watch_process(pid: int) -> Watch:
    if not Path(f"/proc/{pid}").exists():
        raise VramprofError(f"no process {pid} here")
    for folder in (Path(), *folder_of(pid)):
        found = find_runs(folder, pid=pid)
        if found:
            return Watch([WatchedRun(path) for path in found])
    return Watch([], WatchedProcesses(pid))


def _recordings(path: Path) -> list[Path]:
    if path.exists():
        return [path]
    found = ranks_of(path) or ranks_of(path.with_suffix(".vram"))
    if not found:
        raise RecordingError(f"{path}: no such recording")
    return found


def follow_plainly(watched: Watch, out: TextIO, *, interval_s: float = 1.0) -> None:
    """A line a second for each device, until everything has ended or the user interrupts."""
    with suppress(KeyboardInterrupt):
        while True:
            watched.poll()
            now = time.strftime("%H:%M:%S")
            for subject, track in watched.lines:
                print(f"{now} {line_of(subject, track)}", file=out, flush=True)
            if watched.ended:
                for subject in watched.subjects:
                    print(f"see `{subject.hint}`", file=out, flush=True)
                return
            time.sleep(interval_s)
