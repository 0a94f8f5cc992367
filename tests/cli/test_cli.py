from __future__ import annotations

import json
from pathlib import Path

import pytest
from recordings import training

from programs import run_program
from snapshots import one_step, write
from vramprof.api import Report
from vramprof.cli import COMMANDS, main
from vramprof.recording import Recorder
from vramprof.renderers.forms import FORMS


def test_report_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(write(tmp_path / "s.pickle", one_step()))]) == 0
    output = capsys.readouterr().out
    assert "peak 11.0 MiB allocated" in output
    assert "me/train.py:12 forward" in output
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 80


def test_report_writes_every_form(tmp_path: Path) -> None:
    path = write(tmp_path / "s.pickle", one_step())
    names = {form: str(tmp_path / f"out.{form}") for form in FORMS}
    assert main(["report", str(path), *(f"--{form}={name}" for form, name in names.items())]) == 0
    data = json.loads(Path(names["json"]).read_text())
    peak = data["devices"][0]["peak"]
    assert data["schema_version"] == 1
    assert sum(peak["by_category"].values()) == peak["allocated_bytes"]
    assert Path(names["png"]).read_bytes().startswith(b"\x89PNG")
    assert "http" not in Path(names["html"]).read_text()
    assert all(Path(name).exists() for name in names.values())


def test_several_recordings_and_two_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(Report(training(activation_mib=12 if r == 1 else 8)).save(tmp_path / f"r{r}.vram")) for r in range(4)]
    assert main(["report", *paths]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "odd one out" in line] == ["r1.vram"]
    assert main(["report", *paths, "--html", str(tmp_path / "ranks.html")]) == 0
    assert "r3.vram" in (tmp_path / "ranks.html").read_text()
    assert main(["report", *paths, "--png", str(tmp_path / "x.png")]) == 2
    capsys.readouterr()
    assert main(["compare", *paths[:2]]) == 0
    assert "+4.00 MiB" in capsys.readouterr().out
    assert main(["compare", *paths[:2], "--html", str(tmp_path / "both.html")]) == 0
    assert (tmp_path / "both.html").stat().st_size > 10_000


@pytest.mark.parametrize("path", ["missing.pickle", "."])
def test_bad_paths_are_one_line_and_two(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", path]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vramprof: ")
    assert error.count("\n") == 1


def test_gpus_lists_the_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus"]) == 0
    assert "a100-80gb" in capsys.readouterr().out


@pytest.mark.parametrize("gpu", ["a100", "a100-80gb:memory=lots", "a100-80gb:count=0", "t4:color=red"])
def test_unknown_gpus_are_one_line(gpu: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "s.py"
    script.write_text("")
    assert main(["run", "--emulate", gpu, str(script)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"vramprof {command}" in capsys.readouterr().out.partition("Example:")[2]


def test_import_is_light() -> None:
    code = "import sys, vramprof; print([m for m in ('torch', 'pandas', 'matplotlib', 'pyarrow') if m in sys.modules])"
    assert run_program(code, gpu=None).stdout.strip() == "[]"
    code = "import sys\nfrom vramprof.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'pandas' not in sys.modules and 'torch' not in sys.modules"
    assert run_program(code, gpu=None).returncode == 0


def test_doctor_says_what_works() -> None:
    result = run_program("from vramprof.cli import main\nmain(['doctor'])", gpu=None)
    assert result.returncode == 0, result.stderr
    for what in ("torch", "CUDA device", "NVML", "emulated device"):
        assert f" {what}: " in result.stdout


def test_a_killed_run_tells_what_its_samples_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(origin="live", emulated=False, folder=tmp_path / "killed.vram")
    for held in (1, 3, 2):
        recorder.add("samples", held, 0, "memory_stats", held * 2**30, 0, 0, 4 * 2**30, -1, -1)
    recorder.flush()  # and nothing after it
    assert main(["report", str(tmp_path / "killed.vram")]) == 0
    output = capsys.readouterr().out
    assert "the run was killed" in output
    assert "GPU 0" in output
    assert "3.00 GiB  4.00 GiB" in output
    recorder.close()
