"""Turns what an emulated device cannot know into gaps of the recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from vramprof import emulator
from vramprof.recording import Recorder

_SOURCE = "emulated device"
_CUBLASLT = "cublasLtMatmulAlgoGetHeuristic"
_LIBRARIES = {
    "cublasLt": "cuBLASLt",
    "cudnn": "cuDNN",
    "cusolver": "cuSOLVER",
    "cusparse": "cuSPARSE",
    "cufft": "cuFFT",
}


@contextmanager
def device_limits(recorder: Recorder) -> Iterator[None]:
    """Say which sizes were estimates while the block ran, and which choice a real card would make by timing."""
    before = emulator.count_estimates()
    try:
        yield
    finally:
        if emulator.active() is not None:
            estimates = emulator.count_estimates() - before
            if not _sizes_from_cublaslt():
                estimates.pop(_CUBLASLT, None)
            _tell_estimates(recorder, estimates)
            _tell_benchmark(recorder)


def _tell_estimates(recorder: Recorder, estimates: Counter[str]) -> None:
    by_library: dict[str, Counter[str]] = {}
    for function, count in estimates.items():
        library = next((name for prefix, name in _LIBRARIES.items() if function.startswith(prefix)), function)
        by_library.setdefault(library, Counter())[function] = count
    for library, calls in by_library.items():
        which = ", ".join(f"{function} x {count}" for function, count in calls.most_common())
        recorder.gap(_SOURCE, f"workspaces of {library} are estimates: {which}", lost_count=calls.total())


def _sizes_from_cublaslt() -> bool:
    """Whether this torch allocates for cuBLASLt what its algorithms ask for, and not a fixed size."""
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return version >= (2, 15)


def _tell_benchmark(recorder: Recorder) -> None:
    import torch

    if torch.backends.cudnn.benchmark:
        recorder.gap(
            _SOURCE,
            "cudnn.benchmark times its candidates, and nothing runs here: all were tried with their workspaces, and the"
            " first of cuDNN's own ranking was taken",
        )
