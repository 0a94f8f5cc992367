"""What every screen of text is made of: a console of a given width, tables without lines, places in the source."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table

if TYPE_CHECKING:  # a plan is drawn without the tables of a recording
    from vramprof.recording import Frame


def text_of(parts: Iterable[RenderableType], *, width: int, color: bool) -> str:
    """The parts below each other, without blanks at the ends of lines; with `color`, ANSI escapes."""
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=color, no_color=not color, highlight=False, markup=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"


def table_of(*headers: str) -> Table:
    """An empty table: its first column takes what room is left, the others are figures."""
    table = Table(box=None, pad_edge=False, expand=True, show_edge=False, header_style="dim")
    table.add_column(headers[0], no_wrap=True, overflow="ellipsis", ratio=1)
    for header in headers[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def place_of(frame: Frame | None) -> str:
    """Where a frame is: the file with its folder, the line, the function."""
    if frame is None:
        return "(no Python frames)"
    short = "/".join(frame.filename.replace("\\", "/").split("/")[-2:])
    return f"{short}:{frame.line} {frame.name}"
