"""Turns what is known of runs in progress into plain data, and into one line each for a terminal that is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vramprof.analyses.progress import NAMED, REST, Subject, Track
from vramprof.recording.feed import UNKNOWN
from vramprof.units import format_bytes


def figures_of(lines: Sequence[tuple[Subject, Track]]) -> dict[str, Any]:
    """Sizes are ints in bytes, null where they are unknown; times are Unix nanoseconds."""
    return {
        "schema_version": 1,
        "emulated": any(subject.emulated for subject, _ in lines),
        "devices": [_figures(subject, track) for subject, track in lines],
    }


def _figures(subject: Subject, track: Track) -> dict[str, Any]:
    point = track.newest
    assert point is not None
    told = {
        "time_ns": point.time_ns,
        "step": track.step,
        "allocated_bytes": point.allocated_bytes,
        "reserved_bytes": point.reserved_bytes,
        "process_bytes": point.process_bytes,
        "device_used_bytes": point.device_used_bytes,
        "peak_allocated_bytes": track.peak_bytes,
        "peak_reserved_bytes": track.peak_reserved_bytes,
    }
    growth = track.growth
    return {
        "label": subject.label,
        "command": subject.about,
        "emulated": subject.emulated,
        "state": subject.state or "running",
        "index": track.device,
        "name": track.name,
        "total_bytes": track.total_bytes,
        **{name: None if value == UNKNOWN else value for name, value in told.items()},
        "by_category_at_the_end_of": track.phases,
        "growth": None if growth is None else growth._asdict(),
    }


def line_of(subject: Subject, track: Track) -> str:
    """One device in one line."""
    point = track.newest
    assert point is not None
    parts = [f"{subject.label} GPU {track.device}"]
    if track.step != UNKNOWN:
        parts.append(f"step {track.step}")
    if point.allocated_bytes == UNKNOWN:
        size = "hidden" if point.process_bytes == UNKNOWN else format_bytes(point.process_bytes)
        parts.append(f"{size} in this process")
    else:
        parts.append(f"allocated {format_bytes(point.allocated_bytes)}{_by_category(track)}")
        parts.append(f"reserved {format_bytes(point.reserved_bytes)}")
        parts.append(f"peak {format_bytes(track.peak_bytes)}")
    if track.growth is not None:
        parts.append(f"grows by {format_bytes(int(track.growth.each_step_bytes))} in every step")
    if subject.state:
        parts.append(subject.state)
    return ("EMULATED " if subject.emulated else "") + ", ".join(parts)


def _by_category(track: Track) -> str:
    """Of the newest end of a phase that holds the most."""
    if not track.phases:
        return ""
    phase, held = max(track.phases.items(), key=lambda item: sum(item[1].values()))
    words = {REST: "other"}
    named = ", ".join(f"{words.get(name, name)} {format_bytes(held[name])}" for name in (*NAMED, REST) if held[name])
    return f" ({named} at the end of {phase})"
