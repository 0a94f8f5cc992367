"""Every `vramprof plan` that README.md shows runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vramprof.cli import main

README = Path(__file__).resolve().parents[2] / "README.md"
COMMANDS = sorted(set(re.findall(r"^(?:\| .*`)?vramprof (plan [^`#\n]+)", README.read_text(encoding="utf-8"), re.M)))
IN_TABLES = sorted(set(re.findall(r"`vramprof (plan [^`]+ --gpu [^`]+)`", README.read_text(encoding="utf-8"))))

OF_ONES_OWN = {one for one in (*COMMANDS, *IN_TABLES) if "MODEL" in one or ".json" in one}


@pytest.mark.parametrize("command", sorted({*COMMANDS, *IN_TABLES} - OF_ONES_OWN))
def test_a_command_of_the_readme(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(command)) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith("PREDICTED")
