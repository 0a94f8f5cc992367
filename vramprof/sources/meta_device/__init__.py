"""Turns a program into the recording of what it would allocate on a card, in this process, wherever torch runs.

Its CUDA tensors become tensors of torch's meta device: shapes and dtypes without data. (Fake tensors of a "cuda" device
would do the same, but need a torch built for CUDA.) Every operation's result takes a block of a model of torch's
caching allocator. CPU tensors are what they are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from vramprof.recording import Recorder, Recording
from vramprof.sources.program import Program, program_spans

BIASES = (
    "workspaces (cuBLAS, cuDNN) and temporaries inside kernels are not counted",
    "attention is taken as flash in 16 bit without a mask, else memory-efficient, else written out; the card decides",
    "segments are those of a model of the caching allocator, on one stream and with default settings",
)  # fmt: skip


def run_on_meta(
    call: Callable[[], object], *, gpu: str, total_bytes: int, context_bytes: int, capability: tuple[int, int],
    multiprocessors: int = 108,
) -> tuple[Recording, BaseException | None]:  # fmt: skip
    """Call a program and record it; origin "predicted", or "oom" where the card was too small.

    Gives what the program raised, too: the recording goes up to there.
    """
    import torch

    from vramprof.sources.meta_device.kernels import cards_choices
    from vramprof.sources.meta_device.ledger import Ledger
    from vramprof.sources.meta_device.surface import Card, card_surface

    recorder = Recorder(origin="predicted", emulated=False)
    recorder.metadata.update(
        command=list(sys.argv), python_version=sys.version.split()[0], begin_ns=time.time_ns(), memory_fractions={},
        torch_version=str(torch.__version__), cuda_version=str(torch.version.cuda),
        method="the program ran on tensors without data",
    )  # fmt: skip
    limit = total_bytes - context_bytes
    card = Card(gpu, total_bytes, *capability, multiprocessors, limit)
    watched: list[Program] = []
    ledger = Ledger(gpu=gpu, limit_bytes=limit, context=lambda: _open_span(watched))
    notes: set[str] = set()
    error: BaseException | None = None
    with card_surface(card, ledger, notes), program_spans(recorder) as program:
        watched.append(program)
        program.names._annotate = ledger.annotate
        program.spans._set, program.spans._get = _no_metadata, str  # the ledger asks for the open span itself
        try:
            with cards_choices(), ledger:
                call()
        except (Exception, SystemExit) as raised:
            error = raised
    if isinstance(error, torch.OutOfMemoryError):
        recorder.origin = "oom"
    ledger.write(recorder)
    allocator = ledger.allocator
    recorder.add(
        "devices", 0, gpu, total_bytes, "{}.{}".format(*capability), 0, allocator.allocated,
        allocator.peak_allocated, allocator.peak_reserved,
    )  # fmt: skip
    for size, count, frames in ledger.guesses.values():
        named = [_frame(frame) for frame in frames]
        recorder.add("guessed_reads", 0, size, count, recorder.stacks.add(named))
    _say_biases(recorder, ledger.unknown, notes)
    recorder.metadata["end_ns"] = time.time_ns()
    return recorder.freeze(), error


def _no_metadata(metadata: str) -> None:
    pass


def _open_span(watched: list[Program]) -> str:
    spans = watched[0].spans.open_spans() if watched else []
    return spans[-1].metadata if spans else ""


def _frame(plain: dict[str, Any]) -> Any:
    from vramprof.recording import Frame

    return Frame(plain["filename"], plain["line"], plain["name"])


def _say_biases(recorder: Recorder, unknown: dict[str, int], notes: set[str]) -> None:
    for reason in (*BIASES, *sorted(notes)):
        recorder.gap("prediction", reason)
    if unknown:
        names = ", ".join(f"{name} x {count}" for name, count in sorted(unknown.items()))
        recorder.gap("prediction", f"torch has no shapes for these, taken as in place: {names}")
