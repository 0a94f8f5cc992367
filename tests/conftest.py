"""Where the strangers' data are, and the proof that no test leaves anything of ours behind."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("VRAMPROF_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture(scope="session")
def strangers_snapshots() -> Path:
    folder = SHARED / "snapshots"
    if not (folder / "index.csv").is_file():
        pytest.skip("the strangers' snapshots are not part of the project and not beside it")
    return folder


@pytest.fixture(scope="session")
def strangers_data() -> Path:
    if not (SHARED / "oom" / "oom_messages.txt").is_file():
        pytest.skip("the strangers' error texts and traces are not part of the project and not beside it")
    return SHARED


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After every test no thread of ours runs and torch was not imported into the test process by us."""
    had_torch = "torch" in sys.modules
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("vramprof")]
    assert had_torch or "torch" not in sys.modules
