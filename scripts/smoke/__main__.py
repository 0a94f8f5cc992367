"""Run one program in this process and print what came of it as one line of JSON.

Its exit code is 0 when the program ran, 1 when it failed, and 3 when a package that it needs is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import pickle
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from smoke.registry import Peaks, Program, programs

HISTORY_EVENTS = 1_000_000


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m smoke", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?", help="the program; without it they are listed")
    parser.add_argument("--gpu", metavar="GPU", help="emulate this card (default: the program's own choice)")
    parser.add_argument("--real", action="store_true", help="emulate nothing: run on this machine's own card")
    parser.add_argument("--json", metavar="F", type=Path, help="write the result there instead of printing it")
    parser.add_argument("--history", metavar="F", type=Path, help="pickle torch's memory snapshot, with all events")
    return parser.parse_args()


def emulate(program: Program, gpu: str | None) -> None:
    from vramprof import emulator
    from vramprof.prediction.catalog import find_device

    spec, count = find_device(gpu or program.gpu)
    emulator.start(spec, count=max(count, program.devices))


def host_peak_bytes() -> int:
    """The largest resident set that this process had: VmHWM, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def process_bytes() -> int | None:
    """What NVML says that this process has on all cards; None where it can't tell, as in a container."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        cards = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        listed = [process for card in cards for process in pynvml.nvmlDeviceGetComputeRunningProcesses(card)]
    except pynvml.NVMLError:
        return None
    return sum(process.usedGpuMemory or 0 for process in listed if process.pid == os.getpid()) or None


def device_peaks() -> Peaks:
    """Of the fullest device of this process."""
    import torch

    stats = [torch.cuda.memory_stats(device) for device in range(torch.cuda.device_count())]
    return Peaks(
        allocated_bytes=max(each.get("allocated_bytes.all.peak", 0) for each in stats),
        reserved_bytes=max(each.get("reserved_bytes.all.peak", 0) for each in stats),
    )


def listening(guesses: list[tuple[int, int]]) -> contextlib.AbstractContextManager[None]:
    """Notes each read of a value that no kernel computed and that the program may have acted on."""
    from vramprof.emulator import listen_to_guesses

    return listen_to_guesses(lambda device, size_bytes: guesses.append((device, size_bytes)))


def estimates() -> dict[str, int]:
    """Functions of NVIDIA's libraries whose sizes were estimated, and how often."""
    from vramprof.emulator import count_estimates

    return dict(count_estimates())


def run(program: Program, history: Path | None, *, emulated: bool) -> dict[str, Any]:
    """Garbage is collected between the steps and never within one, so that every run frees at the same places."""
    import torch

    about = {"torch": torch.__version__, "device": torch.cuda.get_device_name()}
    guesses: list[tuple[int, int]] = []
    if history:
        torch.cuda.memory._record_memory_history(context=None, max_entries=HISTORY_EVENTS)
    gc.disable()
    step_seconds, elsewhere = [], []
    with listening(guesses) if emulated else contextlib.nullcontext():
        begin = time.perf_counter()
        for peaks in program.body():
            step_seconds.append(time.perf_counter() - begin)
            elsewhere.append(peaks)
            gc.collect()
            begin = time.perf_counter()
    told = [device_peaks(), *filter(None, elsewhere)]
    free, total = torch.cuda.mem_get_info()
    if history:
        with history.open("wb") as file:
            pickle.dump(torch.cuda.memory._snapshot(), file)
    return {
        **about,
        "outcome": "ran",
        "peak_allocated_bytes": max(peaks.allocated_bytes for peaks in told),
        "peak_reserved_bytes": max(peaks.reserved_bytes for peaks in told),
        "device_used_bytes": total - free,
        "process_bytes": process_bytes(),
        "guessed_reads": len(guesses),
        "estimated_sizes": estimates() if emulated else {},
        "step_seconds": [round(seconds, 4) for seconds in step_seconds],
    }


def result_of(arguments: argparse.Namespace) -> dict[str, Any]:
    program = programs()[arguments.name]
    result: dict[str, Any] = {"name": program.name, "subject": program.subject, "emulated": not arguments.real}
    if missing := program.missing():
        return {**result, "outcome": "not installed", "reason": ", ".join(missing)}
    os.environ.update(program.environment)
    begin = time.perf_counter()
    try:
        if not arguments.real:
            emulate(program, arguments.gpu)
        result |= run(program, arguments.history, emulated=not arguments.real)
    except Exception as error:
        traceback.print_exc()
        first_line = next(iter(str(error).strip().splitlines()), "")
        result |= {"outcome": "failed", "reason": f"{type(error).__name__}: {first_line}"}
    return {**result, "seconds": round(time.perf_counter() - begin, 2), "host_peak_bytes": host_peak_bytes()}


def main() -> int:
    arguments = parse()
    if arguments.name is None:
        print(*programs(), sep="\n")
        return 0
    if arguments.name not in programs():
        print(f"no program {arguments.name}; run without a name for the list", file=sys.stderr)
        return 2
    result = result_of(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(result))
    else:
        print(json.dumps(result))
    return {"ran": 0, "not installed": 3}.get(result["outcome"], 1)


if __name__ == "__main__":
    sys.exit(main())
