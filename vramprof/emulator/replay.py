"""Replays a tape through torch's own caching allocator on an emulated device, in a child process per setting."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vramprof.emulator.loader import ENVIRONMENT_VARIABLE
from vramprof.emulator.tape import Outcome, Setting, Tape
from vramprof.errors import EmulatorError

_NOT_INHERITED = (
    "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING",
    ENVIRONMENT_VARIABLE,
)  # fmt: skip
_START = "import sys; sys.path[:] = filter(None, sys.path); from vramprof.emulator.replay_child import main; main()"


def replay(
    tape: Tape, settings: Sequence[Setting], *, detail: int = 0, jobs: int = 2, timeout_s: float = 600
) -> list[Outcome]:
    """What torch's allocator does with the tape under each setting, in their order.

    One child imports torch and forks once per setting, `jobs` at a time. The outcomes of the first `detail` settings
    hold every segment event, and the first state as the allocator had it.

    Raises:
        EmulatorError: the emulated device cannot be had here, or the child failed as a whole.
    """
    with tempfile.TemporaryDirectory(prefix="vramprof-replay-") as folder:
        task = Path(folder) / "task.pickle"
        task.write_bytes(pickle.dumps((tape, tuple(settings), detail, jobs)))
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        environment["PYTHONPATH"] = _python_path()
        try:
            child = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", _START, str(task)],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, errors="replace",
                timeout=timeout_s, env=environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise EmulatorError(f"the replay took longer than {timeout_s:g} s") from None
        if child.returncode:
            lines = [line for line in child.stderr.splitlines() if line.strip()]
            raise EmulatorError(f"the replay failed: {lines[-1] if lines else f'exit code {child.returncode}'}")
        return [_read(Path(folder) / f"{index}.json") for index in range(len(settings))]


def _python_path() -> str:
    own = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(dict.fromkeys([*filter(None, sys.path), own]))


def _read(path: Path) -> Outcome:
    try:
        plain = json.loads(path.read_text())
    except (OSError, ValueError):
        return Outcome(error="the replay's process was killed")
    for name in ("segment_events", "first_state"):
        plain[name] = tuple(map(tuple, plain[name]))
    return Outcome(**plain)


def write_outcome(path: Path, outcome: Outcome) -> None:
    """The child's side of `replay`."""
    path.write_text(json.dumps(asdict(outcome)))
