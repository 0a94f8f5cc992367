"""The full screen of `vramprof live`, in Textual: it looks ten times a second, and draws what has changed."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.geometry import Region, Size
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from vramprof.analyses.progress import Subject, Track
from vramprof.renderers.live import panels
from vramprof.renderers.live.figures import figures_of

INTERVAL_S = 0.1
_LEAST_S, _LATE_S = 0.75, 1.25
"""Many ranks, whose news come one by one, are drawn together; and the clock goes on without news."""
_WINDOWS_NS = (None, 600_000_000_000, 60_000_000_000)
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)

HELP = """\
 q        quit; the run goes on
 p        pause the screen
 s        save what is seen, as SVG and JSON
 w        the whole run, its last 10 minutes, or the last one
 ↑ ↓      choose a rank, device or process
 ?        this

 Weights, gradients, optimizer states and buffers are counted by the
 program itself at the ends of phases, about each second. The rest of
 what is allocated is activations, temporaries, workspaces and inputs.
 Over time, gradients are part of the rest.
"""


class Watched(Protocol):
    """What is watched: `poll` looks again, and says whether anything is new."""

    @property
    def subjects(self) -> Sequence[Subject]:
        """Runs and processes."""

    @property
    def lines(self) -> Sequence[tuple[Subject, Track]]:
        """Each of their devices."""

    @property
    def emulated(self) -> bool:
        """Whether no GPU is used."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""

    def poll(self) -> bool:
        """Look again."""


class Panel(Widget):
    """Lines of pieces. Those that have changed are drawn again, and no others: a screen costs some milliseconds."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._lines: list[panels.Line] = []
        self._base: Style | None = None
        self.display = False

    def show(self, lines: list[panels.Line]) -> None:
        """These lines, from now on."""
        before, self._lines = self._lines, lines
        if len(lines) != len(before):
            self.display = bool(lines)
            self.refresh(layout=True)
            return
        changed = [y for y, pair in enumerate(zip(lines, before, strict=True)) if pair[0] != pair[1]]
        if changed:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many rows as lines."""
        return len(self._lines)

    def notify_style_update(self) -> None:
        """The theme or the focus has changed."""
        self._base = None
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """One line, cut where there is no more room."""
        base = self._base = self._base or self.rich_style
        line = self._lines[y] if y < len(self._lines) else []
        strip = Strip([Segment(text, base + Style.parse(style)) for text, style in line if text])
        return strip.adjust_cell_length(self.size.width, base)


class Help(ModalScreen[None]):
    """What the keys do; any of them closes it."""

    CSS = "Help { align: center middle; } #help { width: auto; height: auto; border: round $primary; padding: 1 1; }"

    def compose(self) -> ComposeResult:
        """One text."""
        yield Static(HELP, id="help", markup=False)

    def on_key(self) -> None:
        """Close."""
        self.dismiss()


class LiveApp(App[None]):
    """Runs until it is told to quit; what it watches is only read."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Panel { width: 1fr; height: auto; }
    #emulated { background: $warning; color: black; text-style: bold; }
    #title { background: $primary-background; height: 1; }
    #state { color: $warning; text-style: bold; }
    #rows { border-bottom: solid $panel; }
    #middle { height: 1fr; layout: vertical; }
    #timeline { height: 1fr; min-height: 3; }
    #beside { height: auto; }
    .-wide #beside { layout: horizontal; padding-top: 1; }
    #keys { dock: bottom; height: 1; background: $panel; }
    """
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 - so Textual declares it
        (0, "-narrow"),
        (120, "-wide"),
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,escape,ctrl+c", "quit", "quit"),
        Binding("p,space", "pause", "pause"),
        Binding("s", "save", "save"),
        Binding("w", "window", "window"),
        Binding("question_mark,h", "help", "help"),
        Binding("up,k", "choose(-1)", "up"),
        Binding("down,j", "choose(1)", "down"),
    ]

    def __init__(
        self, watched: Watched, *, folder: Path | None = None, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._has_color = "NO_COLOR" not in os.environ
        super().__init__(ansi_color=not self._has_color)
        self.animation_level = "none"
        self.title = "vramprof live"
        self._watched = watched
        self._folder = folder
        self._now_ns = now_ns
        self._chosen = 0
        self._window = 0
        self._is_paused = False
        self._drawn_s = 0.0
        self._has_news = False
        self._said = ""

    def compose(self) -> ComposeResult:
        """Panels from the top to the bottom."""
        for name in ("emulated", "title", "state", "rows", "summary"):
            yield Panel(name)
        with Container(id="middle"):
            yield Panel("timeline")
            with Container(id="beside"):
                yield Panel("phases")
                yield Panel("facts")
        yield Panel("keys")

    def on_mount(self) -> None:
        """Look at once, then ten times a second."""
        self._watched.poll()
        self._draw()
        self.call_after_refresh(self._draw)
        self.set_interval(INTERVAL_S, self._tick)

    def on_resize(self) -> None:
        """Everything is drawn for the room that there is."""
        self.call_after_refresh(self._draw)

    def _tick(self) -> None:
        if self._is_paused or len(self.screen_stack) > 1:
            return
        self._has_news |= self._watched.poll()
        rested_s = time.monotonic() - self._drawn_s
        if (self._has_news and rested_s > _LEAST_S) or (rested_s > _LATE_S and not self._watched.ended):
            self._draw()

    def _show(self, name: str, lines: list[panels.Line]) -> None:
        self.query_one(f"#{name}", Panel).show(lines)

    def _draw(self) -> None:
        self._drawn_s, self._has_news = time.monotonic(), False
        lines, subjects = self._watched.lines, self._watched.subjects
        self._chosen = max(0, min(self._chosen, len(lines) - 1))
        frame = panels.Frame(self.size.width, self._has_color, self._now_ns())
        subject, track = lines[self._chosen] if lines else (subjects[0] if subjects else None, None)
        self._show("emulated", [[(f" {panels.EMULATED}", "")]] if self._watched.emulated else [])
        self._show("title", [panels.title(subject, track, frame, is_paused=self._is_paused)])
        self._show("state", self._state(subject))
        self._show("keys", [self._keys(len(lines))])
        several = panels.rows(lines, self._chosen, frame, max(self.size.height // 3, 2)) if len(lines) > 1 else []
        self._show("rows", several)
        if subject is None or track is None:
            self._show("summary", [[(f" {self._waiting(subject)}", "dim")]])
            return
        summary = panels.summary(track, frame)
        self._show("summary", summary)
        phases = panels.phases(track, frame)
        above = len(several) + len(summary) + 8  # the other panels, and the least of a timeline
        self._show("phases", phases if self.size.height - above >= len(phases) else [])
        self._show("facts", panels.facts(track, frame._replace(width=self.query_one("#facts").size.width or 80)))
        room = self.query_one("#timeline").size
        frame = frame._replace(width=room.width or frame.width)
        self._show(
            "timeline", panels.timeline(subject, track, frame, max(room.height, 2), window_ns=_WINDOWS_NS[self._window])
        )

    def _waiting(self, subject: Subject | None) -> str:
        if subject is None:
            return "no recording is being written here, and no process is on a GPU: waiting"
        return "nothing was recorded" if subject.ended else "waiting for the program's first allocation on a GPU"

    def _state(self, subject: Subject | None) -> list[panels.Line]:
        if subject is None or not subject.state:
            return []
        hint = f"; see `{subject.hint}`" if subject.ended and subject.hint else ""
        return [[(f" {subject.state}{hint}", "")]]

    def _keys(self, count: int) -> panels.Line:
        keys = [("q", "quit"), ("p", "go on" if self._is_paused else "pause"), ("s", "save"), ("w", "window")]
        keys += [("↑↓", "choose")] if count > 1 else []
        line: panels.Line = []
        for key, word in [*keys, ("?", "help")]:
            line += [(f" {key}", "bold"), (f" {word} ", "dim")]
        return [*line, (f"  {self._said}", "")] if self._said else line

    def action_pause(self) -> None:
        """Stop looking, or look again."""
        self._is_paused = not self._is_paused
        self._draw()

    def action_choose(self, by: int) -> None:
        """The next or the previous line."""
        self._chosen += by
        self._draw()

    def action_window(self) -> None:
        """More or less of the run's time."""
        self._window = (self._window + 1) % len(_WINDOWS_NS)
        self._draw()

    def action_help(self) -> None:
        """What the keys do."""
        self.push_screen(Help())

    def action_save(self) -> None:
        """The screen as SVG, and its figures as JSON, in the folder where this was started."""
        stem = f"live-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
        folder = self._folder or Path()
        try:
            (folder / f"{stem}.svg").write_text(self.picture(), encoding="utf-8")
            text = json.dumps(figures_of(self._watched.lines), indent=1)
            (folder / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
            self._said = f"saved {stem}.svg and .json"
        except OSError as error:
            self._said = f"not saved: {error.strerror or error}"
        self._draw()

    def picture(self) -> str:
        """The screen as SVG that asks no network for its letters."""
        return _FONTS.sub("", self.export_screenshot(title="vramprof live", simplify=True))


def run_screen(watched: Watched) -> None:
    """Show it until the user has seen enough."""
    app: App[Any] = LiveApp(watched)
    app.run()
