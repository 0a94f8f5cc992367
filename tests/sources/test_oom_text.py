from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from vramprof.recording import Frame
from vramprof.sources import oom_text
from vramprof.sources.oom_text import OomText, find_ooms

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
NEW = (
    "CUDA out of memory. Tried to allocate 768.00 MiB. GPU 2 has a total capacity of 83.05 GiB of which 140.38 MiB is"
    " free. Process 77 has 9.00 GiB memory in use. Including non-PyTorch memory, this process has 23.33 GiB memory in"
    " use. 30.00 GiB allowed; Of the allocated memory 21.92 GiB is allocated by PyTorch, with 104.00 MiB allocated in"
    " private pools (e.g., CUDA Graphs), and 797.79 MiB is reserved by PyTorch but unallocated. If reserved but"
    " unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
    "  See documentation for Memory Management"
    "  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
)


def ooms(text: str) -> list[OomText]:
    return list(find_ooms(io.BytesIO(text.encode())))


def only(text: str) -> OomText:
    (found,) = ooms(text)
    return found


def gib(figure: float) -> int:
    return round(figure * GIB)


def test_every_figure_of_the_newest_text() -> None:
    oom = only(NEW)
    assert (oom.kind, oom.backend, oom.device) == ("allocator", "CUDA", 2)
    assert oom.tried_bytes == 768 * MIB
    assert oom.capacity_bytes == gib(83.05)
    assert oom.free_bytes == round(140.38 * MIB)
    assert oom.process_bytes == gib(23.33)
    assert oom.other_processes == ((77, 9 * GIB),)
    assert oom.allowed_bytes == 30 * GIB
    assert oom.allocated_bytes == gib(21.92)
    assert oom.private_pool_bytes == 104 * MIB
    assert oom.unallocated_bytes == round(797.79 * MIB)
    assert oom.torch == "2.2 or newer"


def test_text_behind_the_error_is_not_part_of_it() -> None:
    newest = NEW.replace("environment-variables", "optimizing-memory-usage-with-pytorch-cuda-alloc-conf")
    for text in (NEW, newest):
        oom = only(text + "\nProcess 99 has 1.00 GiB memory in use, and GPU 7 is fine\n")
        assert (oom.device, oom.other_processes) == (2, ((77, 9 * GIB),))


def test_reserved_includes_what_is_allocated_in_the_oldest_and_in_the_old_text() -> None:
    head = "CUDA out of memory. Tried to allocate 8.13 GiB (GPU 0; 10.76 GiB total capacity; 643.57 MiB already"
    head += " allocated; "
    oldest, old = (
        only(head + "8.20 GiB free; 32.43 MiB cached)"),
        only(head + "0 bytes free; 1.50 GiB reserved in total"),
    )
    assert oldest.reserved_bytes == round(643.57 * MIB) + round(32.43 * MIB)
    assert oldest.free_bytes == gib(8.20)
    assert (old.free_bytes, old.reserved_bytes) == (0, None)
    assert only(head + "0 bytes free; 1.50 GiB reserved in total by PyTorch)").reserved_bytes == gib(1.5)


def test_in_a_container_the_own_process_is_the_one_that_can_hold_what_torch_has() -> None:
    text = NEW.replace("Including non-PyTorch memory, this process", "Process 5")
    assert only(text).own_process == (gib(23.33), False)
    assert only(text).other_processes == ((77, 9 * GIB),)


TRACE = """\
Traceback (most recent call last):
  File "/home/me/train.py", line 40, in <module>
    main()
  File "/home/me/train.py", line 31, in main
    y = model(x)
torch.OutOfMemoryError: """
FRAMES = (Frame("/home/me/train.py", 31, "main"), Frame("/home/me/train.py", 40, "<module>"))


def test_ranks_colours_and_frames_of_torchrun() -> None:
    lines = "\n".join(f"\x1b[31m[rank3]:\x1b[0m {line}" for line in (TRACE + NEW).splitlines())
    oom = only("starting\n" + lines + "\n")
    assert (oom.rank, oom.frames, oom.line) == (3, FRAMES, 7)


def test_several_ranks_and_repetitions_in_one_log() -> None:
    one = "\n".join(f"[rank1]: {line}" for line in (TRACE + NEW).splitlines())
    other = one.replace("rank1", "rank0").replace("768.00", "2.00")
    found = ooms(f"{one}\n{other}\n{other}\nsome text\n{one}\n")
    assert [(oom.rank, oom.count) for oom in found] == [(1, 1), (0, 2), (1, 1)]
    assert [oom.line for oom in found] == [6, 12, 25]


def test_a_notebook_with_escaped_colours() -> None:
    source = ["\x1b[0;31mOutOfMemoryError\x1b[0m   Traceback (most recent call last)", "Cell In[7], line 3", NEW]
    cell = {"cells": [{"outputs": [{"traceback": [], "text": [line + "\n" for line in source]}]}]}
    oom = only(json.dumps(cell, indent=1))
    assert oom.tried_bytes == 768 * MIB
    assert oom.frames == (Frame("In[7]", 3, "<module>"),)


def test_a_lightning_box() -> None:
    box = "╭──── Traceback (most recent call last) ────╮\n│ /w/train.py:12 in fit                    │\n╰────╯\n"
    assert only(box + "OutOfMemoryError: " + NEW).frames == (Frame("/w/train.py", 12, "fit"),)


@pytest.mark.parametrize(
    ("text", "kind", "backend", "tried"),
    [
        ("RuntimeError: CUDA error: out of memory\nCUDA kernel errors might", "driver", "CUDA", None),
        ("RuntimeError: HIP error: out of memory", "driver", "HIP", None),
        ("XPU out of memory. Tried to allocate 2.00 GiB. GPU 0", "allocator", "XPU", 2 * GIB),
        (
            "RuntimeError: MPS backend out of memory (MPS allocated: 8.33 GiB, other allocations: 5.23 GiB, max"
            " allowed: 13.57 GiB). Tried to allocate 256.00 MiB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK",
            "allocator", "MPS", 256 * MIB,
        ),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error", "host", "CPU", 4096),
        (
            "Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated     : 1.00 GiB\n"
            "Requested               : 5.00 GiB\nDevice limit            : 23.99 GiB", "async", "CUDA", 5 * GIB,
        ),
        ("Allocation was preemptively rejected because it would exceed per_process_memory_fraction limit."
         " Requested size: 20.00 MiB", "rejected", "CUDA", 20 * MIB),
    ],
)  # fmt: skip
def test_errors_of_others(text: str, kind: str, backend: str, tried: int | None) -> None:
    oom = only(text)
    assert (oom.kind, oom.backend, oom.tried_bytes) == (kind, backend, tried)


@pytest.mark.parametrize("text", ["", "all is well\n", "we Tried to allocate time", "memory of things out of memory"])
def test_nothing_is_found_in_what_is_none(text: str) -> None:
    assert ooms(text) == []


@pytest.mark.parametrize("chunk_bytes", [10_000, 100_003])
def test_windows_of_any_size_find_the_same(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join("step\n" * 5_000 + TRACE + NEW.replace("768", str(100 + turn)) + "\n" for turn in range(9))
    whole = ooms(text)
    monkeypatch.setattr(oom_text, "CHUNK_BYTES", chunk_bytes)
    assert ooms(text) == whole
    assert len(whole) == 9
    assert all(oom.frames == FRAMES for oom in whole)
    lines = text.splitlines()
    assert all("Tried to allocate" in lines[oom.line - 1] for oom in whole)


_SIZE = re.compile(r"([0-9.]+) (bytes|KiB|MiB|GiB)\b")
_OLD = ("tried_bytes", "capacity_bytes", "allocated_bytes", "free_bytes", "allowed_bytes", "reserved_bytes")


def _printed_in_order(text: str) -> dict[str, int]:
    """What each figure must be, by its place in the text rather than by the words around it."""
    units = {"bytes": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
    sizes = [round(float(number) * units[unit]) for number, unit in _SIZE.findall(text)]
    if "total capacity;" in text:
        names = [name for name in _OLD if name != "allowed_bytes" or " allowed;" in text]
        return dict(zip(names, sizes, strict=True))
    names = ["tried_bytes", "capacity_bytes", "free_bytes"]
    names += ["process"] * (text.count("memory in use"))
    names += ["allowed_bytes"] * text.count(" allowed;") + ["allocated_bytes"] * ("Of the allocated" in text)
    names += ["private_pool_bytes"] * ("private pools" in text) + ["unallocated_bytes"] * ("Of the allocated" in text)
    return dict(zip(names, sizes, strict=len(sizes) > 3))


def test_every_strangers_text(strangers_data: Path) -> None:
    records = (strangers_data / "oom" / "oom_messages.txt").read_text().split("\n## ")[1:]
    assert len(records) == 67
    driver = 0
    for record in records:
        body = record.partition("\n")[2]
        oom = only(body)
        if oom.kind in ("driver", "async"):
            driver += 1
            continue
        text = " ".join(body.split())
        expected = _printed_in_order(text)
        processes = sorted(size for _, size in oom.processes) + [oom.process_bytes] * (oom.process_bytes is not None)
        assert len(processes) == text.count("memory in use"), body
        if expected.pop("process", None) is not None:
            assert not expected.get("reserved_bytes")
        if " cached)" in text:
            expected["reserved_bytes"] += expected["allocated_bytes"]
        for name, value in expected.items():
            assert getattr(oom, name) == value, (name, body)
        assert oom.backend == ("HIP" if "HIP out" in text else "CUDA")
    assert driver == 3
