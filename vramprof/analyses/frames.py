"""Turns a stack's frames into what they tell: the user's own line, and the kind of work that allocated."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from vramprof.recording import Frame
from vramprof.recording.stacks import is_generated

_NOT_USERS = ("/torch/", "/vramprof/", "/lib/python3", "<frozen", "<string>")


class Hint(Enum):
    """What the frames alone say about an allocation."""

    NONE = "none"
    WORKSPACE = "workspace"
    GRADIENT = "gradient"
    BACKWARD = "backward"
    OPTIMIZER_STATE = "optimizer state"
    OPTIMIZER = "optimizer"
    WEIGHT = "weight"
    GATHERED = "weights gathered from all ranks"
    FORWARD = "forward"


def is_python(frame: Frame) -> bool:
    """Whether this is a Python frame; the frames of C++ stacks have no file, or an object or source file."""
    return frame.filename.endswith((".py", ".pyx")) or frame.filename.startswith("<")


def is_users(frame: Frame) -> bool:
    """Whether the frame is outside torch, the standard library, vramprof and generated code (other packages count)."""
    name = frame.filename.replace("\\", "/")
    if not is_python(frame) or is_generated(name):
        return False
    if name.endswith("/vramprof/cli/demo_program.py"):
        return True  # the demo's script stands for the user's own
    if "/site-packages/" in name or "/dist-packages/" in name:
        return "/torch/" not in name and "/vramprof/" not in name
    return not any(part in name for part in _NOT_USERS)


def users_first(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The innermost frame of the user's own code, then the whole stack."""
    for frame in frames:
        if is_users(frame):
            return (frame, *frames)
    return tuple(frames)


def users_frame(frames: Sequence[Frame]) -> Frame | None:
    """The innermost frame of the user's own code; where there is none, of Python at all."""
    python = [frame for frame in frames if is_python(frame)]
    return next((frame for frame in python if is_users(frame)), python[0] if python else None)


_GATHERED = (
    "_fsdp_param.py", "foreach_all_gather@", "all_gather_copy_in", "_alloc_padded_unsharded_flat_param@",
    "_use_low_precision_shard@", "_all_gather_flat_param@",
)  # fmt: skip
"""Functions of FSDP1 and FSDP2 that allocate whole weights out of shards."""


def _is_reducer(frames: Sequence[Frame]) -> bool:
    """DDP's buckets and FSDP's inputs and outputs of reduce-scatter."""
    innermost = frames[0].filename.replace("\\", "/") if frames else ""
    return innermost.endswith("nn/parallel/distributed.py") or any(f.name == "foreach_reduce" for f in frames)


def hint(frames: Sequence[Frame]) -> Hint:
    """What kind of work these frames are, the most telling first."""
    text = " ".join(f"{frame.name}@{frame.filename}" for frame in frames).replace("\\", "/")
    if any(word in text for word in ("CUDABlasHandle", "getNewWorkspace", "CUDABlasLtWorkspace", "cudnn::")):
        return Hint.WORKSPACE
    if "AccumulateGrad" in text or "_make_grads@" in text or _is_reducer(frames):
        return Hint.GRADIENT
    if any(word in text for word in _GATHERED):
        return Hint.GATHERED
    if "_init_group@" in text:
        return Hint.OPTIMIZER_STATE
    if "torch/optim/" in text:
        return Hint.OPTIMIZER
    if "autograd::Engine" in text or "_engine_run_backward" in text:
        return Hint.BACKWARD
    if any(word in text for word in ("_apply@", "reset_parameters@", "_init_weights@")):
        return Hint.WEIGHT
    if "_call_impl@" in text:
        return Hint.FORWARD
    return Hint.NONE
