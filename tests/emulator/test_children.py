from __future__ import annotations

import os
from pathlib import Path

import pytest

from programs import told_by
from vramprof import emulator
from vramprof.emulator import loader
from vramprof.emulator.torch_build import TorchBuild

DEVICE = "import torch; print(torch.cuda.device_count(), torch.cuda.get_device_name())"


def test_a_fresh_interpreter_inherits_the_device() -> None:
    told = told_by(
        f"""
import json, os, subprocess, sys
plain = subprocess.check_output([sys.executable, "-c", {DEVICE!r}], text=True)
isolated = subprocess.check_output([sys.executable, "-I", "-c", {DEVICE!r}], text=True)
about = "import vramprof, json; from vramprof import emulator; print(json.dumps(repr(emulator.active())))"
active = subprocess.check_output([sys.executable, "-c", about], text=True)
from vramprof import emulator
print(json.dumps([plain, isolated, json.loads(active) == repr(emulator.active())]))
""",
        gpu="t4:count=2",
    )
    assert told == ["2 Tesla T4\n", "2 Tesla T4\n", True]


def test_a_child_without_the_variables_has_none() -> None:
    told = told_by(
        """
import json, os, subprocess, sys
bare = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "VRAMPROF_EMULATED_DEVICE")}
about = "from vramprof import emulator; print(emulator.active())"
print(json.dumps(subprocess.check_output([sys.executable, "-c", about], text=True, env=bare)))
"""
    )
    assert told == "None\n"


def test_a_child_may_ask_for_the_same_or_for_another() -> None:
    told = told_by(
        f"""
import json, subprocess, sys
same = "import torch, vramprof; vramprof.emulate('t4'); " + {DEVICE!r}
other = "import vramprof; vramprof.emulate('h200:count=3'); " + {DEVICE!r}
print(json.dumps([subprocess.check_output([sys.executable, "-c", code], text=True) for code in (same, other)]))
""",
        gpu="t4",
    )
    assert told == ["1 Tesla T4\n", "3 NVIDIA H200\n"]


def test_the_users_own_preloads_stay_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/lib/libuser.so /lib/libother.so")
    libraries = (Path("/ours/libcuda.so.1"), Path("/ours/libnvidia-ml.so.1"))
    for _ in range(2):
        loader._preload_in_children(libraries)
    expected = "/lib/libuser.so:/lib/libother.so:/ours/libcuda.so.1:/ours/libnvidia-ml.so.1"
    assert os.environ["LD_PRELOAD"] == expected


def test_a_folder_that_cannot_be_preloaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_LIBRARY_FOLDER", Path("/with a space"))
    monkeypatch.setenv("LD_PRELOAD", "/lib/libuser.so")
    with pytest.warns(UserWarning, match="child processes"):
        loader._preload_in_children((Path("/with a space/libcuda.so.1"),))
    assert os.environ["LD_PRELOAD"] == "/lib/libuser.so"


def test_what_children_read_is_what_was_described() -> None:
    spec = emulator.DeviceSpec(name="A card", total_bytes=1 << 34, compute_capability=(9, 0), l2_cache_bytes=77)
    assert loader._decode(loader.encode(spec, 3, TorchBuild("2.15.0", 13020, Path()))) == (spec, 3)


@pytest.mark.parametrize(("visible", "expected"), [("2,0", [3, 1]), ("1,1,0", []), ("3,x,0", [4]), ("7", []), ("", [])])
def test_visible_devices(visible: str, expected: list[int]) -> None:
    told = told_by(
        """
import json, torch
kept = [torch.empty(100 << 20, dtype=torch.uint8, device=i) for i in range(torch.cuda.device_count())]
import pynvml
pynvml.nvmlInit()
handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
used = [i + 1 for i, handle in enumerate(handles) if pynvml.nvmlDeviceGetMemoryInfo(handle).used]
buses = [torch.cuda.get_device_properties(i).pci_bus_id for i in range(torch.cuda.device_count())]
print(json.dumps([len(handles), used, buses]))
""",
        gpu="a100-80gb:count=4",
        environment={"CUDA_VISIBLE_DEVICES": visible},
    )
    assert told == [4, sorted(expected), expected]


def test_the_preloaded_libraries_are_named_once() -> None:
    told = told_by(
        """
import json, os, subprocess, sys
code = "import vramprof; vramprof.emulate('t4'); import os; print(os.environ['LD_PRELOAD'])"
print(json.dumps([os.environ["LD_PRELOAD"], subprocess.check_output([sys.executable, "-c", code], text=True).strip()]))
""",
        gpu="t4",
        environment={"LD_PRELOAD": ""},
    )
    ours, childs = told
    assert ours == childs
    assert [path.rsplit("/", 1)[-1] for path in ours.split(":")] == ["libcuda.so.1", "libnvidia-ml.so.1"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_have_the_device(method: str, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(
        """
def work(index):
    import torch
    torch.ones(4, device="cuda")
    return torch.cuda.get_device_name()
"""
    )
    told = told_by(
        f"""
import json, multiprocessing, sys
sys.path.insert(0, {str(tmp_path)!r})
import worker
with multiprocessing.get_context({method!r}).Pool(2) as pool:
    names = pool.map(worker.work, range(2))
print(json.dumps(names))
""",
        gpu="t4",
    )
    assert told == ["Tesla T4"] * 2
