"""The catalog, a user's own cards, and every line that refuses a wrong one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from programs import NEUTRAL_FOLDER, run_command, run_program, told_by
from vramprof import emulator
from vramprof.cli import main
from vramprof.emulator import loader
from vramprof.errors import EmulatorError, GpuFileError, UnknownGpuError
from vramprof.prediction import catalog
from vramprof.prediction.catalog import find_device, find_gpu, gpu_names

GIB = 1024**3
CONTRACT = (
    "t4 v100-16gb v100-32gb rtx2080ti rtx3060 rtx3090 rtx4060ti-16gb rtx4090 rtx5090 a10 a10g l4 l40s a40 a6000"
    " rtx6000-ada rtx-pro-6000 a100-40gb a100-80gb h100-80gb h100-96gb h200 h20 gh200 b200 gb200 b300"
)
MINE = 'name = "My card"\ntotal = "23.5 GiB"\ncompute_capability = "8.6"\nmultiprocessors = 82\n'


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "mycard.toml"
    path.write_text(MINE)
    return path


def test_every_gpu_of_the_contract_is_there() -> None:
    assert not set(CONTRACT.split()) - set(gpu_names())


@pytest.mark.parametrize("name", gpu_names())
def test_every_figure_has_a_source(name: str) -> None:
    gpu = find_gpu(name)
    assert set(gpu.source) == {"total", "context", "modules", "chip"}
    assert all(" " in text for text in gpu.source.values()), "a name that is in no [source] table"
    assert set(gpu.context) == {12, 13}
    nominal_gb = gpu.total / 1e9
    assert 0 < gpu.context[12] + gpu.modules < 0.1 * gpu.total
    assert gpu.shared_per_block_optin <= gpu.shared_per_multiprocessor
    assert 5 < nominal_gb < 400


def test_the_context_is_that_of_the_installed_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "cards.toml"
    path.write_text(MINE + 'modules = "1 MiB"\ncontext = { cuda12 = "300 MiB", cuda13 = "200 MiB" }\n')
    for major, context_mib in ((12, 301), (13, 201), (14, 201)):
        monkeypatch.setattr(catalog, "_cuda_major", lambda major=major: major)
        assert find_device(str(path))[0].context_bytes == context_mib << 20


def test_a_card_of_ones_own(card: Path) -> None:
    spec, count = find_device(f"{card}:count=2")
    near = find_gpu("rtx3090")
    assert (spec.name, spec.total_bytes, spec.compute_capability, count) == ("My card", int(23.5 * GIB), (8, 6), 2)
    assert spec.l2_cache_bytes == near.l2, "what is not given is that of the nearest card"
    assert find_gpu(str(card)).source["l2"] == "that of the NVIDIA GeForce RTX 3090"


def test_several_cards_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(f"[gpu.one]\n{MINE}\n[gpu.two]\n{MINE}l2 = 1024\n")
    assert find_gpu(f"{path}#two").l2 == 1024
    with pytest.raises(UnknownGpuError, match=r"lab.toml has one, two: say which, as in .*lab.toml#one"):
        find_gpu(str(path))
    with pytest.raises(UnknownGpuError, match="has one, two"):
        find_gpu(f"{path}#three")


def test_one_card_in_a_table_needs_no_name(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    path.write_text(f"[gpu.one]\n{MINE}source = {{ total = 'nvidia-smi' }}")
    assert find_gpu(str(path)).source["total"] == "nvidia-smi"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = 'x'\n", "not given: total, compute_capability, multiprocessors; a card needs at least name, total"),
        (MINE + "clock = 3\n", "no field is called 'clock': did you mean clock_mhz?"),
        (MINE + "zzz = 3\n", "no field is called 'zzz': there are name, total"),
        (MINE.replace('"23.5 GiB"', '"much"'), "total: not a size: 'much'"),
        (MINE.replace('"23.5 GiB"', "true"), "total: True is not a size: write it like \"24 GiB\""),
        (MINE.replace('"23.5 GiB"', "-1"), "total: -1 is below 0"),
        (MINE.replace('"23.5 GiB"', '"1 MiB"'), "total: a card has at least 512 MiB"),
        (MINE.replace('"8.6"', "8.6"), "compute_capability: 8.6 is not a compute capability: write it like"),
        (MINE.replace('"8.6"', '"5.2"'), "no known card has compute capability 5.2: give l2, shared_per_block_optin"),
        (MINE.replace("82", '"82"'), "multiprocessors: '82' is not a whole number above 0"),
        (MINE.replace('"My card"', "7"), "name: 7 is not a text in quotes"),
        (MINE + "context = { twelve = '1 MiB' }\n", "context: not by CUDA release: write it like { cuda12"),
        (MINE + "context = '24 GiB'\n", "context and modules alone fill the card: total is 24064 MiB"),
        (MINE + "source = 'me'\n", "source: not a table of texts"),
        (MINE + "name = 'again'\n", "not TOML"),
        ("gpu = 3\n", "gpu is not a table of cards"),
        (f"l2 = 3\n[gpu.one]\n{MINE}", "'l2' is in no table: move it into a [gpu.NAME]"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_clear_line(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mycard.toml"
    path.write_text(text)
    with pytest.raises(GpuFileError) as caught:
        find_device(str(path))
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert main(["gpus", str(path)]) == 2
    assert capsys.readouterr().err == f"vramprof: {caught.value}\n"


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(GpuFileError, match=r"nowhere/card.toml: cannot be read: No such file"):
        find_device("nowhere/card.toml")


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(UnknownGpuError, match=r"did you mean .*a100-80gb"):
        find_device("a100-80")


def test_gpus_shows_one_with_its_sources(card: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "t4"]) == 0
    sheet = capsys.readouterr().out
    assert "15828254720 bytes, 14.7 GiB" in sheet
    assert "total_memory=15095MB" in sheet
    assert main(["gpus", str(card)]) == 0
    assert "that of the NVIDIA GeForce RTX 3090" in capsys.readouterr().out


def test_gpus_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == set(gpu_names())
    assert told["a100-80gb"]["total"] == 84987740160
    assert told["a100-80gb"]["context"]["cuda12"] == 414 << 20
    assert told["a100-80gb"]["source"]["chip"]


def test_the_catalog_needs_nothing_heavy() -> None:
    code = "import sys, vramprof.prediction.catalog as c; c.find_device('t4')"
    code += "; print(sorted({'torch', 'pandas', 'pyarrow', 'numpy', 'rich'} & set(sys.modules)))"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=NEUTRAL_FOLDER, timeout=60
    )
    assert told.stdout == "[]\n"


def test_a_card_of_ones_own_is_what_torch_sees(card: Path, tmp_path: Path) -> None:
    properties = (
        "p = torch.cuda.get_device_properties(0); print(json.dumps([p.name, p.total_memory, p.major, p.minor]))"
    )
    told = told_by(f"import json, torch; {properties}", gpu=str(card))
    assert told == ["My card", int(23.5 * GIB), 8, 6]
    script = tmp_path / "script.py"
    script.write_text("import torch; print(torch.cuda.get_device_name())")
    result = run_command("run", "--emulate", "./mycard.toml", "-o", "out", str(script), cwd=tmp_path)
    assert result.stdout == "My card\n"


def test_more_memory_than_addresses_is_one_clear_line() -> None:
    result = run_program("import vramprof; vramprof.emulate('b300:memory=20TiB,count=8')", gpu=None)
    assert "8 x 20.0 TiB is more than the 64.0 TiB of addresses that a process has for it" in result.stderr


def test_a_shells_limit_of_addresses_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (GIB, GIB))
    with pytest.raises(EmulatorError, match=r"more than the 1.00 GiB of addresses that this shell allows: `ulimit -v"):
        loader._check_spec(emulator.DeviceSpec(name="A", total_bytes=2 * GIB), 1)
