"""Turns a comparison into rows of words: (what, expected, actual, difference)."""

from __future__ import annotations

from vramprof.analyses.comparison import Comparison
from vramprof.findings.comparison import moment_name
from vramprof.units import format_bytes

Row = tuple[str, str, str, str]
_MOST_OWNERS = 3


def moment_rows(comparison: Comparison, *, owners: int = _MOST_OWNERS) -> list[Row]:
    """Of each phase the step that differs most, and whose bytes differ there."""
    worst = {pair.phase: pair for pair in sorted(comparison.pairs, key=lambda pair: abs(pair.bytes)) if pair.bytes}
    rows = []
    for pair in sorted(worst.values(), key=lambda pair: pair.actual_row):
        figures = [(moment_name(pair), pair.expected_bytes, pair.actual_bytes)]
        figures += [
            (f"  {one.category} of {one.module}", one.expected_bytes, one.actual_bytes)
            for one in pair.residuals[:owners]
        ]
        rows += [_row(*figure) for figure in figures]
    return rows


def peak_rows(comparison: Comparison) -> list[Row]:
    """The peaks of both sides."""
    figures = (("peak allocated", comparison.allocated_bytes), ("peak reserved", comparison.reserved_bytes))
    return [_row(name, *both) for name, both in figures]


def _row(name: str, before: int, after: int) -> Row:
    return name, format_bytes(before), format_bytes(after), signed(before, after)


def signed(before: int, after: int) -> str:
    """A difference with its sign, and its share of what was before."""
    share = f" ({100 * (after - before) / before:+.1f} %)" if before else ""
    return f"{'+' if after > before else ''}{format_bytes(after - before)}{share}"
