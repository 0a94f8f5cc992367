"""Turns what is known of a run in progress into the panels of the screen, as text and styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vramprof.analyses.progress import NAMED, PHASES, REST, Growth, Subject, Track
from vramprof.recording.feed import UNKNOWN
from vramprof.renderers.live.bands import BANDS, Piece, bands_of, bar, rows_of, skyline
from vramprof.units import format_bytes

EMULATED = "EMULATED: no GPU is used; torch's allocator runs on an emulated device"
_WORDS = {
    "rest": "activations, other", "idle": "idle in torch", "outside": "outside torch", "others": "other processes",
    "process": "this process",
}  # fmt: skip
_AXIS = 10
_LABEL = 14
_SPARKS = "▁▂▃▄▅▆▇█"
_DIM, _BOLD, _WARN = "dim", "bold", "bold yellow"

Line = list[Piece]


class Frame(NamedTuple):
    """How a panel is to be drawn: the room, whether there are colours, and the moment that is now."""

    width: int
    color: bool
    now_ns: int


def title(subject: Subject | None, track: Track | None, frame: Frame, *, is_paused: bool) -> Line:
    """What runs, its step and for how long."""
    if subject is None:
        return [(" vramprof live", _BOLD)]
    right = "  ".join(
        part for part in (_pace(track), elapsed(subject, track, frame.now_ns), "PAUSED" * is_paused) if part
    )
    left = f" {subject.about}"
    room = frame.width - len(right) - 3
    left = left if len(left) <= room else left[: max(room - 1, 0)] + "…"
    return [(left.ljust(room), _BOLD), (f"  {right} ", _WARN if is_paused else "")]


def _pace(track: Track | None) -> str:
    if track is None or track.step < 0:
        return ""
    return f"step {track.step:,}" + (f", {track.steps_per_s:.3g}/s" if track.steps_per_s else "")


def elapsed(subject: Subject, track: Track | None, now_ns: int) -> str:
    """How long it has run, by its own clock once it has ended."""
    if not subject.begin_ns:
        return ""
    end_ns = track.newest.time_ns if subject.ended and track and track.newest else now_ns
    return clock(max(end_ns - subject.begin_ns, 0))


def clock(duration_ns: int) -> str:
    """``42 s``, ``3:07``, ``2:03:07``."""
    seconds = duration_ns // 1_000_000_000
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours}:{minutes:02}:{seconds % 60:02}"
    return f"{minutes}:{seconds % 60:02}" if minutes else f"{seconds} s"


def rows(lines: Sequence[tuple[Subject, Track]], chosen: int, frame: Frame, height: int) -> list[Line]:
    """Each device of each run in one line, so many that the chosen one is among them."""
    first = max(0, min(chosen - height // 2, len(lines) - height))
    shown = list(enumerate(lines))[first : first + height]
    label = max(len(subject.label) for subject, _ in lines)
    top = max((_most(track) for _, track in lines), default=1)
    return [_row(subject, track, label, top, frame, is_chosen=number == chosen) for number, (subject, track) in shown]


def _row(subject: Subject, track: Track, label: int, top: int, frame: Frame, *, is_chosen: bool) -> Line:
    point = track.newest
    assert point is not None
    bands = bands_of(point)
    del bands["others"]
    said = _growth_short(track.growth) or subject.state
    words = f" {format_bytes(point.held_bytes):>9}  peak {_size(_peak(track)):>9}  "
    room = frame.width - label - len(words) - 12
    said_room = min(max(room // 3, 0), 24)
    mark = ("▶" if is_chosen else " ", _BOLD)
    return [
        mark, (f"{subject.label:<{label}}  GPU {track.device:<2} ", _BOLD if is_chosen else ""),
        *bar(bands, top, max(room - said_room, 4), color=frame.color),
        (words, ""), (said[:said_room], _WARN if track.growth or subject.state else ""),
    ]  # fmt: skip


def _most(track: Track) -> int:
    return track.total_bytes or max((sum(bands_of(point).values()) for point in track.points), default=1)


def _peak(track: Track) -> int:
    return track.peak_bytes if track.peak_bytes != UNKNOWN else max(point.held_bytes for point in track.points)


def _size(size_bytes: int) -> str:
    return "?" if size_bytes == UNKNOWN else format_bytes(size_bytes)


def summary(track: Track, frame: Frame) -> list[Line]:
    """The device, how full it is, and what each colour is."""
    point = track.newest
    assert point is not None
    bands = bands_of(point)
    total = f" of {format_bytes(track.total_bytes)}" if track.total_bytes else ""
    if point.allocated_bytes == UNKNOWN:
        figures: Line = [(_size(point.process_bytes), _BOLD), (f" in this process{total}", _DIM)]
    else:
        figures = [(format_bytes(point.allocated_bytes), _BOLD), (" allocated, ", _DIM)]
        figures += [(format_bytes(point.reserved_bytes), _BOLD), (f" reserved{total}", _DIM)]
    name = f" {track.name}  "
    room = frame.width - len(f" GPU {track.device}") - sum(len(text) for text, _ in figures) - 1
    head = [(f" GPU {track.device}", _BOLD), (name if len(name) <= room else "  "[:room], ""), *figures]
    whole = bar(bands, track.total_bytes or sum(bands.values()), frame.width - 2, color=frame.color)
    return [head, [(" ", ""), *whole], *_legend(bands, frame)]


def _legend(bands: dict[str, int], frame: Frame) -> list[Line]:
    lines: list[Line] = []
    room = 0
    for name, size in bands.items():
        word = _WORDS.get(name, name) if frame.width >= 100 else name
        text = f" {word} {format_bytes(size)}  "
        if size:
            if room < len(text) + 1:
                lines.append([(" ", "")])
                room = frame.width - 1
            lines[-1] += [_swatch(name, frame), (text, "")]
            room -= len(text) + 1
    return lines


def _swatch(name: str, frame: Frame) -> Piece:
    return ("■", BANDS[name].color) if frame.color else (BANDS[name].ink, "")


def timeline(subject: Subject, track: Track, frame: Frame, height: int, *, window_ns: int | None) -> list[Line]:
    """Memory over time: the whole run, or the last so many nanoseconds of it.

    Columns keep their moments for as long as they can, so that the picture grows at its end alone.
    """
    width, rows_count = max(frame.width - _AXIS - 1, 8), max(height - 1, 1)
    first_ns, last_ns = track.points[0].time_ns, track.points[-1].time_ns
    end_ns = last_ns if subject.ended else max(frame.now_ns, last_ns)
    span_ns = min(window_ns or end_ns, end_ns - first_ns)
    column_ns = _column_ns(span_ns, width)
    last = -(-(end_ns - first_ns) // column_ns)
    first = max(last - width, 0)
    columns = list(skyline(track, first_ns + first * column_ns, column_ns, last - first))
    top = max(max(sum(column.values()) for column in columns), 1)
    lines = [[("", ""), *pieces] for pieces in rows_of(columns, top, rows_count, color=frame.color)]
    for row, line in enumerate(lines):
        at = top * (rows_count - row) // rows_count
        is_labelled = row in (0, rows_count // 2) and (rows_count > 2 or row == 0)
        line[0] = (f"{format_bytes(at) if is_labelled else '':>{_AXIS - 1}} ", _DIM)
    left, right = clock(first * column_ns), clock(end_ns - first_ns) if subject.ended else "now"
    return [*lines, [(" " * _AXIS + left + right.rjust(max(len(columns) - len(left), 0)), _DIM)]]


def _column_ns(span_ns: int, width: int) -> int:
    """Time by column: of a series that grows by a tenth, the least with which the span has room."""
    column_ns = 1_000_000.0
    while column_ns * width < span_ns:
        column_ns *= 1.1
    return int(column_ns) + 1


def phases(track: Track, frame: Frame) -> list[Line]:
    """What the program held by name at the end of each phase, the newest of each."""
    there = [phase for phase in PHASES if phase in track.phases]
    if not there:
        return []
    names = [name for name in (*NAMED, REST) if any(track.phases[phase][name] for phase in there)]
    width = 11 if frame.width >= 56 else 10
    head = [(f" {'at the end of':<20}" + "".join(f"{phase:>{width}}" for phase in there), _DIM)]
    lines: list[Line] = [head]
    for name in names:
        figures = "".join(f"{format_bytes(track.phases[phase][name]):>{width}}" for phase in there)
        lines.append([(" ", ""), _swatch(name, frame), (f" {_WORDS.get(name, name):<18}{figures}", "")])
    sums = "".join(f"{format_bytes(sum(track.phases[phase].values())):>{width}}" for phase in there)
    return [*lines, [(f"   {'allocated':<18}{sums}", _BOLD)]]


def facts(track: Track, frame: Frame) -> list[Line]:
    """The peak, growth, and who else is on the device."""
    point = track.newest
    assert point is not None
    if point.allocated_bytes == UNKNOWN:
        hint = "NVML tells what a process has, not what for: `vramprof run` tells more"
        return [_fact("most seen", (_size(_peak(track)), _BOLD)), [(f" {hint}", _DIM)]]
    peak: Line = [(_size(track.peak_bytes), _BOLD), (" allocated, ", _DIM)]
    lines = [_fact("peak", *peak, (_size(track.peak_reserved_bytes), _BOLD), (" reserved", _DIM))]
    lines.append(_fact("growth", *_growth(track)))
    if len(track.levels_bytes) > 1:
        lines.append(_fact("ends of steps", *_levels(track.levels_bytes, frame.width - _LABEL - 24)))
    return lines


def _fact(label: str, *pieces: Piece) -> Line:
    return [(f" {label:<{_LABEL}}", _DIM), *pieces]


def _levels(levels: Sequence[int], width: int) -> Line:
    """What was left at the ends of steps, as one row between the least and the most."""
    least, most = min(levels), max(levels)
    width = max(min(width, len(levels)), 1)
    pieces = [levels[len(levels) * at // width : max(len(levels) * (at + 1) // width, 1)] for at in range(width)]
    heights = (max(piece) - least for piece in pieces)
    text = "".join(_SPARKS[height * (len(_SPARKS) - 1) // max(most - least, 1)] for height in heights)
    ends = format_bytes(least) if least == most else f"{format_bytes(least)} to {format_bytes(most)}"
    return [(text, ""), (f"  {ends}", _DIM)]


def _growth(track: Track) -> Line:
    if track.step < 0:
        return [("no steps were seen: the report finds them", "")]
    if track.growth is None:
        return [("none that is certain", "")]
    line: Line = [(f"+{format_bytes(int(track.growth.each_step_bytes))} in every step, for certain", _WARN)]
    if track.growth.steps_left is not None:
        rate = track.steps_per_s
        left = f", {_soon(track.growth.steps_left / rate)}" if rate else ""
        line.append((f"; full in {track.growth.steps_left:,} steps{left}", ""))
    return line


def _soon(seconds: float) -> str:
    for unit_s, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _growth_short(growth: Growth | None) -> str:
    return "" if growth is None else f"+{format_bytes(int(growth.each_step_bytes))}/step"
