"""Turns what rich can draw into text of a given width."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console, RenderableType


def text_of(parts: Iterable[RenderableType], *, width: int, color: bool) -> str:
    """The parts below each other, without blanks at the ends of lines; with `color`, ANSI escapes."""
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=color, no_color=not color, highlight=False, markup=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"
