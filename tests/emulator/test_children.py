from __future__ import annotations

from programs import told_by


def test_a_child_that_knows_nothing_of_vramprof_has_the_device() -> None:
    told = told_by(
        """
import json, subprocess, sys
code = "import torch; x = torch.ones(3, device='cuda'); print(torch.cuda.get_device_name(), torch.cuda.device_count())"
print(json.dumps(subprocess.check_output([sys.executable, "-c", code], text=True).strip()))
""",
        gpu="t4:count=2",
    )
    assert told == "Tesla T4 2"


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
    assert [path.rsplit("/", 1)[-1] for path in ours.split()] == ["libcuda.so.1", "libnvidia-ml.so.1"]
