"""Turns bytes and nanoseconds into words for people, and people's words into bytes."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024**2
GIB = 1024**3
TIB = 1024**4

_SUFFIX_BYTES = {
    "": 1, "b": 1,
    "k": KIB, "kb": 1000, "kib": KIB,
    "m": MIB, "mb": 1000**2, "mib": MIB,
    "g": GIB, "gb": 1000**3, "gib": GIB,
    "t": TIB, "tb": 1000**4, "tib": TIB,
}  # fmt: skip


def format_bytes(size_bytes: int) -> str:
    """Binary units with at most four significant digits: ``1.50 GiB``, ``-12.0 MiB``, ``512 B``."""
    magnitude = abs(size_bytes)
    for unit_bytes, unit in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if magnitude >= unit_bytes:
            value = size_bytes / unit_bytes
            decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
            return f"{value:.{decimals}f} {unit}"
    return f"{size_bytes} B"


def parse_bytes(text: str) -> int:
    """``24GiB``, ``80 GB``, ``512m`` or a plain number of bytes.

    Raises:
        ValueError: the text is no size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].lower() not in _SUFFIX_BYTES:
        raise ValueError(f"not a size: {text!r} (write it like 24GiB)")
    return int(float(match[1]) * _SUFFIX_BYTES[match[2].lower()])


def format_duration(duration_ns: int) -> str:
    """``1.20 s``, ``35.0 ms``, ``12 us``."""
    if duration_ns >= 1_000_000_000:
        return f"{duration_ns / 1e9:.2f} s"
    if duration_ns >= 1_000_000:
        return f"{duration_ns / 1e6:.1f} ms"
    return f"{duration_ns / 1e3:.0f} us"
