"""Turns begun and ended pieces of work into spans, and tells torch's allocator which span each thread is in.

torch stamps a thread's memory metadata on every event that the thread causes (torch 2.11 and newer), so an event names
its span exactly, without a clock. Where torch cannot do that, spans are matched with events by time.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from vramprof.recording import Recorder
from vramprof.recording.schema import CONTEXT_PREFIX, NO_CONTEXT
from vramprof.sources.packed_rows import PackedRows

_COLUMNS = ("id", "parent", "kind", "name", "begin_ns", "end_ns", "thread", "step")


class Span(NamedTuple):
    """An open span."""

    id: int
    parent: int
    kind: str
    name: str
    begin_ns: int
    metadata: str


_new = tuple.__new__  # a third of the time that the named tuple's own constructor takes


class SpanLog:
    """The open spans of each thread; ended ones become rows of the table "spans".

    A thread's metadata is the user's own outside our spans, and is given back when the outermost one ends.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.step = 0
        self._ids = itertools.count()
        self._local = threading.local()
        self._threads: dict[int, list[Span]] = {}
        self._marked: dict[int, list[Span]] = {}
        self._rows = PackedRows(recorder, "spans", _COLUMNS, texts=("kind", "name"))
        self._set, self._get = _metadata_functions()

    def open_spans(self) -> list[Span]:
        """The spans that the calling thread is in, outermost first."""
        try:
            return self._local.spans  # type: ignore[no-any-return]
        except AttributeError:
            self._local.spans = self._threads[threading.get_ident()] = []
            self._local.users = ""
            return self._local.spans  # type: ignore[no-any-return]

    def begin(self, kind: str, name: str, parent: int | None = None) -> Span:
        """The calling thread enters a span; its parent is the one that it is in, unless told."""
        spans = self.open_spans()
        if parent is None:
            parent = spans[-1].id if spans else NO_CONTEXT
        if not spans:
            self._local.users = self._get()
        number = next(self._ids)
        metadata = f"{CONTEXT_PREFIX}{number}"
        span = _new(Span, (number, parent, kind, name, time.time_ns(), metadata))
        spans.append(span)
        self._set(metadata)
        return span

    def end(self, span: Span) -> None:
        """The calling thread leaves a span, and whatever is still open inside it."""
        spans = self.open_spans()
        now = time.time_ns()
        if not (spans and spans[-1] is span):
            if not any(one is span for one in spans):
                return
            while spans[-1] is not span:
                self._append(spans.pop(), now)
        self._append(spans.pop(), now)
        self._set(spans[-1].metadata if spans else self._local.users)

    def reach(self, name: str, backward: int | None) -> None:
        """A thread of the autograd engine comes to a module; it has left the one that it was in."""
        spans = self.open_spans()
        if spans and spans[-1].kind == "module_backward":
            self._append(spans.pop(), time.time_ns())
        self._marked[threading.get_ident()] = spans
        self.begin("module_backward", name, backward)

    def end_reached(self, backward: int) -> None:
        """A backward pass is over: every thread of the engine has left the module that it reached last."""
        now = time.time_ns()
        for spans in self._marked.values():
            if spans and spans[-1].parent == backward:
                self._append(spans.pop(), now)

    def add(self, kind: str, name: str, begin_ns: int, end_ns: int) -> None:
        """A span that is known only now that it is over."""
        self._append(Span(next(self._ids), NO_CONTEXT, kind, name, begin_ns, ""), end_ns)

    def _append(self, span: Span, end_ns: int) -> None:
        number, parent, kind, name, begin_ns, _ = span
        text = self._rows.number
        self._rows.append(number, parent, text(kind), text(name), begin_ns, end_ns, threading.get_ident(), self.step)

    def still_open(self) -> list[tuple[str, str, int, int, int, int, int, int]]:
        """Rows of the table "spans" for what every thread is in now, as if it ended now."""
        now = time.time_ns()
        return [
            (span.kind, span.name, span.begin_ns, now, thread, self.step, span.id, span.parent)
            for thread, spans in list(self._threads.items())
            for span in spans
        ]


def _metadata_functions() -> tuple[Callable[[str], None], Callable[[], str]]:
    """torch's setter and getter of the calling thread's memory metadata; what does nothing where torch has none."""
    import torch

    setter = getattr(torch._C, "_cuda_setMemoryMetadata", None)
    getter = getattr(torch._C, "_cuda_getMemoryMetadata", None)
    if setter is None or getter is None:
        return (lambda metadata: None), (lambda: "")
    return setter, getter
