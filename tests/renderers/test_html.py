from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import training

from snapshots import one_step, write
from vramprof.api import Report, load
from vramprof.renderers.columns import pack

HOSTILE = "</script><img src=x onerror=alert(1)>{{data}}"


def unpack(block: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """What renderers/columns.py packed, read as its docstring says."""
    raw = zlib.decompress(base64.b64decode(block))
    (length,) = struct.unpack("<I", raw[:4])
    head, at, columns = json.loads(raw[4 : 4 + length]), 4 + length, {}
    for name, about in head["columns"].items():
        size = about["width"] * about["count"]
        parts = np.frombuffer(raw[at : at + size], np.uint8).reshape(about["width"], about["count"])
        values = np.ascontiguousarray(parts.T).view(f"<i{about['width']}").ravel().astype(np.int64)
        columns[name] = ((np.cumsum(values) if about["delta"] else values) * about["unit"]).tolist()
        at += size
    return head, columns


def shown(page: str) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert found is not None
    told: dict[str, Any] = json.loads(found[1])
    return told


def block_of(page: str, number: int = 0) -> tuple[dict[str, Any], dict[str, list[int]]]:
    found = re.search(rf'id="block-{number}">(.*?)</script>', page, re.S)
    assert found is not None
    return unpack(found[1])


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0],
        [-1, 5, 7],
        [512 * 2**40, -(2**53)],
        [0, 2**31, 2**32],
        list(range(0, 10**6, 512)),
        [127, 128, -128, -129],
    ],
)
def test_columns_come_back(values: list[int]) -> None:
    head, columns = unpack(pack({"more": "é"}, {"values": np.array(values, dtype=np.int64)}))
    assert columns["values"] == values
    assert head["more"] == "é"


def test_hostile_names_stay_data(tmp_path: Path) -> None:
    snapshot = one_step()
    for entry in snapshot["device_traces"][0]:
        for frame in entry.get("frames", ()):
            frame["name"] = HOSTILE
    snapshot["allocator_settings"] = {HOSTILE: HOSTILE}
    page = load(write(tmp_path / "s.pickle", snapshot)).save(tmp_path / "page.html").read_text()
    assert HOSTILE not in page
    assert "<img" not in page
    assert page.count("</script>") == 3  # the data, one block, the script


def test_the_page_has_the_numbers_of_the_json() -> None:
    report = Report(training())
    page, told = report.html(), report.as_dict()["devices"][0]
    device = shown(page)["recordings"][0]["devices"][0]
    assert device["peak"]["by_category"] == told["peak"]["by_category"]
    assert device["steps"] == told["steps"]
    series = device["overview"]["by_category"].values()
    assert max(map(sum, zip(*series, strict=True))) == told["peak"]["allocated_bytes"]
    head, columns = block_of(page)
    moment, held = device["peak"]["moment"], dict.fromkeys(told["peak"]["by_category"], 0)
    for born, lifetime, size, category in zip(
        *(columns[name] for name in ("born", "lifetime", "size", "category")), strict=True
    ):
        if born <= moment < born + lifetime:
            held[head["groupings"]["category"][category]] += size
    assert held == told["peak"]["by_category"]


def test_real_snapshots_give_small_pages(strangers_snapshots: Path, tmp_path: Path) -> None:
    largest = max(strangers_snapshots.glob("*.pickle"), key=lambda path: path.stat().st_size)
    page = load(largest).save(tmp_path / "page.html")
    assert page.stat().st_size < 3_000_000
