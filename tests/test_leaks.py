from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from programs import ENVIRONMENT, NEUTRAL_FOLDER, need_emulator, told_by


def test_check_tells_what_survived_and_who_holds_it() -> None:
    told = told_by(
        """
import json, torch, vramprof
leaks = vramprof.leaks
layer = torch.nn.Linear(512, 512).cuda()

def work(kept):
    out = layer(torch.randn(64, 512, device="cuda"))
    kept.append(out.detach())

def clean():
    layer(torch.randn(64, 512, device="cuda")).sum().item()

said = []
with leaks.check():
    clean()
KEPT = []
try:
    with leaks.check():
        work(KEPT)
except leaks.LeakError as error:
    said.append(str(error))
with leaks.check(allow_bytes=1 << 20):
    work(KEPT)
try:
    with leaks.check():
        raise KeyError("mine")
except KeyError as error:
    said.append(str(error))
print(json.dumps([said, torch._C._cuda_isHistoryEnabled()]))
"""
    )
    (message, own), still_on = told
    assert message.startswith("128 KiB allocated in this block survived it:")
    assert "held by list 'KEPT' of module __main__[0] -> Tensor" in message
    assert "mine" in own
    assert still_on is False


def test_a_look_in_the_middle_names_what_the_programs_end_frees() -> None:
    told = told_by(
        """
import json, torch, vramprof
from vramprof.leaks import look
layer = torch.nn.Linear(512, 512).cuda()

def train(steps):
    kept = []
    for step in range(steps):
        with torch.no_grad():
            kept.append(layer(torch.randn(64, 512, device="cuda")))
        prof.step()
        if step in (3, 14):
            said.append(look(prof._recorder))

said = []
with vramprof.profile() as prof:
    train(16)
(finding,) = [one for one in prof.report().findings if one.code.startswith("VP20")]
print(json.dumps([said, finding.code, finding.holder]))
"""
    )
    said, code, holder = told
    assert said == [False, True]
    assert code == "VP201"
    assert "list 'kept' in train()" in holder


CHOSEN = {
    "validation_loss_without_no_grad": "VP202",
    "a_hook_more_each_step": "VP205",
    "lambda_of_a_module_on_itself": "VP203",
    "exceptions_kept_in_a_list": "VP204",
    "masks_by_length_in_an_lru_cache": "VP206",
    "predictions_concatenated_on_the_gpu": "VP207",
    "an_extension_that_never_frees": "VP208",
    "backward_with_create_graph": "VP210",
    "outputs_of_a_prediction_loop": "VP201",
    "ring_longer_than_the_run": None,
    "layers_unfrozen_one_by_one": None,
    "cycles_that_the_collector_frees": None,
}


def test_one_program_of_each_kind_is_judged_right(tmp_path: Path) -> None:
    """All of them, with figures: scripts/measure_leaks."""
    need_emulator()
    told = tmp_path / "told.json"
    command = [sys.executable, "-W", "ignore", "-m", "leakbench", "--json", str(told), *CHOSEN]
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{NEUTRAL_FOLDER}:{ENVIRONMENT.get('PYTHONPATH', '')}"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    for line in told.read_text().splitlines():
        row = json.loads(line)
        wanted = CHOSEN[row["name"]]
        assert row["codes"] == ([wanted] if wanted else []), row
        assert row["line_right"] is not False, row
        assert row["holder_right"] is not False, row
        if wanted:
            assert abs(row["bytes_per_step"] / row["true_bytes_per_step"] - 1) < 0.05, row
