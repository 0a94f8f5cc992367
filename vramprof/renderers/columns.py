"""Turns columns of whole numbers into a small binary block that a browser opens by itself.

A column is divided by its greatest common divisor, told as differences where that is narrower, stored in the narrowest
signed type, and its bytes are regrouped by significance; then everything is deflated together. In the block: the
length of the head (4 bytes, little endian), the head as JSON, and the columns one behind the other.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_WIDTHS = (1, 2, 4, 8)


def pack(head: Mapping[str, Any], columns: Mapping[str, npt.NDArray[np.integer[Any]]]) -> str:
    """The block as base64 text; every column is at most 2**53 in magnitude, so that JavaScript holds it exactly."""
    told, parts = {}, []
    for name, values in columns.items():
        told[name], part = _column(values.astype(np.int64))
        parts.append(part)
    text = json.dumps({**head, "columns": told}, separators=(",", ":")).encode()
    block = zlib.compress(struct.pack("<I", len(text)) + text + b"".join(parts), 6)
    return base64.b64encode(block).decode()


def _column(values: npt.NDArray[np.int64]) -> tuple[dict[str, Any], bytes]:
    unit = int(np.gcd.reduce(values)) if len(values) else 1
    scaled = values // max(unit, 1)
    steps = np.diff(scaled, prepend=0)
    is_delta = _width(steps) < _width(scaled) or (_width(steps) == _width(scaled) and _is_sorted(scaled))
    chosen = steps if is_delta else scaled
    width = _width(chosen)
    raw = chosen.astype(f"<i{width}").view(np.uint8).reshape(-1, width).T.tobytes()
    return {"width": width, "count": len(values), "unit": max(unit, 1), "delta": is_delta}, raw


def _width(values: npt.NDArray[np.int64]) -> int:
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    return next(width for width in _WIDTHS if -(1 << 8 * width - 1) <= low and high < 1 << 8 * width - 1)


def _is_sorted(values: npt.NDArray[np.int64]) -> bool:
    return bool((values[1:] >= values[:-1]).all())
