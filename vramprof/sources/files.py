"""Turns a path, whatever kind of recording is behind it, into a Recording."""

from __future__ import annotations

from pathlib import Path

from vramprof.errors import RecordingError
from vramprof.recording import Recording, load_folder, open_folder
from vramprof.sources.kineto import load_kineto, looks_like_json
from vramprof.sources.snapshot import load_snapshot


def load_file(path: str | Path) -> Recording:
    """Read a `.vram` folder, a torch snapshot pickle or a trace of torch.profiler with memory events.

    Raises:
        RecordingError: there is no such file, or it is none of them.
    """
    path = Path(path)
    if not path.exists():
        raise RecordingError(f"{path}: no such file or folder")
    if path.is_dir():
        if not open_folder(path):
            raise RecordingError(f"{path}: not a recording (no metadata.json in this folder)")
        return load_folder(path)
    return load_kineto(path) if looks_like_json(path) else load_snapshot(path)
