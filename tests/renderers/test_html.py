from __future__ import annotations

import json
import re
from pathlib import Path

from snapshots import one_step, write
from vramprof.api import load

HOSTILE = "</script><img src=x onerror=alert(1)>"


def test_hostile_names_stay_data(tmp_path: Path) -> None:
    snapshot = one_step()
    for entry in snapshot["device_traces"][0]:
        for frame in entry.get("frames", ()):
            frame["name"] = HOSTILE
    report = load(write(tmp_path / "s.pickle", snapshot))
    page = report.save(tmp_path / "page.html").read_text()
    assert HOSTILE not in page
    assert page.count("</script>") == 2
    assert "src=" not in page.replace("\\u003cimg src=x", "")


def test_the_page_has_the_numbers_of_the_json(tmp_path: Path) -> None:
    report = load(write(tmp_path / "s.pickle", one_step()))
    page = report.save(tmp_path / "page.html").read_text()
    found = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert found is not None
    shown, told = json.loads(found[1])["devices"][0], report.as_dict()["devices"][0]
    assert shown["peak"]["by_category"] == told["peak"]["by_category"]
    columns = shown["series"]["by_category"].values()
    assert max(map(sum, zip(*columns, strict=True))) == told["peak"]["allocated_bytes"]


def test_real_snapshots_give_small_pages(strangers_snapshots: Path, tmp_path: Path) -> None:
    largest = max(strangers_snapshots.glob("*.pickle"), key=lambda path: path.stat().st_size)
    page = load(largest).save(tmp_path / "page.html")
    assert page.stat().st_size < 3_000_000
