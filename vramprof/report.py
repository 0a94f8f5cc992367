"""The report of one recording: facts and findings, with the verbs that show them."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from vramprof.errors import VramprofError
from vramprof.findings import Facts, Finding, find_all, gather_facts
from vramprof.findings.comparison import DeviceComparison, Prediction, compare_facts, surprises_of
from vramprof.findings.rules import costliest_first
from vramprof.recording import Recording, save_folder
from vramprof.renderers.forms import FORMS


class Report:
    """What a recording tells. `print(report)` gives the terminal's summary; `save` picks the form by the suffix."""

    def __init__(self, recording: Recording, *, predicted: Recording | None = None) -> None:
        self.recording = recording
        self.predicted = predicted

    @cached_property
    def facts(self) -> Facts:
        """Everything the analyses found."""
        return gather_facts(self.recording)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the rules say, and what surprises against the prediction, the costliest first."""
        surprises = [] if self.prediction is None else surprises_of(self.prediction.devices)
        return costliest_first([*find_all(self.facts), *surprises])

    @cached_property
    def prediction(self) -> Prediction | None:
        """This recording against what was predicted of it, if anything was."""
        if self.predicted is None:
            return None
        expected = gather_facts(self.predicted)
        return Prediction(expected, compare_facts(expected, self.facts))

    def text(self, *, width: int = 80, color: bool = False) -> str:
        """The summary for a terminal."""
        from vramprof.renderers.terminal import render_terminal

        return render_terminal(self.facts, self.findings, prediction=self.prediction, width=width, color=color)

    def html(self) -> str:
        """The page: one file, with everything in it."""
        from vramprof.renderers.html import Subject, render_html

        return render_html([Subject("", self.facts, self.findings)])

    def as_dict(self) -> dict[str, Any]:
        """The JSON report as plain data."""
        from vramprof.renderers.json import as_dict

        return as_dict(self.facts, self.findings, self.prediction)

    def save(self, path: str | Path) -> Path:
        """Write one of FORMS, as the suffix says: a page, JSON, a picture, a recording, or what other tools read.

        Raises:
            VramprofError: the suffix is none of these, or the path cannot be written.
        """
        suffix = Path(path).suffix.removeprefix(".")
        return self.save_as("snapshot" if suffix == "pickle" else suffix, path)

    def save_as(self, form: str, path: str | Path) -> Path:
        """Write one of FORMS, whatever the path's suffix.

        Raises:
            VramprofError: there is no such form, or the path cannot be written.
        """
        path = Path(path)
        if form not in FORMS:
            raise VramprofError(f"{path}: save as {', '.join('.' + name for name in FORMS)}")
        with _told(path):
            if form == "vram":
                save_folder(self.recording, path)
            else:
                path.write_bytes(_RENDERERS[form](self))
        return path

    def __str__(self) -> str:
        return self.text()

    def picture(self, path: str | Path, *panels: str) -> Path:
        """Write a `.png` or `.svg` for a paper or a slide of some of its panels: "timeline", "peak", "segments".

        Raises:
            VramprofError: there is no such panel or form, or the path cannot be written.
        """
        from vramprof.renderers.pictures import PANELS, render_picture

        path = Path(path)
        form, unknown = path.suffix.removeprefix("."), sorted(set(panels) - set(PANELS))
        if unknown or form not in ("png", "svg"):
            raise VramprofError(f"{unknown[0] if unknown else path}: panels are {', '.join(PANELS)}, in .png or .svg")
        with _told(path):
            path.write_bytes(render_picture(self.facts, form=form, panels=panels))
        return path

    def compare(self, other: Report, *, labels: tuple[str, str] = ("before", "after")) -> Reports:
        """This report beside another: `before.compare(after).save("difference.html")`."""
        return Reports(dict(zip(labels, (self, other), strict=True)), kind="compare")

    def _repr_html_(self) -> str:
        return in_frame(self.html())


class Reports:
    """Several reports on one page: "compare" has two, the difference told; "ranks" any number, the odd one told."""

    def __init__(self, reports: Mapping[str, Report], *, kind: str) -> None:
        self.reports = dict(reports)
        self.kind = kind

    @cached_property
    def comparison(self) -> tuple[DeviceComparison, ...]:
        """Of two reports, the second against the first, device by device; of more, nothing."""
        if self.kind != "compare":
            return ()
        expected, actual = self.reports.values()
        return compare_facts(expected.facts, actual.facts)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What surprises in the second of two: the 5xx family, the costliest first."""
        return costliest_first(surprises_of(self.comparison))

    def text(self) -> str:
        """A table for a terminal: by category for two, by recording for many."""
        from vramprof.renderers.several import render_difference, render_ranks

        facts = {label: report.facts for label, report in self.reports.items()}
        return render_difference(facts, self.comparison) if self.kind == "compare" else render_ranks(facts)

    def html(self) -> str:
        """The page."""
        from vramprof.renderers.html import Subject, render_html

        own = [report.findings for report in self.reports.values()]
        own[-1] = (*self.findings, *own[-1])  # what surprises in the second is said of it
        subjects = [
            Subject(label, report.facts, findings)
            for (label, report), findings in zip(self.reports.items(), own, strict=True)
        ]
        return render_html(subjects, kind=self.kind)

    def save(self, path: str | Path) -> Path:
        """Write the page.

        Raises:
            VramprofError: the path cannot be written.
        """
        path = Path(path)
        with _told(path):
            path.write_text(self.html(), encoding="utf-8")
        return path

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return in_frame(self.html())


def in_frame(page: str) -> str:
    """The page inside a notebook: in a frame of its own that can reach neither the notebook nor a network."""
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    guarded = page.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{policy}">', 1)
    style = "width:100%;height:800px;border:0"
    return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{html.escape(guarded)}"></iframe>'


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VramprofError(f"{path}: {error.strerror or error}") from None


def _page(report: Report) -> bytes:
    return report.html().encode()


def _json(report: Report) -> bytes:
    from vramprof.renderers.json import render_json

    return render_json(report.facts, report.findings, report.prediction).encode()


def _png(report: Report) -> bytes:
    from vramprof.renderers.pictures import render_picture

    return render_picture(report.facts, form="png")


def _svg(report: Report) -> bytes:
    from vramprof.renderers.pictures import render_picture

    return render_picture(report.facts, form="svg")


def _perfetto(report: Report) -> bytes:
    from vramprof.renderers.perfetto import render_perfetto

    return render_perfetto(report.facts)


def _pprof(report: Report) -> bytes:
    from vramprof.renderers.flames import render_pprof

    return render_pprof(report.facts)


def _folded(report: Report) -> bytes:
    from vramprof.renderers.flames import render_folded

    return render_folded(report.facts).encode()


def _snapshot(report: Report) -> bytes:
    from vramprof.renderers.torch_snapshot import render_snapshot

    return render_snapshot(report.recording)


_RENDERERS: dict[str, Callable[[Report], bytes]] = {
    "html": _page, "json": _json, "png": _png, "svg": _svg, "perfetto": _perfetto, "pprof": _pprof,
    "folded": _folded, "snapshot": _snapshot,
}  # fmt: skip
