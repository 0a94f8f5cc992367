"""Turns lines of code that torch.compile generated into the modules, and the user's lines, that they came from.

Every node of a graph of Dynamo's knows its module and its stack. Graphs that are run ("eager", "aot_eager") are alive
when the recording is made, and say it themselves, backward too. Inductor's are gone by then: its files name, above
each kernel, Dynamo's nodes; which module they belong to is noted when Dynamo hands a graph over, once per compilation.
torch's own `augment_with_fx_traces` is not used: it needs every graph compiled with code that records each node.
"""

from __future__ import annotations

import contextlib
import gc
import re
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vramprof.recording import Frame, Recorder
from vramprof.recording.stacks import is_generated

_MOST_GRAPHS = 512
_KERNEL = re.compile(r"\s+# (?:Topologically Sorted )?Source Nodes: \[([^\]]*)\]")
"""Above each kernel's call; the same text at the margin is above its definition."""
_TRACE = re.compile(r'File "(.+)", line (\d+), in (.+)')
_ROOT = re.compile(r"(?:.*\.cell_contents|[LG]\['[^']*'\])\.?")
_ITEM = re.compile(r"(?:\._modules)?\[['\"]?([^'\"\]]+)['\"]?\]")
_DYNAMO = "torch._dynamo.output_graph"

_graphs: deque[dict[str, str]] = deque(maxlen=_MOST_GRAPHS)
"""Of each graph that Dynamo compiled while a session ran: the module of each node, relative to what was compiled."""


class GraphWatch:
    """Notes each graph that Dynamo hands to a backend. Dynamo is not loaded for it: ask again once it may be there."""

    def __init__(self) -> None:
        self._original: Any = None

    def look(self) -> None:
        """Begin to watch, if Dynamo has been loaded by now."""
        if self._original is not None or _DYNAMO not in sys.modules:
            return
        kind: Any = getattr(sys.modules[_DYNAMO], "OutputGraph", None)
        original: Any = getattr(kind, "call_user_compiler", None)
        if original is None:
            return

        def watched(graph: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
            with contextlib.suppress(Exception):  # a graph of another kind: its lines stay those of its region
                _graphs.append({node.name: _module_of(node) for node in module.graph.nodes if node.op != "placeholder"})
            return original(graph, module, *args, **kwargs)

        kind.call_user_compiler, self._original = watched, original

    def stop(self) -> None:
        """Leave Dynamo as it was."""
        if self._original is not None:
            sys.modules[_DYNAMO].OutputGraph.call_user_compiler = self._original
        self._original = None


@contextmanager
def graph_watch() -> Iterator[GraphWatch]:
    """Watch for as long as the block runs."""
    watch = GraphWatch()
    watch.look()
    try:
        yield watch
    finally:
        watch.stop()


def describe_compiled(recorder: Recorder) -> None:
    """Write the table "compiled" for every generated line in the recorder's stacks, and give stacks without one the
    user's frames: torch adds them for Inductor's code alone."""
    frames = [frame for frame in recorder.stacks.frames if is_generated(frame.filename)]
    if not frames:
        return
    recorder.forget("compiled")
    modules = _graph_modules() if any(frame.filename.startswith("<") for frame in frames) else {}
    files: dict[str, dict[int, str]] = {}
    for frame in frames:
        if frame.filename.startswith("<"):
            module, users = _of_node(_node_at(modules.get(frame.filename), frame.line))
            recorder.stacks.insert_behind(frame, users)
        else:
            if frame.filename not in files:
                files[frame.filename] = _modules_by_line(frame.filename)
            module = files[frame.filename].get(frame.line, "")
        if module:
            recorder.add("compiled", frame.filename, frame.line, module)


def _module_of(node: Any) -> str:
    """The innermost module that a node was traced in, relative to what was compiled: "layers.3.mlp", "" for itself."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack")
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    return _ITEM.sub(r".\1", _ROOT.sub("", path, count=1)).strip(".")


def _of_node(node: Any) -> tuple[str, tuple[Frame, ...]]:
    """A node's module, and the user's frames, innermost first."""
    if node is None:
        return "", ()
    found = _TRACE.findall(node.meta.get("stack_trace") or "")
    return _module_of(node), tuple(Frame(file, int(line), name) for file, line, name in reversed(found))


def _graph_modules() -> dict[str, Any]:
    """Every graph module that is alive, by the name of its code's file."""
    import torch

    found = {}
    for item in gc.get_objects():
        if torch.fx.GraphModule in type(item).__mro__:
            code = getattr(type(item).forward, "__code__", None)
            if code is not None:
                found[code.co_filename] = item
    return found


def _node_at(module: Any, line: int) -> Any:
    """The node that a line of a graph module's code computes; as torch's `_augment_frames` finds it."""
    place = (getattr(module, "_lineno_map", None) or {}).get(line - getattr(module, "_prologue_start", 0))
    return None if place is None else list(module.graph.nodes)[place]


def _modules_by_line(filename: str) -> dict[int, str]:
    """The module of every line of a file of Inductor's: a buffer is allocated just before the kernel that fills it,
    anything else by the kernel itself. A kernel none of whose nodes is Dynamo's belongs where the one before it does.
    """
    try:
        lines = Path(filename).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    kernels = [match[1].split(", ") if (match := _KERNEL.match(text)) else None for text in lines]
    graph = _graph_of({name for names in kernels for name in names or ()})
    found: dict[int, str] = {}
    module = ""
    allocating: list[int] = []
    for number, (text, names) in enumerate(zip(lines, kernels, strict=True), 1):
        if names is not None:
            module = next((graph[name] for name in reversed(names) if name in graph), module)
            found.update(dict.fromkeys(allocating, module))
            allocating = []
        elif "empty_strided" in text:
            allocating.append(number)
        found[number] = module
    return found


def _graph_of(names: set[str]) -> dict[str, str]:
    """The noted graph that has most of these nodes; the newest of several."""
    return max(reversed(_graphs), key=lambda graph: len(names & graph.keys()), default={})
