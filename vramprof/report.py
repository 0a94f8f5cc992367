"""The report of one recording: facts and findings, with the verbs that show them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from vramprof.errors import VramprofError
from vramprof.findings import Facts, Finding, find_all, gather_facts
from vramprof.recording import Recording, save_folder


class Report:
    """What a recording tells. `print(report)` gives the terminal's summary; `save` picks the form by the suffix."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    @cached_property
    def facts(self) -> Facts:
        """Everything the analyses found."""
        return gather_facts(self.recording)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the rules say, the costliest first."""
        return find_all(self.facts)

    def text(self, *, width: int = 80, color: bool = False) -> str:
        """The summary for a terminal."""
        from vramprof.renderers.terminal import render_terminal

        return render_terminal(self.facts, self.findings, width=width, color=color)

    def html(self) -> str:
        """The page: one file, with everything in it."""
        from vramprof.renderers.html import Subject, render_html

        return render_html([Subject("", self.facts, self.findings)])

    def as_dict(self) -> dict[str, Any]:
        """The JSON report as plain data."""
        from vramprof.renderers.json import as_dict

        return as_dict(self.facts, self.findings)

    def save(self, path: str | Path) -> Path:
        """Write `.html`, `.json`, `.png` or `.vram`, as the suffix says.

        Raises:
            VramprofError: the suffix is none of these, or the path cannot be written.
        """
        return self.save_as(Path(path).suffix.removeprefix("."), path)

    def save_as(self, form: str, path: str | Path) -> Path:
        """Write one of `forms`, whatever the path's suffix.

        Raises:
            VramprofError: there is no such form, or the path cannot be written.
        """
        path = Path(path)
        if form not in _WRITERS:
            raise VramprofError(f"{path}: save as {', '.join('.' + name for name in _WRITERS)}")
        try:
            _WRITERS[form](self, path)
        except OSError as error:
            raise VramprofError(f"{path}: {error.strerror or error}") from None
        return path

    def __str__(self) -> str:
        return self.text()


def _write_html(report: Report, path: Path) -> None:
    path.write_text(report.html(), encoding="utf-8")


def _write_json(report: Report, path: Path) -> None:
    from vramprof.renderers.json import render_json

    path.write_text(render_json(report.facts, report.findings), encoding="utf-8")


def _write_png(report: Report, path: Path) -> None:
    from vramprof.renderers.png import render_png

    path.write_bytes(render_png(report.facts))


def _write_vram(report: Report, path: Path) -> None:
    save_folder(report.recording, path)


_WRITERS = {"html": _write_html, "json": _write_json, "png": _write_png, "vram": _write_vram}
