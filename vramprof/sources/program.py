"""Turns a running training or inference program into spans and names, by torch's global hooks alone.

Spans: forward (a call of an outermost module), backward, optimizer, step, and one per module call; in backward, a
module's span begins when the gradient of its output arrives. Names: parameters, buffers, gradients, optimizer
states and inputs.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from vramprof.recording import Recorder

if TYPE_CHECKING:
    import torch

_MARK = "vramprof"


@contextmanager
def program_spans(recorder: Recorder) -> Iterator[Program]:
    """Watch every module, backward pass and optimizer of this process while the block runs."""
    from torch.nn.modules import module as hooks
    from torch.optim import optimizer as optimizer_hooks

    program = Program(recorder)
    with ExitStack() as stack:
        for handle in (
            hooks.register_module_forward_pre_hook(program.forward_begins),
            hooks.register_module_forward_hook(program.forward_ends, with_kwargs=True, always_call=True),
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

    def watched(*args: Any, **kwargs: Any) -> Any:
        program.backward_begins()
        try:
            return original(*args, **kwargs)
        finally:
            program.backward_ends()

    torch.autograd._engine_run_backward = watched
    try:
        yield
    finally:
        torch.autograd._engine_run_backward = original


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    """No failure of ours reaches the user's program: the first one is told as a gap, and the hooks fall silent."""

    def call(self: Program, *args: Any, **kwargs: Any) -> None:
        if self.closed:
            return
        try:
            function(self, *args, **kwargs)
        except Exception as error:
            self.closed = True
            self.recorder.gap("spans", f"stopped marking: {type(error).__name__}: {error}", begin_ns=time.time_ns())

    return call


class Program:
    """What is known of the running program: open calls per thread, module paths, parameters, the current step."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.closed = False
        self._local = threading.local()
        self._paths: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()
        self._parameters: list[tuple[str, weakref.ref[torch.nn.Parameter]]] = []
        self._parameter_names: dict[int, str] = {}
        self._state_addresses: dict[str, int] = {}
        self._step = 0
        self._step_begin_ns = time.time_ns()
        self._users_steps = False
        self._backward: list[int] = []
        self._backward_module: tuple[int, str] | None = None
        self._optimizer_begin_ns = 0
        self._step_may_end_ns = 0
        self._trains = False

    # -- forward -------------------------------------------------------------------------------------------------

    def forward_begins(self, module: torch.nn.Module, args: Any) -> None:
        """Global forward pre-hook."""
        import torch

        if torch.compiler.is_compiling():
            return
        self._forward_begins(module)

    @_guarded
    def _forward_begins(self, module: torch.nn.Module) -> None:
        calls = self._calls()
        if not calls and not self._backward:
            self._outermost_begins(module)
        calls.append((module, time.time_ns()))

    def _calls(self) -> list[tuple[torch.nn.Module, int]]:
        calls: list[tuple[torch.nn.Module, int]] | None = getattr(self._local, "calls", None)
        if calls is None:
            calls = self._local.calls = []
        return calls

    def _outermost_begins(self, module: torch.nn.Module) -> None:
        if module not in self._paths:
            self._learn(module)
        if next(module.parameters(), None) is not None and self._step_may_end_ns and not self._users_steps:
            self._end_step(self._step_may_end_ns)

    def _learn(self, root: torch.nn.Module) -> None:
        """Paths and names of a root module that is called for the first time."""
        kind = type(root).__name__
        prefix = f"{kind}." if self._parameters else ""
        for path, module in root.named_modules():
            self._paths[module] = prefix + path if path else kind
        for name, parameter in root.named_parameters():
            self._parameters.append((prefix + name, weakref.ref(parameter)))
            self._parameter_names[id(parameter)] = prefix + name
            self._name("weights", prefix + name, parameter)
        for name, buffer in root.named_buffers():
            self._name("buffers", prefix + name, buffer)

    def forward_ends(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Global forward hook, called on exceptions too."""
        import torch

        if torch.compiler.is_compiling():
            return
        self._forward_ends(module, args, kwargs, output)

    @_guarded
    def _forward_ends(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls = self._calls()
        while calls:
            called, begin_ns = calls.pop()
            if called is module:
                break
        else:
            return
        now = time.time_ns()
        path = self._paths.get(module, type(module).__name__)
        self._span("module", path, begin_ns, now)
        self._mark_backward(path, output)
        if not calls and not self._backward:
            self._span("forward", path, begin_ns, now)
            self._name_inputs(args, kwargs)
            if not self._trains:
                self._step_may_end_ns = now

    def _name_inputs(self, args: Any, kwargs: Any) -> None:
        for index, value in enumerate(args):
            self._name("inputs", f"args[{index}]", value)
        for key, value in kwargs.items():
            self._name("inputs", key, value)

    def _mark_backward(self, path: str, output: Any) -> None:
        """When the gradient of this output arrives, backward has come to this module; the graph is left as it is."""
        node = getattr(_first_tensor(output), "grad_fn", None)
        if node is None or _MARK in node.metadata:
            return
        node.metadata[_MARK] = True  # a module whose output is its child's: the child, seen first, keeps it
        reference = weakref.ref(self)

        def arrives(gradients: Any) -> None:
            program = reference()
            if program is not None:
                program.backward_reaches(path)

        node.register_prehook(arrives)

    # -- backward ------------------------------------------------------------------------------------------------

    @_guarded
    def backward_begins(self) -> None:
        """The autograd engine starts."""
        self._trains = True
        self._backward.append(time.time_ns())

    @_guarded
    def backward_reaches(self, path: str) -> None:
        """The gradient of this module's output has arrived."""
        now = time.time_ns()
        self._leave_backward_module(now)
        self._backward_module = (now, path)

    def _leave_backward_module(self, now: int) -> None:
        if self._backward_module is not None:
            begin_ns, path = self._backward_module
            self._span("module", path, begin_ns, now)
            self._backward_module = None

    @_guarded
    def backward_ends(self) -> None:
        """The autograd engine is done."""
        if not self._backward:
            return
        begin_ns, now = self._backward.pop(), time.time_ns()
        self._leave_backward_module(now)
        self._span("backward", "backward", begin_ns, now)
        if not self._backward:
            self._step_may_end_ns = 0
            self._name_gradients()

    def _name_gradients(self) -> None:
        for name, reference in self._parameters:
            parameter = reference()
            if parameter is not None and parameter.grad is not None:
                self._name("gradients", name, parameter.grad)

    # -- optimizer and steps -------------------------------------------------------------------------------------

    @_guarded
    def optimizer_begins(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Global pre-hook of Optimizer.step."""
        self._trains = True
        self._optimizer_begin_ns = time.time_ns()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in self._parameter_names:
                    self._name("weights", "", parameter)
                    self._name("gradients", "", parameter.grad)

    @_guarded
    def optimizer_ends(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Global post-hook of Optimizer.step."""
        now = time.time_ns()
        self._span("optimizer", type(optimizer).__name__, self._optimizer_begin_ns, now)
        self._step_may_end_ns = now
        for parameter, state in optimizer.state.items():
            owner = self._parameter_names.get(id(parameter), "")
            for key, value in state.items() if isinstance(state, dict) else ():
                self._name_state(f"{owner}.{key}" if owner else str(key), f"{id(parameter)}.{key}", value)

    def _name_state(self, name: str, key: str, value: Any) -> None:
        storage = _storage(value)
        if storage is not None and self._state_addresses.get(key) != storage[1]:
            self._state_addresses[key] = storage[1]
            self._name("optimizer", name, value)

    @_guarded
    def users_step(self) -> None:
        """The user says that a step ends here; steps are no longer found by themselves."""
        self._users_steps = True
        self._end_step(time.time_ns())

    def _end_step(self, end_ns: int) -> None:
        self._span("step", f"step {self._step}", self._step_begin_ns, end_ns)
        self._step += 1
        self._step_begin_ns = end_ns
        self._step_may_end_ns = 0

    def finish(self) -> None:
        """The session ends: the last step ends with it."""
        if not self.closed and (self._step_may_end_ns or not self._step) and not self._users_steps:
            self._end_step(time.time_ns())
        self.closed = True

    # -- rows ----------------------------------------------------------------------------------------------------

    def _span(self, kind: str, name: str, begin_ns: int, end_ns: int) -> None:
        self.recorder.add("spans", kind, name, begin_ns, end_ns, threading.get_ident(), self._step)

    def _name(self, category: str, name: str, value: Any) -> None:
        storage = _storage(value)
        if storage is not None:
            device, address, size_bytes = storage
            self.recorder.add("tensors", time.time_ns(), device, address, size_bytes, category, name)


def _first_tensor(value: Any) -> Any:
    """The first tensor in an output: a tensor, a sequence, a dict (as Hugging Face's outputs are)."""
    if hasattr(value, "grad_fn"):
        return value
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        return next((item for item in value if getattr(item, "grad_fn", None) is not None), None)
    return None


def _storage(value: Any) -> tuple[int, int, int] | None:
    """(device index, address, bytes) of a CUDA tensor's storage; of the local part where it is sharded."""
    import torch

    value = getattr(value, "_local_tensor", value)
    if not isinstance(value, torch.Tensor) or value.device.type != "cuda" or value.device.index is None:
        return None
    try:
        storage = value.untyped_storage()
        address = storage.data_ptr()
    except (RuntimeError, NotImplementedError):  # wrapper subclasses without a storage of their own
        return None
    return (value.device.index, address, storage.nbytes()) if address else None
