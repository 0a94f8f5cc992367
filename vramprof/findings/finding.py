"""What a rule says: the claim, its cost in bytes, the evidence, and the way out."""

from __future__ import annotations

from dataclasses import dataclass

from vramprof.recording import Frame


@dataclass(frozen=True)
class Evidence:
    """One statement with its figure, and the frames it points to."""

    statement: str
    value: float
    unit: str
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class Fix:
    """What to do; `saving_bytes` only where it was computed."""

    action: str
    code: str | None = None
    saving_bytes: int | None = None


@dataclass(frozen=True)
class Finding:
    """An opinion. severity is "info", "warning" or "error"; basis "measured", "inferred" or "predicted".

    `moment` is where it is seen best, as a number of the device's events applied: an entry of its timeline.
    """

    code: str
    title: str
    severity: str
    cost_bytes: int
    basis: str
    device: int
    evidence: tuple[Evidence, ...]
    fix: Fix
    holder: str | None = None
    moment: int | None = None
