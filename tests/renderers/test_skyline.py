from __future__ import annotations

import re

import numpy as np
from recordings import training

from vramprof.api import Report
from vramprof.renderers.skyline import EMPTY, skyline


def test_the_highest_column_is_full_and_categories_are_stacked_in_proportion() -> None:
    device = Report(training(steps=30)).facts.devices[0]
    names, cells = skyline(device, width=40, height=8)
    assert cells.shape == (16, 40)
    assert (cells[0] != EMPTY).any()
    column = cells[:, int(np.argmax((cells != EMPTY).sum(axis=0)))]
    shares = {name: int((column == number).sum()) for number, name in enumerate(names)}
    peak = device.peak
    for name, size in peak.by_category.items():
        assert abs(shares.get(name, 0) - 16 * size / peak.allocated_bytes) <= 1, name


def test_a_colour_terminal_has_the_skyline_within_its_width() -> None:
    report = Report(training())
    assert "\x1b" not in report.text(width=70)
    lines = re.sub("\x1b\\[[0-9;]*m", "", report.text(width=70, color=True)).splitlines()
    assert max(map(len, lines)) <= 70
    assert sum("▀" in line for line in lines) >= 3
    assert lines[0].startswith("EMULATED")
