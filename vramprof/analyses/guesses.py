"""Turns the guessed reads of a dry run into the lines that made them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from vramprof.analyses.frames import users_first
from vramprof.recording import Frame, Recording


@dataclass(frozen=True)
class Guess:
    """One line that read from the emulated device what no kernel had computed; the user's own frame comes first."""

    count: int
    frames: tuple[Frame, ...]


def find_guesses(recording: Recording, device: int) -> tuple[Guess, ...]:
    """Every such line of a device, the most frequent first. None in a recording of a real GPU."""
    counts: Counter[tuple[Frame, ...]] = Counter()
    reads = recording.guessed_reads[recording.guessed_reads["device"] == device]
    for stack, count in zip(reads["stack"].tolist(), reads["count"].tolist(), strict=True):
        counts[users_first(recording.stacks.get(stack))] += count
    return tuple(Guess(count, frames) for frames, count in counts.most_common())
