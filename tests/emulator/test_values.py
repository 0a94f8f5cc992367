"""What a program reads back from a device that computes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from programs import run_program, told_by


def test_values_from_the_host_come_back_and_others_are_zeros() -> None:
    told = told_by(
        """
import json, torch
from vramprof import emulator
heard = []
with emulator.listen_to_guesses(lambda device, size: heard.append((device, size))):
    sent = torch.arange(5).cuda()
    told = [sent.tolist(), sent[1].item(), len(heard)]
    told += [(sent + 1).tolist(), len(heard)]
    told += [sent.sum().item(), torch.ones(4, device="cuda").nonzero().shape[0], len(heard)]
    again = sent.tolist()
    (sent * 2.5).to("cpu")
    torch.ones(1 << 20, device="cuda").cpu()
    told += [again, len(heard), heard[0]]
torch.ones(3, device="cuda").tolist()
told.append(len(heard))
print(json.dumps(told))
"""
    )
    assert told[:3] == [[0, 1, 2, 3, 4], 1, 0]
    assert told[3:5] == [[0] * 5, 1]
    assert told[5:8] == [0, 0, 3]
    assert told[8:11] == [[0, 1, 2, 3, 4], 4, [0, 40]]
    assert told[11] == 4, "nobody listens any more"


def test_a_lone_number_that_kernels_may_have_changed_is_a_guess() -> None:
    told = told_by(
        """
import json, torch
from vramprof import emulator
heard = []
with emulator.listen_to_guesses(lambda device, size: heard.append(size)):
    total = torch.tensor(7).cuda()
    told = [total.item(), len(heard)]
    total += 1
    told += [total.item(), len(heard)]
print(json.dumps(told))
"""
    )
    assert told == [7, 0, 7, 1]


def test_guessed_reads_are_reported_by_line(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "x = torch.ones(8, device='cuda')\n"
        "for _ in range(3):\n"
        "    if x.sum().item() > 1:\n"
        "        break\n"
    )
    code = f"""
import json
report = vramprof.predict({str(script)!r}, gpu="l4")
found = [finding for finding in report.as_dict()["findings"] if finding["code"] == "VP902"]
print(json.dumps([report.recording.origin, found, report.text()]))
"""
    origin, findings, text = told_by("import vramprof\n" + code, gpu=None)
    assert origin == "predicted"
    (finding,) = findings
    (evidence,) = finding["evidence"]
    assert (evidence["value"], evidence["frames"][0]["line"], finding["basis"]) == (3, 4, "predicted")
    assert "train.py:4 <module>: 3 reads" in text


@pytest.mark.parametrize(("lag", "reused"), [(0, [True, True]), (50, [False, True])])
def test_a_recorded_stream_frees_when_the_device_has_come_so_far(lag: int, reused: list[bool]) -> None:
    told = told_by(
        """
import json, torch
side = torch.cuda.Stream()
x = torch.empty(1 << 24, device="cuda")
y = torch.ones(4, device="cuda")
address = x.data_ptr()
with torch.cuda.stream(side):
    x.add_(1)
x.record_stream(side)
event = torch.cuda.Event()
event.record()
done = event.query()
del x
first = torch.empty(1 << 24, device="cuda")
told = [first.data_ptr() == address]
del first
for _ in range(60):
    y.add_(1)
told.append(torch.empty(1 << 24, device="cuda").data_ptr() == address or told[0])
event.record()
event.synchronize()
print(json.dumps([told, done, event.query()]))
""",
        gpu=f"a100-80gb:lag={lag}",
    )
    assert told == [reused, reused[0], True]


@pytest.mark.parametrize(
    "wait", ["torch.cuda.synchronize()", "side.synchronize()", "x.cpu()", "torch.cuda.empty_cache()"]
)
def test_waiting_for_the_device_catches_up(wait: str) -> None:
    told = told_by(
        f"""
import json, torch
side = torch.cuda.Stream()
x, spare = torch.ones(4, device="cuda"), torch.ones(1 << 22, device="cuda")
del spare
event = torch.cuda.Event()
with torch.cuda.stream(side):
    x.add_(1)
    event.record()
before = event.query()
{wait}
print(json.dumps([before, event.query()]))
""",
        gpu="a100-80gb:lag=1000",
    )
    assert told == [False, True]


def test_a_lag_that_is_no_number_is_refused() -> None:
    result = run_program("import vramprof\nvramprof.emulate('t4:lag=soon')", gpu=None)
    assert "lag is a number of launches" in result.stderr


def test_elapsed_time_counts_launches_and_nothing_else() -> None:
    told = told_by(
        """
import json, time, torch
def measure(pause):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    x = torch.ones(8, device="cuda")
    begin.record()
    for _ in range(5):
        x.add_(1)
    time.sleep(pause)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)
print(json.dumps([measure(0), measure(0.05)]))
"""
    )
    assert told[0] == told[1] > 0
