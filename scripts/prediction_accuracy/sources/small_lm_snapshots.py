"""Eight complete allocator histories of a small transformer language model written by hand (CS336's second assignment).

Allocated here is the peak of the bytes asked for, replayed from the events on both sides, for snapshots hold no other.
The card is not stated; its cuBLAS workspace of 8.125 MiB is that of compute capability 8.x. The torch version is the
one that the repository asks for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prediction_accuracy.driver import Outcome
from prediction_accuracy.events import Alignment, align, peaks
from prediction_accuracy.report import error_95, median_error
from prediction_accuracy.rows import SHARED_DATA, Explanation, Goal, Program, Row

FOLDER = SHARED_DATA / "snapshots"
CARD, TORCH = "a100-80gb", "2.6.0"
GOALS = (
    Goal("median error", lambda row: True, median_error, 0.02),
    Goal("95th percentile", lambda row: True, error_95, 0.06),
)
EXPLANATIONS: tuple[Explanation, ...] = ()
EVENT_EXPLANATIONS = {
    "autocast_mode.py:__exit__": "autocast's cache of converted weights is a hash table keyed by address: leaving the"
    " region frees the same weights in an order that differs from run to run",
}


def rows() -> Iterator[Row]:
    """Two for each snapshot: allocated and reserved."""
    for path in _snapshots():
        measured = peaks((entry["action"], entry["size"]) for entry in _trace(path))
        for quantity, size in measured.items():
            yield Row(
                source="small_lm_snapshots",
                group="three training steps" if "backward" in path.stem else "three forward passes",
                key=_key(path),
                card=CARD,
                quantity=quantity,
                measured_bytes=size,
                program=_program(path),
                point="peaks",
                torch_version=TORCH,
                note="requested bytes, replayed from the events" if quantity == "allocated" else "",
            )


def alignments(outcomes: Mapping[Program, Outcome]) -> Iterator[Alignment]:
    """One for each snapshot whose program ran."""
    for path in _snapshots():
        outcome = outcomes.get(_program(path))
        told = outcome.figures.get("events") if outcome else None
        if outcome and told:
            yield _alignment(path, [(action, size) for action, size in told["events"]], outcome.torch_version)


def _alignment(path: Path, predicted: list[tuple[str, int]], torch_version: str) -> Alignment:
    trace = _trace(path)
    measured = [(entry["action"], entry["size"]) for entry in trace]
    equal, where = align(measured, predicted, [_place(entry) for entry in trace])
    return Alignment(
        source="small_lm_snapshots",
        key=_key(path),
        torch_used=torch_version,
        measured_count=len(measured),
        predicted_count=len(predicted),
        equal_in_order_count=equal,
        equal_in_any_order_count=sum((Counter(measured) & Counter(predicted)).values()),
        where=";".join(f"{place}={count}" for place, count in where.most_common()),
    )


def _place(entry: Mapping[str, Any]) -> str:
    """The innermost Python function of an event, as `file:name`."""
    frames = [frame for frame in entry.get("frames", ()) if frame["filename"].endswith(".py")]
    return f"{Path(frames[0]['filename']).name}:{frames[0]['name']}" if frames else "(no Python frame)"


def _snapshots() -> list[Path]:
    found = sorted(FOLDER.glob("niuhuangxiaozi__*.pickle"))
    if not found:
        raise FileNotFoundError(2, "no snapshots", str(FOLDER))
    return found


def _trace(path: Path) -> list[dict[str, Any]]:
    from vramprof.sources.pickles import load_plain_pickle  # nothing in a stranger's file is executed

    (trace,) = load_plain_pickle(path)["device_traces"]
    return [entry for entry in trace if entry["action"] != "snapshot"]


def _key(path: Path) -> str:
    kind = "training" if "backward" in path.stem else "forward"
    return f"{kind}/sequence={_length(path)}/{'mixed' if 'mixed' in path.stem else 'fp32'}"


def _length(path: Path) -> int:
    return int(re.findall(r"_(\d+)", path.stem)[0])


def _program(path: Path) -> Program:
    parameters = {"length": _length(path), "train": "backward" in path.stem, "mixed": "mixed" in path.stem}
    return Program.of("small_lm", CARD, torch_version=TORCH, **parameters)
