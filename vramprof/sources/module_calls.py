"""Turns every call of a module into two calls of ours, before and after, without a hook and without a frame of ours.

Global module hooks would cost three times as much, warn in torch.compile, and make compiled code compile again: its
guards look at them. Here `torch.nn.Module.__call__` stays the very same function; its code is exchanged for the block,
under the same file, name and line, so that compiled code, tracebacks and allocation stacks are as without us.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

Begins = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""module, args, kwargs -> a token."""
Ends = Callable[[Any, Any], None]
"""token, output (None after an exception)."""

_BEGINS, _ENDS = "_vramprof_begins", "_vramprof_ends"


def _call(self, *args, **kwargs):  # type: ignore[no-untyped-def]
    if torch.compiler.is_compiling():  # type: ignore[name-defined]  # noqa: F821  # the names are those of torch's file
        return (self._compiled_call_impl or self._call_impl)(*args, **kwargs)
    token, output = _vramprof_begins(self, args, kwargs), None  # type: ignore[name-defined]  # noqa: F821
    try:
        output = (self._compiled_call_impl or self._call_impl)(*args, **kwargs)
        return output
    finally:
        _vramprof_ends(token, output)  # type: ignore[name-defined]  # noqa: F821


_CALL_LINE = 5
"""Of `_call`, counted from its first: where the module is called."""


@contextmanager
def module_calls(begins: Begins, ends: Ends) -> Iterator[Callable[[bool], None] | None]:
    """Call `begins` and `ends` around each module call of every thread, while the switch that this gives is on, as it
    is at first; None where this torch is another.

    Neither may raise. Blind to: modules inside a compiled region, and subclasses that override `__call__` alone.
    """
    from torch.nn.modules import module as file

    function = file.Module.__call__
    if not _is_known(function) or hasattr(file, _BEGINS):
        yield None
        return
    original = function.__code__
    setattr(file, _BEGINS, begins)
    setattr(file, _ENDS, ends)
    ours = _in_place_of(original)

    def switch(on: bool) -> None:
        code = ours if on else original
        if function.__code__ is not code:  # a new code costs every caller what the interpreter had learned of it
            function.__code__ = code

    switch(True)
    try:
        yield switch
    finally:
        function.__code__ = original
        delattr(file, _BEGINS)
        delattr(file, _ENDS)


def _is_known(function: Any) -> bool:
    return (
        isinstance(function, FunctionType)
        and not function.__code__.co_freevars
        and {"_compiled_call_impl", "_call_impl"} <= set(function.__code__.co_names)
        and "torch" in function.__globals__
    )


def _in_place_of(original: CodeType) -> CodeType:
    """Our code under the original's name and file, its calling line where the original's is."""
    calling = max(line for _, line in dis.findlinestarts(original) if line is not None)
    ours = _call.__code__.replace(
        co_filename=original.co_filename, co_name=original.co_name, co_firstlineno=calling - _CALL_LINE
    )
    return ours.replace(co_qualname=original.co_qualname) if sys.version_info >= (3, 11) else ours
