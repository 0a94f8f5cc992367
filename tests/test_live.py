"""`vramprof live`: what it finds, what its screen shows, what its keys do; and that it only reads."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recordings import training

from programs import told_by
from vramprof.analyses.progress import Track
from vramprof.api import Report
from vramprof.cli import main
from vramprof.errors import VramprofError
from vramprof.live import Watch, follow_plainly, watch
from vramprof.recording.feed import SAMPLE, STEP, FeedWriter, Head, Row
from vramprof.renderers.live.app import LiveApp

GIB, MIB, SECOND = 1024**3, 1024**2, 1_000_000_000
HOSTILE = "train[bold].py \x1b[31m[/] $x"


class Running:
    """A run that writes its feed, as the profiler does."""

    def __init__(
        self, folder: Path, *, emulated: bool = False, rank: int | None = None, pid: int | None = None
    ) -> None:
        self.folder = folder
        folder.mkdir()
        self._head: dict[str, Any] = {"schema_version": 1, "origin": "live", "emulated": emulated, "command": [HOSTILE]}
        self._head |= {"pid": pid or os.getpid(), "begin_ns": time.time_ns() - 60 * SECOND}
        if rank is not None:
            self._head["rank"] = rank
        self.feed = FeedWriter(folder, [Head(rank or 0, "Test GPU", 8 * GIB)])
        self.device = rank or 0
        self._write_head()

    def _write_head(self) -> None:
        (self.folder / "metadata.json").write_text(json.dumps(self._head))

    def steps(self, first: int, last: int, *, leak_bytes: int = 0) -> None:
        now = time.time_ns() - (last - first) * SECOND
        for step in range(first, last):
            held, at = 2 * GIB + step * leak_bytes, now + (step - first) * SECOND
            phase = (self.device, "backward", step, held + GIB, 5 * GIB, 4 * GIB, -1, -1, GIB, 0, GIB, MIB)
            self.feed.add(Row(at, self.device, SAMPLE, step, held, 5 * GIB, 4 * GIB, 7 * GIB, 6 * GIB))
            self.feed.add(Row(at + 1, *phase))
            self.feed.add(Row(at + 2, self.device, STEP, step, held, 5 * GIB, 4 * GIB))
        self.feed.flush()

    def end(self, origin: str = "live") -> None:
        self.feed.close()
        Report(training()).save(self.folder)
        self._head |= {"end_ns": time.time_ns(), "origin": origin}
        self._write_head()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "run.vram", emulated=True)
    running.steps(0, 3)
    yield running
    running.feed.close()


def seen(
    watched: Watch, *keys: str, size: tuple[int, int] = (80, 24), folder: Path | None = None,
    between: Callable[[], None] | None = None,
) -> str:  # fmt: skip
    """The text of the screen after these keys."""

    async def look() -> str:
        app = LiveApp(watched, folder=folder)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            for key in keys:
                await pilot.press(key)
            if between is not None:
                between()
                await pilot.pause(2.0)
            await pilot.pause()
            assert not keys or keys[-1] != "q" or app._exit
            strips = app.screen._compositor.render_strips()
            return "\n".join(strip.text.rstrip() for strip in strips)

    return asyncio.run(look())


@pytest.mark.parametrize("size", [(80, 24), (140, 45), (46, 16), (30, 8)])
def test_the_figures_of_a_run(run: Running, size: tuple[int, int]) -> None:
    screen = seen(watch([str(run.folder)]), size=size)
    assert screen.startswith(" EMULATED")
    assert "GPU 0" in screen
    if size[0] >= 80:
        assert "2.00 GiB allocated, 5.00 GiB reserved of 8.00 GiB" in screen
        assert "train[bold].py �[31m[/] $x" in screen
        assert "step 2" in screen
        assert "1022 MiB" in screen or "activations, other" in screen
        assert "4.00 GiB allocated" in screen  # the peak
    assert all(len(line) <= size[0] for line in screen.splitlines())


def test_growth_is_told(run: Running) -> None:
    run.steps(3, 40, leak_bytes=16 * MIB)
    screen = seen(watch([str(run.folder)]))
    assert "+16.0 MiB in every step, for certain; full in" in screen


def test_it_is_followed_and_its_end_is_told(run: Running) -> None:
    watched = watch([str(run.folder)])

    def go_on() -> None:
        run.steps(3, 9)
        run.end(origin="oom")

    screen = seen(watched, between=go_on)
    assert "step 8" in screen
    assert "the run ran out of memory; see `vramprof report" in screen
    assert watched.ended
    assert [track.peak_bytes for _, track in watched.lines] == [4 * GIB]


def test_pause_help_window_and_quit(run: Running) -> None:
    watched = watch([str(run.folder)])
    screen = seen(watched, "p", between=lambda: run.steps(3, 9))
    assert "PAUSED" in screen
    assert "step 2" in screen
    assert "quit; the run goes on" in seen(watched, "question_mark")
    assert "allocated" in seen(watched, "question_mark", "x", "w", "w")
    seen(watched, "q")


def test_the_screen_is_saved_with_its_figures(run: Running, tmp_path: Path) -> None:
    out = tmp_path / "saved"
    out.mkdir()
    screen = seen(watch([str(run.folder)]), "s", folder=out)
    assert "saved live-" in screen
    (picture,), (data,) = out.glob("*.svg"), out.glob("*.json")
    assert "EMULATED" in picture.read_text().replace("&#160;", " ")
    assert "url(" not in picture.read_text().replace("url(#", "")  # it asks no network
    told = json.loads(data.read_text())
    assert told["emulated"]
    (device,) = told["devices"]
    assert device["allocated_bytes"] == 2 * GIB
    assert sum(device["by_category_at_the_end_of"]["backward"].values()) == 3 * GIB
    assert "not saved" in seen(watch([str(run.folder)]), "s", folder=tmp_path / "missing")


def test_ranks_are_rows(tmp_path: Path) -> None:
    ranks = [Running(tmp_path / f"job-rank{rank}.vram", rank=rank) for rank in range(11)]
    for rank in ranks:
        rank.steps(0, 2)
    watched = watch([str(tmp_path / "job.vram")])
    screen = seen(watched, *["down"] * 10, size=(100, 30))
    assert [subject.label for subject in watched.subjects] == [f"rank {rank}" for rank in range(11)]
    assert "▶rank 10  GPU 10" in screen
    assert "EMULATED" not in screen
    for rank in ranks:
        rank.feed.close()


def test_without_colours(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = seen(watch([str(run.folder)]))
    assert "█ weights" in screen
    assert "▒ rest" in screen
    assert "NO_COLOR" in os.environ


def test_what_is_being_written_here_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = Running(tmp_path / "done.vram")
    done.end()
    older, newer = Running(tmp_path / "older.vram"), Running(tmp_path / "newer.vram")
    newer.steps(0, 1)
    assert [subject.hint for subject in watch().subjects] == ["vramprof report newer.vram"]
    assert len(watch([str(os.getpid())]).subjects) == 1
    for one in (older, newer):
        one.feed.close()
    with pytest.raises(VramprofError, match="no such recording"):
        watch(["nothing.vram"])
    with pytest.raises(VramprofError, match="no recording"):
        watch([str(tmp_path)])


def test_a_killed_run_is_told_and_a_whole_one_shown(tmp_path: Path) -> None:
    gone = Running(tmp_path / "gone.vram", pid=2**22 + 1)
    gone.steps(0, 2)
    for path in gone.folder.iterdir():
        os.utime(path, (1, 1))
    assert "did not finish its recording" in seen(watch([str(gone.folder)]))
    gone.feed.close()
    whole = Report(training()).save(tmp_path / "whole.vram")
    head = json.loads((whole / "metadata.json").read_text())
    (whole / "metadata.json").write_text(json.dumps({**head, "end_ns": 1}))
    assert "4.00 MiB allocated, 40.0 MiB reserved" in seen(watch([str(whole)]))


def test_plain_lines(run: Running) -> None:
    watched, out = watch([str(run.folder)]), io.StringIO()
    watched.poll()
    run.end()
    follow_plainly(watched, out, interval_s=0.01)
    first, last = out.getvalue().splitlines()[0], out.getvalue().splitlines()[-1]
    assert "EMULATED run GPU 0, step 2, allocated 2.00 GiB (weights 1.00 GiB, gradients 1.00 GiB" in first
    assert last.startswith("see `vramprof report")


def test_where_there_is_no_terminal_it_is_plain(run: Running, capsys: pytest.CaptureFixture[str]) -> None:
    run.end()
    assert main(["live", str(run.folder)]) == 0
    out = capsys.readouterr().out
    assert "EMULATED run GPU 0, allocated 4.00 MiB, reserved 40.0 MiB" in out
    assert "\x1b" not in out


def test_the_history_is_bounded_and_keeps_the_peak() -> None:
    track = Track(Head(0, "", 0))
    for number in range(20_000):
        track.take([Row(number, 0, SAMPLE, 0, 7 if number == 4321 else 5, 9, 7)])
    assert len(track.points) < 4096
    assert max(point.allocated_bytes for point in track.points) == 7


def test_a_process_that_records_nothing_is_seen_by_nvml() -> None:
    told = told_by(
        """
import json, os, torch
from vramprof.live import watch
torch.empty(2**28, device="cuda")
watched = watch([str(os.getpid())])
watched.poll()
(subject, track), = watched.lines
print(json.dumps([subject.label, subject.emulated, track.newest.process_bytes, track.total_bytes, track.name]))
""",
        gpu="t4",
    )
    assert told[0].startswith("process ")
    assert told[1] is True
    assert told[2] > 2**28
    assert told[3] > 14 * GIB
    assert told[4] == "Tesla T4"


def test_looking_changes_nothing(run: Running) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.folder.iterdir()}

    before = state()
    seen(watch([str(run.folder)]), "p", "w")
    assert state() == before


def test_textual_is_loaded_by_the_command_alone() -> None:
    told = told_by(
        "import sys, json; from vramprof import api; import vramprof.cli.live; import vramprof.live;"
        " print(json.dumps([m for m in sys.modules if m.startswith('textual')]))",
        gpu=None,
    )
    assert told == []
