"""Turns a running training or inference program into spans and names, found by themselves.

Spans: forward (a call of an outermost module), recompute (one inside backward, as checkpointing makes), backward,
optimizer, step, and one per module call; in backward, a module's span begins when the gradient of its output arrives,
and ends when the gradient of its input does. Names: parameters, buffers, gradients, optimizer states, inputs, caches of
keys and values, and what autograd saved.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from vramprof.errors import LeakError
from vramprof.recording import Recorder
from vramprof.sources.compiled import GraphWatch, graph_watch
from vramprof.sources.module_calls import module_calls
from vramprof.sources.names import NameLog, is_cache, storages
from vramprof.sources.saved_tensors import saved_storages
from vramprof.sources.spans import Span, SpanLog
from vramprof.sources.steps import Steps

if TYPE_CHECKING:
    import torch

_MARK = "vramprof"
_NO_TASK = -1
"""What torch says of a thread that is not inside a backward pass."""
_COMPILED = "_orig_mod"
"""What torch.compile's wrapper calls the module inside it."""
_CACHE_WORDS = ("past_key_values", "past_key_value", "past", "kv_cache", "cache")


class Watcher(Protocol):
    """Who wants to know when a phase or a step ends."""

    def phase_ends(self, phase: str) -> None:
        """A forward, backward or optimizer step is over."""

    def step_ends(self, index: int) -> None:
        """A step is over."""


@contextmanager
def program_spans(recorder: Recorder, watcher: Watcher | None = None, *, tracing: bool = True) -> Iterator[Program]:
    """Watch every module, backward pass and optimizer of this process while the block runs."""
    from torch.optim import optimizer as optimizer_hooks

    program = Program(recorder, watcher, tracing=tracing)
    with ExitStack() as stack:
        program.graphs = stack.enter_context(graph_watch())
        program.switch = stack.enter_context(module_calls(program.call_begins, program.call_ends))
        if program.switch is None:
            recorder.gap("spans", "this torch's Module.__call__ is unknown: forward and modules are not marked")
        for handle in (
            optimizer_hooks.register_optimizer_step_pre_hook(program.optimizer_begins),
            optimizer_hooks.register_optimizer_step_post_hook(program.optimizer_ends),
        ):
            stack.callback(handle.remove)
        stack.enter_context(_backward_watched(program))
        try:
            yield program
        finally:
            program.finish()


@contextmanager
def _backward_watched(program: Program) -> Iterator[None]:
    """Wrap the one function through which torch's backward() and grad() enter the autograd engine."""
    import torch

    original = getattr(torch.autograd, "_engine_run_backward", None)
    if original is None:
        program.recorder.gap("spans", "this torch has no torch.autograd._engine_run_backward: backward is not marked")
        yield
        return

    def watched(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        token = program.backward_begins(outputs)
        try:
            return original(outputs, *args, **kwargs)
        finally:
            program.backward_ends(token, outputs)

    torch.autograd._engine_run_backward = watched
    try:
        yield
    finally:
        torch.autograd._engine_run_backward = original


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """No failure of ours reaches the user's program: the first one is told as a gap, and the hooks fall silent."""

    def call(self: Program, *args: Any, **kwargs: Any) -> Any:
        if self.closed:
            return None
        try:
            return function(self, *args, **kwargs)
        except LeakError:
            raise  # asked for: leaks="raise"
        except Exception as error:
            return self._close(error)

    return call


class Program:
    """What is known of the running program: open calls per thread, module paths, parameters, the current step.

    While `tracing` is off, only phases and steps are found, and nothing is written but the spans of steps.
    """

    def __init__(self, recorder: Recorder, watcher: Watcher | None = None, *, tracing: bool = True) -> None:
        import torch

        self.recorder = recorder
        self.closed = False
        self.tracing = tracing
        self.switch: Callable[[bool], None] | None = None
        self.graphs: GraphWatch | None = None
        self.spans = SpanLog(recorder)
        self.names = NameLog(recorder)
        self.steps = Steps(self._step_ends)
        self._watcher = watcher
        self._tensor = torch.Tensor
        self._graph_task: Callable[[], int] = getattr(torch._C, "_current_graph_task_id", lambda: 0)
        self._graph_module = torch.fx.GraphModule
        self._self = weakref.ref(self)
        self._local = threading.local()
        self._paths = _Paths()
        self._prefixes: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()
        self._parameters: dict[int, tuple[str, weakref.ref[torch.nn.Parameter]]] = {}
        self._state_counts: dict[int, int] = {}
        self._backward: list[_Backward] = []
        self.detailed = True
        self._optimizer: list[Span] = []
        self.roots: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self.optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._traced_steps = 0

    def _close(self, error: Exception) -> None:
        self.closed = True
        self.recorder.gap("spans", f"stopped marking: {type(error).__name__}: {error}", begin_ns=time.time_ns())

    # -- forward -------------------------------------------------------------------------------------------------

    def call_begins(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Span | int | None:
        """A module is called; the token is for `call_ends`."""
        if self.closed:
            return None
        try:
            if not self.tracing:
                depth = self._untraced_begins(module)
                if not self.tracing:  # it still is off: no step has ended with this call
                    return depth
                self._local.depth = 0
            return self._traced_begins(module, args, kwargs)
        except LeakError:
            raise  # asked for: leaks="raise"
        except Exception as error:
            self._close(error)
            return None

    def _untraced_begins(self, module: torch.nn.Module) -> int:
        local = self._local
        try:
            depth: int = local.depth
        except AttributeError:
            depth = 0
        local.depth = depth + 1
        if not depth and not self._is_in_backward() and _has_parameters(module):
            self._step_into(module)
        return depth

    def _traced_begins(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Span:
        spans = self.spans.open_spans()
        path = self._paths.get(module)
        if not spans or spans[-1].kind not in ("module", "forward", "recompute"):
            path = self._outermost_begins(module, path, args, kwargs)
        elif path is None:  # a graph that torch.compile made of the module around it has no name of its own
            path = spans[-1].name if isinstance(module, self._graph_module) else type(module).__name__
        elif self.detailed and args and type(args[0]) is self._tensor:
            node = args[0].grad_fn
            if node is not None and _MARK not in node.metadata:
                self._mark(node, spans[-1].name)
        return self.spans.begin("module", path)

    def _outermost_begins(self, module: torch.nn.Module, path: str | None, args: Any, kwargs: Any) -> str:
        if self._is_in_backward():
            path = path or type(module).__name__
            self.spans.begin("recompute", path, self._span_of_backward())
            return path
        if _has_parameters(module):
            self._step_into(module)
        path = self._learn(module) if path is None else path
        self._name_inputs(args, kwargs)
        self.spans.begin("forward", path)
        return path

    def _step_into(self, root: torch.nn.Module) -> None:
        self.roots.add(root)
        self.steps.forward_begins(root)

    def _learn(self, root: torch.nn.Module) -> str:
        """Paths and names of a root module that is called for the first time."""
        if self.graphs is not None:
            self.graphs.look()
        kind = type(getattr(root, _COMPILED, root)).__name__
        prefix = f"{kind}." if self._prefixes else ""
        for name, module in root.named_modules():
            path = _without_wrapper(name)
            self._paths[module] = prefix + path if path else kind
        self._prefixes[root] = prefix
        self._name_weights(root, prefix)
        return kind

    def _name_weights(self, root: torch.nn.Module, prefix: str) -> None:
        for path, parameter in root.named_parameters():
            name = _without_wrapper(path)
            if not self._name_of(parameter):
                self._parameters[id(parameter)] = (prefix + name, weakref.ref(parameter))
            self.names.give("weights", storages(parameter, prefix + name))
        for path, buffer in root.named_buffers():
            self.names.give("buffers", storages(buffer, prefix + _without_wrapper(path)))

    def _name_of(self, parameter: torch.nn.Parameter) -> str | None:
        """The path of a parameter; "" where no module is known to hold it, None where it is new."""
        known = self._parameters.get(id(parameter))
        return known[0] if known is not None and known[1]() is parameter else None

    def call_ends(self, token: Span | int | None, output: Any) -> None:
        """A module's call is over; `output` is None after an exception."""
        if token is None or self.closed:
            return
        try:
            if isinstance(token, Span):
                self._traced_ends(token, output)
            else:
                self._untraced_ends(token)
        except Exception as error:
            self._close(error)

    def _untraced_ends(self, depth: int) -> None:
        self._local.depth = depth
        if not depth and not self._is_in_backward():
            self._forward_is_over()

    def _traced_ends(self, span: Span, output: Any) -> None:
        if self.detailed and output is not None:
            first = output if type(output) is self._tensor else _first_tensor(output)
            node = None if first is None else first.grad_fn
            if node is not None and _MARK not in node.metadata:
                self._mark(node, span.name)
        self.spans.end(span)
        spans = self.spans.open_spans()
        if spans and spans[-1].kind in ("forward", "recompute"):
            outermost = spans[-1]
            self.spans.end(outermost)
            if outermost.kind == "forward":
                self._name_caches(output, "output")
                self._forward_is_over()

    def _forward_is_over(self) -> None:
        self.steps.forward_ends()
        if self._watcher is not None:
            self._watcher.phase_ends("forward")

    def _name_inputs(self, args: Any, kwargs: Any) -> None:
        for index, value in enumerate(args):
            self._name_caches(value, f"args[{index}]")
            self.names.give("inputs", storages(value, f"args[{index}]", 2))
        for key, value in kwargs.items():
            if key in _CACHE_WORDS:
                self.names.give("kv_cache", storages(value, key))
            else:
                self.names.give("inputs", storages(value, key, 2))

    def _name_caches(self, value: Any, name: str) -> None:
        if is_cache(value):
            self.names.give("kv_cache", storages(value, name))
        elif hasattr(value, "keys"):  # an output of transformers
            for key in _CACHE_WORDS:
                if key in value:
                    self.names.give("kv_cache", storages(value[key], f"{name}.{key}"))

    # -- backward ------------------------------------------------------------------------------------------------

    def _mark(self, node: Any, path: str) -> None:
        """When a gradient arrives at this node, backward has come to this module; the graph is left as it is.

        A module whose output is its child's: the child, seen first, keeps it.
        """
        node.metadata[_MARK] = path
        node.register_prehook(partial(_arrives, self._self, path))

    @_guarded
    def backward_begins(self, outputs: Any) -> _Backward:
        """The autograd engine starts."""
        self.steps.trains = True
        if self.graphs is not None:
            self.graphs.look()
        backward = _Backward(self.spans.begin("backward", "backward") if self.tracing else None)
        self._backward.append(backward)
        if backward.span is not None:
            if self.detailed:
                nodes = [node for node in (getattr(output, "grad_fn", None) for output in outputs) if node is not None]
                for node in nodes:
                    backward.handles.append(node.register_prehook(partial(_starts, self._self, backward.span.id)))
                self.names.give("activations", saved_storages(nodes))
            self.names.give("moment", _addresses(outputs, "backward begins"))
        return backward

    def _is_in_backward(self) -> bool:
        """Whether the calling thread works for the autograd engine: other threads may call modules meanwhile."""
        return bool(self._backward) and self._graph_task() != _NO_TASK

    def _span_of_backward(self) -> int | None:
        spans = [backward.span for backward in self._backward if backward.span is not None]
        return spans[-1].id if spans else None

    @_guarded
    def backward_starts(self, parent: int) -> None:
        """A thread of the engine has begun: it is in no module yet, whatever it was in before."""
        spans = self.spans.open_spans()
        if not spans or (spans[-1].parent != parent and spans[-1].id != parent):
            self.spans.reach("", parent)

    @_guarded
    def backward_reaches(self, path: str) -> None:
        """The gradient of this module's output, or of what was made in it, has arrived."""
        if self.tracing and self._backward:
            self.spans.reach(path, self._span_of_backward())

    @_guarded
    def backward_ends(self, backward: _Backward | None, outputs: Any) -> None:
        """The autograd engine is done."""
        if backward is None or backward not in self._backward:
            return
        self._backward.remove(backward)
        for handle in backward.handles:
            handle.remove()
        if backward.span is not None:
            self.spans.end_reached(backward.span.id)
            self.spans.end(backward.span)
            self.names.give("moment", _addresses(outputs, "backward ends"))
        if not self._backward:
            self.steps.backward_ends()
            if self.tracing and self.detailed:
                self._name_gradients()
            if self._watcher is not None:
                self._watcher.phase_ends("backward")

    def _name_gradients(self) -> None:
        found = []
        for name, reference in self._parameters.values():
            gradient = getattr(reference(), "grad", None)
            if gradient is not None:
                if type(gradient) is self._tensor and gradient.is_cuda:
                    found.append((name, gradient.get_device(), gradient.data_ptr(), gradient.nbytes))
                else:
                    found.extend(storages(gradient, name))
        self.names.give("gradients", found)

    # -- optimizer and steps -------------------------------------------------------------------------------------

    @_guarded
    def optimizer_begins(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Global pre-hook of Optimizer.step."""
        self.steps.trains = True
        if not self.tracing:
            return
        self._optimizer.append(self.spans.begin("optimizer", type(optimizer).__name__))
        if id(optimizer) not in self._state_counts:
            self._state_counts[id(optimizer)] = -1
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if self._name_of(parameter) is None:  # of no module that was called yet
                        self._parameters[id(parameter)] = ("", weakref.ref(parameter))
                        self.names.give("weights", storages(parameter, ""))
                        self.names.give("gradients", storages(parameter.grad, ""))

    @_guarded
    def optimizer_ends(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Global post-hook of Optimizer.step."""
        self.optimizers.add(optimizer)
        if self._optimizer:
            self.spans.end(self._optimizer.pop())
        if self.tracing and (self.detailed or self._state_counts.get(id(optimizer)) != len(optimizer.state)):
            self._state_counts[id(optimizer)] = len(optimizer.state)
            self.names.give("optimizer", self._states(optimizer))
        self.steps.optimizer_ends(optimizer)
        if self._watcher is not None:
            self._watcher.phase_ends("optimizer")

    def _states(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, int, int, int]]:
        for parameter, state in optimizer.state.items():
            yield from storages(state, self._name_of(parameter) or "")

    def users_step(self) -> None:
        """The user says that a step ends here; steps are no longer found by themselves."""
        if not self.closed:
            self.steps.users_step()

    def trace(self, on: bool) -> None:
        """From here on, write every span and name, or only find the steps.

        A loop that trains has its steps found by its optimizers: untraced, its modules are called as without us.
        """
        self.tracing = on
        if self.switch is not None:
            self.switch(on or not self.steps.trains)

    def _step_ends(self, index: int, begin_ns: int, end_ns: int) -> None:
        if self.tracing:
            self.spans.add("step", f"step {index}", begin_ns, end_ns)
        self.spans.step = index + 1
        if self._watcher is not None:
            self._watcher.step_ends(index)
        if not self.tracing:
            self.trace(False)
        self._traced_steps = self._traced_steps + 1 if self.tracing else 0
        self.detailed = self._traced_steps < _DETAILED_AT_FIRST or self._traced_steps % _DETAILED_EACH == 0

    def name_everything(self) -> None:
        """Name the weights of every module seen, as they are by now: they may have been replaced since."""
        for root, prefix in list(self._prefixes.items()):
            self._name_weights(root, prefix)

    def so_far(self) -> list[tuple[Any, ...]]:
        """Name the weights as they are by now, while the program goes on; gives rows of the spans that it is in."""
        if self.tracing and not self.closed:
            self.name_everything()
        return self.spans.still_open()

    def finish(self) -> None:
        """The session ends: the last step ends with it."""
        if not self.closed:
            if self.tracing:
                self.name_everything()
            self.steps.finish()
        self.closed = True


_DETAILED_AT_FIRST = 4
"""So many traced steps are looked at in detail: gradients, optimizer states and what autograd saved are named, and
backward is marked by module ..."""
_DETAILED_EACH = 16
"""... and then each so many-th: a loop repeats itself, and the detail of a step costs as much as its spans do."""


class _Paths:
    """Module paths by identity: a WeakKeyDictionary, at a fifth of its price."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], str]] = {}

    def get(self, module: torch.nn.Module) -> str | None:
        known = self._known.get(id(module))
        return known[1] if known is not None and known[0]() is module else None

    def __setitem__(self, module: torch.nn.Module, path: str) -> None:
        self._known[id(module)] = (weakref.ref(module), path)


class _Backward:
    """One run of the autograd engine."""

    def __init__(self, span: Span | None) -> None:
        self.span = span
        self.handles: list[Any] = []


def _arrives(reference: weakref.ref[Program], path: str, gradients: Any) -> None:
    program = reference()
    if program is not None:
        program.backward_reaches(path)


def _starts(reference: weakref.ref[Program], parent: int, gradients: Any) -> None:
    program = reference()
    if program is not None:
        program.backward_starts(parent)


def _without_wrapper(path: str) -> str:
    """A module's or tensor's path as it is without torch.compile's wrappers."""
    return ".".join(part for part in path.split(".") if part != _COMPILED) if _COMPILED in path else path


def _has_parameters(module: torch.nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _addresses(tensors: Any, name: str) -> list[tuple[str, int, int, int]]:
    return [item for tensor in tensors for item in storages(tensor, name, 1)]


def _first_tensor(value: Any) -> Any:
    """The first tensor with a history in an output: a sequence, or a mapping as Hugging Face's outputs are."""
    if getattr(value, "grad_fn", None) is not None:
        return value
    if hasattr(value, "values") and hasattr(value, "keys"):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        return next((item for item in value if getattr(item, "grad_fn", None) is not None), None)
    return None
