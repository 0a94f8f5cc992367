"""The search against made-up programs, and real dry runs of a small one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from programs import need_emulator
from vramprof.cli import main
from vramprof.errors import DryRunError, FitError, UnknownGpuError
from vramprof.prediction.fit import Search, Try, Values, fit
from vramprof.renderers.fit import render_fit

MIB = 1024**2
PROGRAM = """
import sys, torch
torch.zeros(int(sys.argv[1]), 1 << 20, dtype=torch.uint8, device="cuda")
"""


def search(need: int, limit: int, *, jobs: int = 2, noise: int = 0) -> Search:
    """A program that needs `need` bytes for each unit, and 50 besides."""

    def attempt(values: Values) -> Try:
        size = 50 + need * values["n"]
        reserved = size + noise * (values["n"] % 3)
        return Try(values, size <= limit, min(size, limit), min(reserved, limit))

    return Search(limit, jobs, attempt)


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("limit", [0, 60, 61, 75, 500, 5_000, 10_049, 10_050, 99_999])
def test_it_finds_the_last_that_fits(limit: int, jobs: int) -> None:
    made = search(10, limit, jobs=jobs, noise=7)
    best, limited = made.largest("n", 1, 1000, {})
    expected = min((limit - 50) // 10, 1000)
    assert (best.values["n"] if best else 0) == max(expected, 0)
    assert limited == (expected < 1000)
    tried = {one.values["n"]: one.fits for one in made.tries}
    assert len(tried) == len(made.tries)  # nothing is run twice
    if best and limited:
        assert tried[expected + 1] is False


def test_a_line_is_followed_and_not_searched() -> None:
    made = search(10, 50 + 10 * 377)
    made.largest("n", 1, 1_000_000, {})
    assert len(made.tries) <= 8


def test_values_of_one_alone() -> None:
    assert search(10, 1000).largest("n", 5, 5, {})[0] is not None
    assert search(10, 10).largest("n", 5, 5, {}) == (None, True)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    need_emulator()
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def test_a_script_nobody_changed(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--emulate", "t4:memory=1GiB", "--json", "--vary", "n=300:5000", str(script), "{n}"]) == 0
    found = json.loads(capsys.readouterr().out)
    best = found["best"][0]["values"]["n"]
    assert (best + 2) * MIB > found["limit_bytes"] - 2 * MIB >= (best - 2) * MIB
    assert {one["values"]["n"]: one["fits"] for one in found["tries"]}[best + 1] is False
    assert found["origin"] == "predicted"


def test_a_frontier_of_two_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(program: object, arguments: object, values: Values, *options: object) -> Try:
        size = values["batch"] * values["width"] * MIB
        return Try(dict(values), size <= 1000 * MIB, size, size)

    monkeypatch.setattr("vramprof.prediction.fit._attempt", attempt)
    vary = {"batch": (1, 600), "width": (1, 6)}
    found = fit("program.py", "{batch}", "{width}", gpu="t4", vary=vary)
    assert [one and dict(one.values) for one in found.best] == [
        {"batch": 600, "width": 1}, {"batch": 500, "width": 2}, {"batch": 250, "width": 4}, {"batch": 166, "width": 6},
    ]  # fmt: skip
    assert found.limited == (False, True, True, True)
    text = render_fit(found)
    assert text.startswith("EMULATED")
    assert "fits: batch 166, width 6, with " in text
    assert "(batch 167 does not)" in text
    assert "(the greatest that was allowed)" in text


def test_what_can_not_be_searched_is_one_line(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for vary, said in (
        ({}, "say what to vary"),
        ({"n": (5, 4)}, "n=5:4"),
        ({"n": (0, 4)}, "at least 1"),
        ({"n": (1, 4)}, "no argument has"),
    ):
        with pytest.raises(FitError, match=said):
            fit(script, "{batch}", gpu="t4", vary=vary)
    with pytest.raises(UnknownGpuError):
        fit(script, "{n}", gpu="t44", vary={"n": (1, 2)})
    with pytest.raises(DryRunError, match="invalid literal"):
        fit(script, "x{n}", gpu="t4", vary={"n": (1, 2)})
    assert main(["fit", "--emulate", "t4", "--vary", "n=few", str(script), "{n}"]) == 2
    assert "write it like batch=1:512" in capsys.readouterr().err
