"""4xx: what an out-of-memory error in the recording was for, one code per cause."""

from __future__ import annotations

from collections.abc import Iterator

from vramprof.analyses.causes import Cause, CauseKind, rank_causes
from vramprof.analyses.oom_state import OomState
from vramprof.findings.facts import DeviceFacts
from vramprof.findings.finding import Evidence, Finding, Fix
from vramprof.findings.rules import Rule, rule
from vramprof.units import format_bytes

_CODES = {
    CauseKind.CAPACITY: ("VP401", Fix("hold less: a smaller batch, checkpointing, a leaner optimizer")),
    CauseKind.FRAGMENTATION: (
        "VP402",
        Fix(
            "let segments grow instead of splitting them; `vramprof diagnose --what-if` tells whether that fits",
            code="export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        ),
    ),
    CauseKind.OTHER_PROCESSES: ("VP403", Fix("stop the other processes, or choose another GPU")),
    CauseKind.OUTSIDE_TORCH: ("VP404", Fix("fewer NCCL communicators and captured graphs; CUDA_MODULE_LOADING=LAZY")),
    CauseKind.LIMIT: ("VP405", Fix("raise or drop torch.cuda.set_per_process_memory_fraction()")),
    CauseKind.REFUSED: ("VP406", Fix("look for a limit: a memory fraction, WSL, the container, MIG, `ulimit -v`")),
    CauseKind.ABSURD_REQUEST: ("VP407", Fix("print the shapes at the line that asked; chunk the operation")),
    CauseKind.PRIVATE_POOLS: ("VP408", Fix("capture fewer shapes, or let graphs share one pool")),
}


def _rule_for(kind: CauseKind, code: str, fix: Fix) -> Rule:
    def judge(device: DeviceFacts) -> Iterator[Finding]:
        if device.oom is None:
            return
        for cause in rank_causes(device.oom.figures):
            if cause.kind is kind:
                basis = "measured" if cause.certain else "inferred"
                title = f"out of memory: {cause.sentence}"
                evidence = tuple(_evidence(device.oom, cause))
                yield Finding(code, title, "error", max(cause.bytes, 0), basis, device.index, evidence, fix)

    return judge


def _evidence(state: OomState, cause: Cause) -> Iterator[Evidence]:
    asked = f"asked for, at {format_bytes(state.figures.held_bytes or 0)} held by tensors"
    yield Evidence(asked, state.requested_bytes, "bytes", state.moment.frames)
    if state.figures.free_bytes is not None:
        yield Evidence("free in the driver", state.figures.free_bytes, "bytes")
    if cause.kind is CauseKind.FRAGMENTATION:
        yield Evidence("the largest free block that it could have had", state.moment.largest_hole_bytes, "bytes")
        for pin in state.moment.pins[:5]:
            yield Evidence("holes held open by blocks of this line", pin.hole_bytes, "bytes", pin.frames)


for _kind, (_code, _fix) in _CODES.items():
    rule(_code)(_rule_for(_kind, _code, _fix))

OUT_OF_MEMORY_CODES = tuple(code for code, _ in _CODES.values())
