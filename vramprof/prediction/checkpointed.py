"""Runs a script in this process with some of its modules checkpointed, for `vramprof diagnose --try`.

`python -m vramprof.prediction.checkpointed PATHS.json SCRIPT|MODULE ARGS...`: the forward of each module that has a
number in a list of modules, whose path the file has, goes through torch.utils.checkpoint while gradients are on. Keys
and values are not cached then, as Hugging Face's own gradient checkpointing does it. The user's files are not touched.
"""

from __future__ import annotations

import functools
import json
import runpy
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CACHES = ("past_key_values", "past_key_value", "layer_past")


def main(argv: list[str]) -> None:
    """Wrap what the file names as soon as it is called, and run the program."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    paths = frozenset(json.loads(Path(argv[1]).read_text()))
    register_module_forward_pre_hook(_Wrapper(paths))
    sys.argv = argv[2:]
    program = argv[2]
    if Path(program).is_file():
        sys.path.insert(0, str(Path(program).resolve().parent))
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


class _Wrapper:
    """Sees each module before its forward; those of a root that is called for the first time are wrapped by path."""

    def __init__(self, paths: frozenset[str]) -> None:
        self._paths = paths
        self._seen: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()

    def __call__(self, module: torch.nn.Module, args: Any) -> None:
        if module in self._seen:
            return
        kind = type(module).__name__
        for path, child in module.named_modules():
            self._seen.add(child)
            parent, _, number = path.rpartition(".")
            if number.isdigit() and (parent in self._paths or f"{kind}.{parent}" in self._paths):
                child.forward = functools.partial(_checkpoint, child.forward)


def _checkpoint(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    kwargs.update({name: None for name in _CACHES if name in kwargs})
    if "use_cache" in kwargs:
        kwargs["use_cache"] = False
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


if __name__ == "__main__":
    main(sys.argv)
