"""Turns what a search for the largest number found into lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from vramprof.prediction.fit import Fit, Try
from vramprof.units import format_bytes


def render_fit(fit: Fit) -> str:
    """Each try with its peak, and what fits with its margin."""
    return "\n".join(_lines(fit)) + "\n"


def _lines(fit: Fit) -> Iterator[str]:
    yield "EMULATED: no GPU was used; peaks are predicted by dry runs on an emulated device"
    yield ""
    yield f"{'tried':<28} {'allocated':>10} {'reserved':>10}   on {fit.gpu}, {format_bytes(fit.limit_bytes)} for torch"
    for one in sorted(fit.tries, key=lambda one: tuple(one.values.values())[::-1]):
        sizes = f"{format_bytes(one.peak_allocated_bytes):>10} {format_bytes(one.peak_reserved_bytes):>10}"
        yield f"{_words(one):<28} {sizes}   {'fits' if one.fits else 'out of memory'}"
    yield ""
    for best, limited in zip(fit.best, fit.limited, strict=True):
        yield _verdict(fit, best, limited)


def _verdict(fit: Fit, best: Try | None, limited: bool) -> str:
    if best is None:
        return "not even the least fits"
    name, value = next(iter(best.values.items()))
    why = f"{name} {value + 1} does not" if limited else "the greatest that was allowed"
    return f"fits: {_words(best)}, with {format_bytes(fit.margin_bytes(best))} to spare ({why})"


def _words(one: Try) -> str:
    return ", ".join(f"{name} {value}" for name, value in one.values.items())
