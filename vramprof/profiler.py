"""One profiling session: starts the sources, stops them in reverse, and hands back a Report."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

from vramprof import emulator
from vramprof.errors import SessionError
from vramprof.installed import children_too
from vramprof.leak_watch import WAYS, LeakWatch
from vramprof.oom_watch import OomWatch, watching
from vramprof.process import about_process, recording_name
from vramprof.recording import Recorder, Recording
from vramprof.recording.storage import load_folder, save_folder
from vramprof.report import Report
from vramprof.sources.allocator_history import MAX_ENTRIES, AllocatorHistory
from vramprof.sources.device_limits import device_limits
from vramprof.sources.devices import allocated_bytes, record_devices, require_device
from vramprof.sources.guessed_reads import guessed_reads
from vramprof.sources.oom_evidence import take_evidence
from vramprof.sources.oom_signals import Failure, kept_from_the_program
from vramprof.sources.program import Program, Watcher, program_spans
from vramprof.sources.progress import progress_feed
from vramprof.sources.sampler import INTERVAL_S, memory_samples
from vramprof.sources.step_limit import StepLimit
from vramprof.sources.windows import Steps, Windows

_P = ParamSpec("_P")
_T = TypeVar("_T")
_active: list[Profiler] = []

MODES = ("trace", "monitor")
_MONITOR_INTERVAL_S = 60.0


class Profiler:
    """`with vramprof.profile() as prof: train()`, then `prof.report()`. Also a decorator.

    Args:
        out: a `.vram` folder to stream to while the program runs; without one, everything stays in memory.
        mode: "trace" records every allocation with its stack; "monitor" reads counters at the ends of phases, for as
            long as the program runs in constant memory, and traces a few steps by itself when it sees a higher peak,
            growth or a device nearly full.
        steps: trace the steps [first, last) alone and monitor the others; (3, 6) or "3:6".
        leaks: once growth is certain, "warn" says so in one line on stderr, "raise" raises LeakError in the program;
            "off" does not look.
        max_entries: how many allocator events torch keeps; older ones are overwritten, and a gap says so.
        oom_dumps: when memory runs out, write what is known beside `out` at once, and name it on the exception.
        stop_after: end the program, as sys.exit() would, after so many steps.
        predicted: a `.vram` folder with what was predicted, beside `out`: the report says where the run differs.

    Raises:
        SessionError: there is no such mode, no such way with leaks, or `steps` is no range.
    """

    def __init__(
        self,
        *,
        out: str | Path | None = None,
        mode: str = "trace",
        steps: tuple[int, int] | str | None = None,
        leaks: str = "warn",
        max_entries: int = MAX_ENTRIES,
        oom_dumps: bool = True,
        stop_after: int | None = None,
        predicted: str | Path | None = None,
    ) -> None:
        if mode not in MODES:
            raise SessionError(f"no mode {mode!r}: choose from {', '.join(MODES)}")
        if leaks not in WAYS:
            raise SessionError(f"leaks={leaks!r}: choose from {', '.join(WAYS)}")
        self._mode = mode
        self._leaks = leaks
        self._watch: LeakWatch | None = None
        self._steps = None if steps is None else _read_steps(steps)
        self._out = None if out is None else Path(out)
        self._max_entries = max_entries
        self._oom_dumps = oom_dumps
        self._stop_after = stop_after
        self._predicted = None if predicted is None else Path(predicted)
        self._oom_watch: OomWatch | None = None
        self._stack = ExitStack()
        self._recorder: Recorder | None = None
        self._recording: Recording | None = None
        self._program: Program | None = None

    def __enter__(self) -> Profiler:
        """Start recording.

        Raises:
            SessionError: a session is running already, or this one has run.
            NoDeviceError: there is no CUDA device.
        """
        if _active:
            raise SessionError("vramprof.profile() is already running: one session at a time")
        if self._recorder is not None:
            raise SessionError("this vramprof.profile() has already run: make a new one")
        require_device()
        recorder = self._recorder = Recorder(
            origin="live" if emulator.active() is None else "predicted",
            emulated=emulator.active() is not None,
            folder=self._out,
        )
        recorder.metadata.update(about_process())
        if self._predicted is not None:
            recorder.metadata["predicted"] = self._predicted.name
        with ExitStack() as stack:
            stack.enter_context(_only(self))
            stack.callback(record_devices, recorder, allocated_bytes())
            always = self._mode == "trace" and self._steps is None
            history = AllocatorHistory(recorder, max_entries=self._max_entries)
            windows = Windows(recorder, history, steps=self._steps, always=always)
            stack.callback(windows.finish)
            progress = stack.enter_context(progress_feed(recorder, self._out))
            interval_s = INTERVAL_S if always else _MONITOR_INTERVAL_S
            sample_now = stack.enter_context(memory_samples(recorder, interval_s=interval_s, progress=progress))
            stack.enter_context(guessed_reads(recorder))
            stack.enter_context(device_limits(recorder))
            self._watch = LeakWatch(recorder, windows, way=self._leaks)
            watcher: Watcher = self._watch if progress is None else progress.follow(self._watch)
            if self._stop_after is not None:
                watcher = StepLimit(watcher, self._stop_after)
            self._program = stack.enter_context(program_spans(recorder, watcher))
            if progress is not None:
                progress.begin(self._program)
            windows.begin(self._program)
            if self._oom_dumps:
                self._watch_for_oom(stack, recorder, history, self._program, sample_now)
            recorder.flush()
            self._stack = stack.pop_all()
        return self

    def _watch_for_oom(
        self,
        stack: ExitStack,
        recorder: Recorder,
        history: AllocatorHistory,
        program: Program,
        sample_now: Callable[[], None],
    ) -> None:
        def take(failure: Failure) -> Recording:
            sample_now()
            return take_evidence(recorder, failure, history=history, open_spans=program.so_far())

        folder = Path() if self._out is None else self._out.parent
        base = "" if self._out is None else self._out.stem
        stack.enter_context(children_too(folder, base))
        self._oom_watch = stack.enter_context(watching(OomWatch(folder, lambda: base or recording_name(), take)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._recorder is not None
        if kind is not None and kind.__name__ == "OutOfMemoryError":
            self._recorder.origin = "oom"
        if error is not None and self._oom_watch is not None:
            with kept_from_the_program():
                self._oom_watch.passes(error)
        try:
            self._stack.close()
            self._recorder.metadata["end_ns"] = time.time_ns()
            self._recording = self._recorder.freeze()
            if self._watch is not None:
                self._recording = self._watch.complete(self._recording)
            self._recorder.close()
            if self._out is not None:
                save_folder(self._recording, self._out)
        except Exception as failure:  # our failure must not hide the user's error, nor stop the program
            warnings.warn(f"vramprof could not finish its recording: {failure!r}", RuntimeWarning, stacklevel=2)

    def __call__(self, function: Callable[_P, _T]) -> Callable[_P, _T]:
        """Profile each call of a function; `wrapper.profiler` is the newest call's session."""

        @functools.wraps(function)
        def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            with self._again() as session:
                wrapper.profiler = session  # type: ignore[attr-defined]
                return function(*args, **kwargs)

        return wrapper

    def _again(self) -> Profiler:
        steps = None if self._steps is None else (self._steps.first, self._steps.last)
        return Profiler(
            out=self._out, mode=self._mode, steps=steps, leaks=self._leaks, max_entries=self._max_entries,
            oom_dumps=self._oom_dumps, stop_after=self._stop_after, predicted=self._predicted,
        )  # fmt: skip

    def step(self) -> None:
        """Say that a step of the loop ends here; without it, steps are found by the optimizer."""
        if self._program is None or self._recording is not None:
            raise SessionError("step() belongs inside `with vramprof.profile()`")
        self._program.users_step()

    @property
    def finished(self) -> bool:
        """Whether the session has ended and its recording is whole."""
        return self._recording is not None

    @property
    def recording(self) -> Recording:
        """What was recorded, once the session has ended.

        Raises:
            SessionError: it has not.
        """
        if self._recording is None:
            raise SessionError("the session has not ended: leave the `with` block first")
        return self._recording

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()

    def report(self) -> Report:
        """The report, once the session has ended."""
        return Report(self.recording, predicted=None if self._predicted is None else load_folder(self._predicted))


def _read_steps(steps: tuple[int, int] | str) -> Steps:
    try:
        first, last = (int(part) for part in (steps.split(":") if isinstance(steps, str) else steps))
    except (ValueError, TypeError):
        raise SessionError(f"steps {steps!r} is no range: use A:B, as in 3:6") from None
    if not 0 <= first < last:
        raise SessionError(f"steps {first}:{last} is empty: use A:B with 0 <= A < B")
    return Steps(first, last)


class _only:
    """Holds the place of the one running session."""

    def __init__(self, profiler: Profiler) -> None:
        self._profiler = profiler

    def __enter__(self) -> None:
        _active.append(self._profiler)

    def __exit__(self, *error: object) -> None:
        _active.remove(self._profiler)
