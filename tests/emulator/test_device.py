from __future__ import annotations

from pathlib import Path

import pytest

from programs import need_emulator, run_program, told_by
from vramprof import emulator
from vramprof.emulator import loader
from vramprof.errors import EmulatorError, TorchAlreadyImportedError, UnknownSymbolError, UnsupportedPlatformError

GIB = 1024**3


@pytest.mark.parametrize("settings", ["", "expandable_segments:True"])
def test_reserved_is_what_the_driver_gave(settings: str) -> None:
    told = told_by(
        """
import json, os, pynvml, torch
kept = [torch.empty(n << 20, dtype=torch.uint8, device="cuda") for n in (1, 3, 30, 300)]
free, total = torch.cuda.mem_get_info()
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
mine = [p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
used = pynvml.nvmlDeviceGetMemoryInfo(handle).used
maps = [s["is_expandable"] for s in torch.cuda.memory_snapshot()]
print(json.dumps([total, total - free, used, mine, torch.cuda.memory_reserved(), all(maps), any(maps)]))
""",
        environment={"PYTORCH_CUDA_ALLOC_CONF": settings},
    )
    total, taken, used, mine, reserved, all_expandable, any_expandable = told
    assert 78 * GIB < total < 80 * GIB
    assert mine == [taken] == [used]
    context = taken - reserved
    assert 200 << 20 < context < GIB
    assert all_expandable == any_expandable == bool(settings)


def test_total_memory_is_never_exceeded() -> None:
    told = told_by(
        """
import json, torch
sizes, kept = [], []
for round_ in range(2):
    kept.clear()
    torch.cuda.empty_cache()
    try:
        while True:
            kept.append(torch.empty(64 << 20, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError as error:
        sizes.append(len(kept))
        text = str(error)
free, total = torch.cuda.mem_get_info()
print(json.dumps([sizes, free, total, text]))
""",
        gpu="t4:memory=2GiB",
    )
    sizes, free, total, text = told
    assert total == 2 * GIB
    assert 0 <= free < 64 << 20
    assert sizes[0] == sizes[1] > 10
    assert "Tried to allocate 64.00 MiB. GPU 0 has a total capacity of 2.00 GiB" in text


def test_torch_imported_too_early_is_one_clear_error() -> None:
    result = run_program("import torch, vramprof\nvramprof.emulate('t4')", gpu=None)
    assert "TorchAlreadyImportedError" in result.stderr
    assert "before importing torch" in result.stderr


def test_other_platforms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader.platform, "machine", lambda: "aarch64")
    with pytest.raises(UnsupportedPlatformError, match="aarch64"):
        emulator.check()


def test_an_unknown_symbol_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_emulator()
    monkeypatch.setattr(loader, "_LISTS_FOLDER", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(loader, "wanted_symbols", lambda folder: {"cudaMalloc", "cudaFromTheFuture"})
    with pytest.raises(UnknownSymbolError, match="cudaFromTheFuture"):
        emulator.check()


def test_the_real_scan_finds_what_torch_wants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_emulator()
    wanted = loader.wanted_symbols(loader.find_torch().library_folder)
    defined = loader.defined_symbols(loader._LIBRARY_FOLDER / "libcuda.so.1")
    assert len(wanted) > 300
    assert "cudaMalloc" in wanted & defined
    assert not wanted - defined


def test_a_second_device_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = emulator.DeviceSpec(name="A", total_bytes=GIB)
    monkeypatch.setattr(loader, "_active", (spec, 1))
    emulator.start(spec)
    with pytest.raises(EmulatorError, match="already"):
        emulator.start(emulator.DeviceSpec(name="B", total_bytes=GIB))


def test_too_early_torch_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loader.sys.modules, "torch", object())
    with pytest.raises(TorchAlreadyImportedError):
        emulator.start(emulator.DeviceSpec(name="A", total_bytes=GIB))


def test_addresses_go_up_and_a_gap_is_filled_first() -> None:
    """So that the allocator, which takes the lowest of equal free blocks, reuses what it would on a card."""
    told = told_by(
        """
import json, torch
size = 20 << 20
blocks = [torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(4)]
addresses = [block.data_ptr() for block in blocks]
del blocks[1]
torch.cuda.empty_cache()
again = torch.empty(size, dtype=torch.uint8, device="cuda").data_ptr()
print(json.dumps([addresses, again, size]))
"""
    )
    addresses, again, size = told
    assert addresses == [addresses[0] + number * size for number in range(4)]
    assert again == addresses[1]
