"""Turns a case and its program into dry runs: the changes that a case proposes, each proven or refuted on an emulated
device, in child processes. What the user's files say stays as it is."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from vramprof.errors import RecordingError, VramprofError
from vramprof.findings.diagnosis import HARDWARE_RISK, OomCase, Rerun, device_case
from vramprof.findings.facts import gather_facts
from vramprof.prediction.catalog import find_device, find_gpu, gpu_names
from vramprof.prediction.dry_run import dry_run
from vramprof.recording import Recording

AS_IT_WAS = "as it was"
_CONF = "PYTORCH_CUDA_ALLOC_CONF"
_MOST_SETTINGS = 2
_MOST_REFINEMENTS = 4
_WRAPPED = ("checkpointing",)
_NUMBERED = ("batch", "sequence")


@dataclass(frozen=True)
class Program:
    """What to run: a script or module with its arguments, on a card of the catalog, with these variables set."""

    command: tuple[str, ...]
    gpu: str
    environment: Mapping[str, str] = field(default_factory=dict)
    checkpointed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Change:
    """A program to try under the name of what it proves; `refine` names the lever that tells the next `number`."""

    name: str
    line: str
    program: Program
    refine: str = ""
    number: tuple[str, int] = ("", 0)


def find_program(recording: Recording | None, *, command: Sequence[str] = (), gpu: str = "") -> Program:
    """The program that made a recording, or the one named instead, on the recording's card or the one named.

    Raises:
        RecordingError: the recording does not tell its command or its card, or the script is not here.
        UnknownGpuError: no such card.
    """
    metadata: Mapping[str, object] = {} if recording is None else recording.metadata
    known = metadata.get("command")
    command = tuple(command or (map(str, known) if isinstance(known, list) else ()))
    if not command:
        raise RecordingError("what to run is not recorded: name it after --, as in `--try -- train.py --batch 8`")
    if int(str(metadata.get("world_size") or 1)) > 1:
        raise RecordingError("a rank of a larger job cannot be run again by itself")
    if not Path(command[0]).is_file() and not re.fullmatch(r"[A-Za-z_][\w.]*(?<!\.py)", command[0]):
        raise RecordingError(f"{command[0]} is not here: go to its folder, or name the program after --")
    gpu = gpu or (_card_of(recording) if recording is not None else "")
    if not gpu:
        raise RecordingError("the card is not known: name one with --emulate GPU")
    find_device(gpu)
    settings = metadata.get("allocator_settings")
    conf = str(settings.get(_CONF) or "") if isinstance(settings, Mapping) else ""
    return Program(command, gpu, {_CONF: conf})


def try_changes(
    case: OomCase, program: Program, wanted: Sequence[str] = (), *, jobs: int | None = None, timeout_s: float = 300
) -> OomCase:
    """The case with dry runs of its program: as it was, and with each change that may help or that is wanted.

    `wanted` are NAME=VALUE: an argument of the command, a variable of the environment in capitals, or gpu=NAME. With
    none, the allocator settings that a replay found, checkpointing, and the batch or sequence are tried; these are
    lowered as long as a run tells how.

    Raises:
        RecordingError: the command has no such argument, or there is no way to read a change.
    """
    changes = [_wanted(text, program) for text in wanted] or list(_proposed(case, program))
    first = _Change(AS_IT_WAS, " ".join(program.command), program)
    with ThreadPoolExecutor(jobs or min(os.cpu_count() or 1, 4)) as pool:
        runs = list(pool.map(lambda change: _refined(change, timeout_s), [first, *changes]))
    return replace(case, reruns=tuple(runs))


def _proposed(case: OomCase, program: Program) -> Iterator[_Change]:
    settings = [t.setting.conf for t in case.trials if t.outcome.fits and t.risk < HARDWARE_RISK and t.setting.conf]
    if not case.trials:
        settings = ["expandable_segments:True"]
    for conf in settings[:_MOST_SETTINGS]:
        changed = replace(program, environment={**program.environment, _CONF: conf})
        yield _Change(conf, f"export {_CONF}={conf}", changed)
    for lever in case.levers:
        if lever.fits is False:
            continue
        if lever.name in _WRAPPED:
            yield _Change(lever.name, lever.action, replace(program, checkpointed=lever.modules))
        elif lever.argument is not None and lever.name in _NUMBERED:
            name, value = lever.argument
            changed = replace(program, command=with_argument(program.command, name, str(value)))
            yield _Change(lever.name, f"{name} {value}", changed, refine=lever.name, number=lever.argument)


def _wanted(text: str, program: Program) -> _Change:
    name, equals, value = text.partition("=")
    if not equals:
        raise RecordingError(f"--try {text}: write it like batch=8, gpu=l40s or {_CONF}=...")
    if name == "gpu":
        find_device(value)
        return _Change(text, f"on {value}", replace(program, gpu=value))
    if name.isupper():
        return _Change(text, f"export {text}", replace(program, environment={**program.environment, name: value}))
    return _Change(text, f"{name} {value}", replace(program, command=with_argument(program.command, name, value)))


def with_argument(command: Sequence[str], name: str, value: str) -> tuple[str, ...]:
    """The command with another value of one argument: `--batch 8`, `--batch=8` or `batch=8`.

    Raises:
        RecordingError: it has no such argument.
    """
    words = list(command)
    for index, word in enumerate(words[1:], 1):
        key, equals, _ = word.partition("=")
        if _plain(key) != _plain(name):
            continue
        if equals:
            words[index] = f"{key}={value}"
            return tuple(words)
        if key.startswith("-") and index + 1 < len(words):
            words[index + 1] = value
            return tuple(words)
    raise RecordingError(f"the command has no argument {name}: {' '.join(command)}")


def _plain(name: str) -> str:
    return name.lstrip("-").replace("_", "-").lower()


def _refined(change: _Change, timeout_s: float) -> Rerun:
    """The run of a change; a number that is still too large is lowered to what the run itself says may fit."""
    rerun, recording = _run(change, timeout_s)
    most = change.number[1] * 7 // 8
    for _ in range(_MOST_REFINEMENTS if change.refine else 0):
        if rerun.fits or recording is None:
            break
        facts = gather_facts(recording)
        levers = [lever for device in facts.devices for lever in device_case(facts, device, ()).levers]
        lower = [lever.argument for lever in levers if lever.name == change.refine and lever.argument is not None]
        name, value = lower[0] if lower else (change.number[0], most)
        value = min(value, most)
        if value < 1:
            break
        most = value * 7 // 8  # what fails by a little would be lowered by a little, again and again
        command = with_argument(change.program.command, name, str(value))
        change = replace(change, line=f"{name} {value}", program=replace(change.program, command=command))
        rerun, recording = _run(change, timeout_s)
    return rerun


def _run(change: _Change, timeout_s: float) -> tuple[Rerun, Recording | None]:
    program = change.program
    with tempfile.TemporaryDirectory(prefix="vramprof-try-") as folder:
        script, *arguments = program.command
        is_module = not Path(script).is_file()
        if program.checkpointed:
            paths = Path(folder) / "paths.json"
            paths.write_text(json.dumps(program.checkpointed))
            script, arguments, is_module = "vramprof.prediction.checkpointed", [str(paths), *program.command], True
        try:
            recording = dry_run(
                script, arguments, gpu=program.gpu, timeout_s=timeout_s, is_module=is_module,
                environment=program.environment,
            )  # fmt: skip
        except VramprofError as error:
            return Rerun(change.name, change.line, program.gpu, error=str(error)), None
    device, _ = find_device(program.gpu)
    peak = 0 if recording.devices.empty else int(recording.devices["peak_reserved_bytes"].max())
    fits = recording.origin != "oom"
    margin = device.total_bytes - device.context_bytes - peak if fits else None
    return Rerun(change.name, change.line, program.gpu, fits, peak, margin), recording


def _card_of(recording: Recording) -> str:
    """The card of the catalog that a recording's device is, with its memory, less what other processes held."""
    if recording.devices.empty:
        return ""
    name, total = str(recording.devices["name"].iloc[-1]), int(recording.devices["total_bytes"].iloc[-1])
    cards = {key: find_gpu(key) for key in gpu_names()}
    same = [key for key, card in cards.items() if card.name == name]
    if not same or not total:
        return ""
    near = min(same, key=lambda key: abs(cards[key].total - total))
    return near if cards[near].total == total else f"{near}:memory={total >> 20}MiB"
