"""Turns the end of a log into plain text and the call stack that a traceback in it shows, whoever printed it."""

from __future__ import annotations

import re

from vramprof.recording import Frame

_ANSI = re.compile(r"(?:\x1b|\\u001b|\\x1b|\^\[)\[[0-9;]*[A-Za-z]")
_NOTEBOOK = re.compile(r'^\s*"(.*?)(?:\\n)?",?\s*$', re.MULTILINE)
_PREFIX = re.compile(
    r"^(?:\[(?:rank|default)\d+\]:?|\[\d+,\d+\]<std\w+>:?|\(\w+ pid=\d+[^)]*\)|\d+: "
    r"|E\d{4} [\d:. ]+\d+ [\w/.]+:\d+\]) ?",
    re.MULTILINE,
)
_BOX = re.compile(r"^\s*[│|] ?|\s*[│|]\s*$", re.MULTILINE)

_PLAIN = re.compile(r'^\s*File "([^"\n]+)", line (\d+), in (\S+)', re.MULTILINE)
_RICH = re.compile(r"^\s*[│|]?\s*(\S[^\n:│]*\.py):(\d+) in (\S+)", re.MULTILINE)
_JUPYTER = re.compile(
    r"^(?:File (\S+):(\d+), in ([\w.<>]+)|(?:Cell|Input) (In ?\[\d+\]), line (\d+)"
    r"|(\S+\.py|<ipython-input-\S+>) in ([\w.<>]+))",
    re.MULTILINE,
)
_ARROW = re.compile(r"^-+> ?(\d+) ", re.MULTILINE)
_BEGIN = re.compile(r"Traceback \(most recent call last\)")


def plain_text(raw: bytes, *, keep_prefixes: bool = False) -> str:
    """A piece of a log without colours, a notebook's quoting or, unless kept, what launchers put before each line."""
    text = _ANSI.sub("", raw.decode("utf-8", errors="replace")).replace("\r\n", "\n")
    if '\\n"' in text:
        text = _NOTEBOOK.sub(r"\1", text).replace('\\"', '"')
    return text if keep_prefixes else _PREFIX.sub("", text)


def find_frames(text: str) -> tuple[Frame, ...]:
    """The frames of the last traceback of a text that ends where its error is named, innermost first."""
    begins = [match.start() for match in _BEGIN.finditer(text)]
    if not begins:
        return ()
    trace = text[begins[-1] :]
    for pattern in (_PLAIN, _RICH):
        frames = [Frame(match[1], int(match[2]), match[3]) for match in pattern.finditer(trace)]
        if frames:
            return tuple(reversed(frames))
    return tuple(reversed(_notebook_frames(trace)))


def _notebook_frames(trace: str) -> list[Frame]:
    matches = list(_JUPYTER.finditer(trace))
    frames = []
    for match, following in zip(matches, [*matches[1:], None], strict=True):
        body = trace[match.end() : following.start() if following else len(trace)]
        arrow = _ARROW.search(body)
        file, line, name, cell, cell_line, older, older_name = match.groups()
        number = line or cell_line or (arrow[1] if arrow else 0)
        frames.append(Frame(file or cell or older, int(number), name or older_name or "<module>"))
    return frames
