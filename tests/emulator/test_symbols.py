"""Every torch whose symbols are listed finds all of them in the device that was built."""

from __future__ import annotations

from pathlib import Path

import pytest

from programs import need_emulator
from vramprof.emulator import loader

LISTS = sorted(loader._LISTS_FOLDER.glob("torch-*.txt"))


def test_the_builds_that_are_promised_are_listed() -> None:
    releases = {path.stem.removeprefix("torch-").partition("+")[0] for path in LISTS}
    assert {"2.6.0", "2.8.0", "2.11.0", "2.14.1", "2.15.0"} <= releases


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_every_symbol_is_defined(path: Path) -> None:
    need_emulator()
    wanted = set(path.read_text().split())
    assert len(wanted) > 300
    assert not wanted - loader.defined_symbols(loader._LIBRARY_FOLDER / "libcuda.so.1")
