"""Keeps the last moments of any program at hand, and of the processes that it starts, in case memory runs out.

Until CUDA is initialised nothing happens. Then torch's own history runs as a ring, and a thread reads the counters once
a second. The children of `multiprocessing` inherit it through the dictionary that it hands down from process to process
(`BaseProcess._config`): no variable in the environment, no file, no class changed.
"""

from __future__ import annotations

import atexit
import importlib.abc
import importlib.util
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.machinery import ModuleSpec
from multiprocessing import process
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vramprof import emulator
from vramprof.errors import SessionError
from vramprof.process import about_process, recording_name, with_rank

if TYPE_CHECKING:  # pandas and pyarrow are loaded with CUDA, and not in a process that never uses it
    from vramprof.recording import Recording
    from vramprof.sources.oom_signals import Failure

MAX_ENTRIES = 100_000
_MOST_SAMPLES, _MOST_GAPS = 4096, 64
_INTERVAL_S = 1.0
_KEY = "vramprof"
_installed: Installed | None = None


def install(*, folder: str | Path = ".", max_entries: int = MAX_ENTRIES) -> None:
    """Have the evidence at hand if this program runs out of memory: one line at the top of a script, nothing else.

    `import vramprof; vramprof.install()`

    Once CUDA is initialised, torch's history of allocations runs as a ring with Python stacks, and its counters and
    NVML's are read once a second. When memory runs out, a recording of that moment is written to `folder` before the
    error reaches the program, and a note under the error names it, the cause and who holds the memory. The error is
    the same in all else, whether it is caught or not. Children of `multiprocessing` are covered too, and so is each
    rank that runs the script. Of a process the first three dumps are kept, and the latest of the others.

    It can be called before `import torch`, without a GPU, and more than once: then nothing more happens. While a
    `profile()` runs, that one writes the dumps. A history that the program records itself is used as it is.

    Args:
        folder: where dumps go: SCRIPT-DATE-TIME-PID-oom1.vram.
        max_entries: how many allocator events torch keeps in its ring; a dump takes about a second per 100,000.

    Raises:
        SessionError: `max_entries` is not positive.
    """
    if max_entries < 1:
        raise SessionError(f"max_entries={max_entries}: a ring holds at least one event")
    _begin_here(Path(folder), "", max_entries)


def _begin_here(folder: Path, base: str, max_entries: int) -> None:
    """Begin, unless it has begun: dumps are FOLDER/BASE-PID-..., or named after the script where `base` is ""."""
    global _installed
    if _installed is None:
        _installed = Installed(folder.absolute(), base, max_entries)
        _once_imported("torch", _installed.torch_is_here)
        _config()[_KEY] = _Inherited(folder.absolute(), base, max_entries)


@contextmanager
def children_too(folder: Path, base: str, *, max_entries: int = MAX_ENTRIES) -> Iterator[None]:
    """What `multiprocessing` starts while the block runs does the same; a forked child does by itself."""
    before = _config().get(_KEY)
    _config()[_KEY] = _Inherited(folder.absolute(), base, max_entries)
    try:
        yield
    finally:
        _config().pop(_KEY, None)
        if before is not None:
            _config()[_KEY] = before


def _config() -> dict[str, Any]:
    """What children are given by `multiprocessing`, whatever their start method."""
    return process.current_process()._config  # type: ignore[attr-defined,no-any-return]


class _Inherited:
    """Unpickled in a child, this installs there."""

    def __init__(self, folder: Path, base: str, max_entries: int) -> None:
        self._arguments = (folder, base, max_entries)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _inherit, self._arguments


def _inherit(folder: Path, base: str, max_entries: int) -> _Inherited:
    with suppress(Exception):  # the child's own work comes first
        _begin_here(folder, base, max_entries)
    return _Inherited(folder, base, max_entries)


class Installed:
    """What runs in a process from `install()` until its end."""

    def __init__(self, folder: Path, base: str, max_entries: int) -> None:
        self._folder = folder
        self._base = base
        self._max_entries = max_entries
        self._samples: deque[tuple[Any, ...]] = deque(maxlen=_MOST_SAMPLES)
        self._gaps: deque[tuple[Any, ...]] = deque(maxlen=_MOST_GAPS)

    def torch_is_here(self) -> None:
        """Wait for CUDA."""
        import torch

        torch.cuda._lazy_call(self._cuda_is_here)

    def _cuda_is_here(self) -> None:
        try:
            self._begin()
        except Exception as error:
            print(f"vramprof: install() could not begin: {error!r}", file=sys.stderr)

    def _begin(self) -> None:
        from vramprof.oom_watch import OomWatch, watching
        from vramprof.recording import Recorder
        from vramprof.sources.allocator_history import AllocatorHistory
        from vramprof.sources.oom_evidence import take_evidence
        from vramprof.sources.oom_signals import kept_from_the_program
        from vramprof.sources.present_names import name_what_is_alive
        from vramprof.sources.sampler import memory_samples

        def take(failure: Failure) -> Recording:
            sample_now()
            recorder = Recorder(origin="oom", emulated=emulator.active() is not None)
            recorder.metadata.update(about_process())
            for table, rows in (("samples", self._samples), ("gaps", self._gaps)):
                for row in list(rows):
                    recorder.add(table, *row)
            with kept_from_the_program():
                name_what_is_alive(recorder)
            return take_evidence(recorder, failure, history=history)

        stack = ExitStack()
        history = AllocatorHistory(Recorder(origin="oom", emulated=False), max_entries=self._max_entries)
        history.open(beneath=True)
        sample_now = stack.enter_context(memory_samples(self, interval_s=_INTERVAL_S))
        stack.enter_context(watching(OomWatch(self._folder, self._name, take), beneath=True))
        atexit.register(stack.close)

    def _name(self) -> str:
        return with_rank(f"{self._base}-{os.getpid()}") if self._base else recording_name()

    def add(self, table: str, *row: Any) -> None:
        """A sample, of which the newest are kept."""
        self._samples.append(row)

    def gap(self, source: str, reason: str, *, begin_ns: int = 0, end_ns: int = 0, lost_count: int = 0) -> None:
        """What the sampler failed in."""
        self._gaps.append((source, begin_ns, end_ns, lost_count, reason))


def _once_imported(name: str, call: Callable[[], None]) -> None:
    """Call once the module is imported; now, if it is."""
    if name in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _Finder(name, call))


class _Finder(importlib.abc.MetaPathFinder):
    """Leaves finding to the others, and learns when the module has been run."""

    def __init__(self, name: str, call: Callable[[], None]) -> None:
        self._name, self._call = name, call
        self._asks_others = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name or self._asks_others:
            return None
        self._asks_others = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asks_others = False
        if spec is not None and spec.loader is not None:
            self._run_after(spec.loader)
        return spec

    def _run_after(self, loader: importlib.abc.Loader) -> None:
        original = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            original(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                with suppress(Exception):
                    self._call()

        with suppress(AttributeError):  # a loader that cannot be told anything: the module loads as ever
            loader.exec_module = exec_module  # type: ignore[method-assign]
