"""The page in a real browser: what a reader does, and what must never happen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browser import open_browser, requests, visit, wait
from recordings import MIB, training

from vramprof.api import Report
from vramprof.findings import Evidence, Finding, Fix
from vramprof.recording import Frame
from vramprof.report import Reports

CONTRAST = """
const light = color => {
  const parts = color.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255);
  return [.2126, .7152, .0722].reduce((sum, weight, i) =>
    sum + weight * (parts[i] <= .04045 ? parts[i] / 12.92 : ((parts[i] + .055) / 1.055) ** 2.4), 0);
};
const paper = element => {
  for (; element; element = element.parentElement) {
    const color = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color;
  }
  return "rgb(255, 255, 255)";
};
const words = [...document.querySelectorAll("p, td, th, h1, h2, b, .faint, .notice, .legend, button, label")];
return Math.min(...words.filter(word => word.textContent.trim() && word.offsetParent).map(word => {
  const [low, high] = [light(getComputedStyle(word).color), light(paper(word))].sort((a, b) => a - b);
  return (high + .05) / (low + .05);
}));
"""
"""The least contrast of any word with what is under it (WCAG asks for 4.5)."""

HOSTILE = "</script><img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(autouse=True)
def clean(browser: Any) -> Iterator[None]:
    """No test leaves an error on the console or a request on the network."""
    yield
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    assert requests(browser) == []


@pytest.fixture(scope="module")
def report() -> Report:
    return Report(training(steps=20))


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.save(tmp_path_factory.mktemp("page") / "page.html")


def state(browser: Any, name: str) -> Any:
    return browser.execute_script(f"return state.{name}")


def act(browser: Any) -> Any:
    from selenium.webdriver import ActionChains

    return ActionChains(browser, duration=20)


def find(browser: Any, selector: str) -> Any:
    element = browser.find_element("css selector", selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return element


def test_the_numbers_are_those_of_the_json(browser: Any, page: Path, report: Report) -> None:
    visit(browser, page)
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#categories [data-bytes]')]"
        ".map(entry => [entry.dataset.category, entry.dataset.bytes])"
    )
    peak = report.as_dict()["devices"][0]["peak"]
    assert {name: int(size) for name, size in rows} == {
        name: size for name, size in peak["by_category"].items() if size
    }
    assert state(browser, "x") == [0, report.facts.devices[0].allocations.event_count + 1]


def test_every_moment_is_the_one_of_the_timeline(browser: Any, page: Path, report: Report) -> None:
    """Allocated and reserved by the page's own sums, at each moment, are the analyses'."""
    visit(browser, page)
    told = browser.execute_script(
        "const cursor = newCursor(device, bandsOf(device, 'category')), found = [];"
        "for (let m = 0; m <= device.last; m++) { cursor.to(m); found.push([cursor.total, device.reserved[m],"
        " aliveAt(device, m).reduce((sum, i) => sum + device.size[i], 0),"
        " segmentsAt(device, m).reduce((sum, s) => sum + s.size, 0)]); } return found"
    )
    timeline = report.facts.devices[0].timeline
    expected = zip(timeline.allocated_bytes.tolist(), timeline.reserved_bytes.tolist(), strict=True)
    assert told == [[allocated, reserved, allocated, reserved] for allocated, reserved in expected]


def test_it_says_emulated_everywhere(browser: Any, page: Path, tmp_path: Path) -> None:
    visit(browser, page)
    assert "EMULATED" in find(browser, "#head").text
    assert "EMULATED" in find(browser, "#moment-words").text
    assert "emulated" in browser.title
    visit(browser, Report(training(emulated=False)).save(tmp_path / "real.html"))
    assert "EMULATED" not in find(browser, "body").text


def test_hover_and_click_tell_the_block(browser: Any, page: Path) -> None:
    visit(browser, page)
    canvas = find(browser, "canvas.bands")
    height = canvas.size["height"]
    act(browser).move_to_element_with_offset(canvas, 40, height // 2 - 12).perform()  # the weights, at the bottom
    tip = wait(lambda: next((t.text for t in browser.find_elements("css selector", ".tip") if t.is_displayed()), ""))
    assert "4.00 MiB weights" in tip
    assert "layers.0.mlp" in tip
    assert "model.py:3 build" in tip
    act(browser).move_to_element_with_offset(canvas, 40, height // 2 - 12).click().perform()
    detail = wait(lambda: find(browser, "#detail").text)
    assert f"{4 * MIB:,} bytes" in detail
    assert "seen under its name" in detail
    assert "/me/train.py:1 <module>" in detail


def test_clicking_a_moment_shows_what_is_alive_then(browser: Any, page: Path) -> None:
    visit(browser, page)
    canvas = find(browser, "canvas.timeline")
    act(browser).move_to_element_with_offset(canvas, -canvas.size["width"] // 2 + 6, 20).click().perform()
    wait(lambda: state(browser, "m") is not None)
    wait(lambda: "at this moment" in find(browser, "#moment h2").text)
    wait(lambda: "reserved" in find(browser, "#segment-words").text)


def test_zoom_reaches_a_single_event_and_links_come_back(browser: Any, page: Path) -> None:
    visit(browser, page)
    canvas = find(browser, "canvas.bands")
    act(browser).move_to_element(canvas).click().perform()
    begin, end = state(browser, "x")
    for _ in range(14):
        browser.execute_script(
            "parts.bands.canvas.dispatchEvent(new WheelEvent('wheel', {deltaY: -300, ctrlKey: true, cancelable: true}))"
        )
    assert state(browser, "x")[1] - state(browser, "x")[0] == pytest.approx(4)
    from selenium.webdriver.common.keys import Keys

    canvas.send_keys("-")
    canvas.send_keys("z")
    canvas.send_keys(Keys.ARROW_RIGHT)
    moment, window = state(browser, "m"), state(browser, "x")
    assert window[1] - window[0] < end - begin
    wait(lambda: f"m={moment}" in browser.current_url)
    link = browser.current_url
    visit(browser, page, "#" + link.partition("#")[2])
    assert state(browser, "m") == moment
    assert state(browser, "x") == pytest.approx(window, abs=0.01)
    find(browser, "canvas.bands").send_keys("0")
    assert state(browser, "x") == [begin, end]


def test_keys_walk_the_blocks(browser: Any, page: Path, report: Report) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(browser, page)
    canvas = find(browser, "canvas.bands")
    canvas.send_keys("p")
    assert state(browser, "m") == report.facts.devices[0].timeline.peak
    canvas.send_keys(Keys.ARROW_UP)
    assert state(browser, "block") == 0
    canvas.send_keys(Keys.ARROW_UP)
    wait(lambda: "8.00 MiB" in find(browser, "#detail").text)
    canvas.send_keys(Keys.ESCAPE)
    wait(lambda: not browser.find_element("css selector", "#detail").is_displayed())


def test_search_sort_and_flame(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(browser, page)
    find(browser, "body").send_keys("/")
    assert browser.switch_to.active_element.get_attribute("id") == "search"
    browser.switch_to.active_element.send_keys("model.py:9")
    wait(lambda: "1 row, 8.00 MiB match" in find(browser, "#rows-found").text)
    assert state(browser, "q") == "model.py:9"
    browser.switch_to.active_element.send_keys(Keys.CONTROL, "a", Keys.BACKSPACE)
    wait(lambda: "match" not in find(browser, "#rows-found").text)
    wait(lambda: "model.py:9 forward" in browser.find_element("css selector", "#rows tbody tr").text)
    find(browser, "#rows th.n:nth-child(3) button").click()
    wait(lambda: "forward" in browser.find_elements("css selector", "#rows tbody tr")[-1].text)
    cell = next(c for c in browser.find_elements("css selector", "#flame button") if c.text == "layers")
    cell.click()
    wait(lambda: state(browser, "zoom") == '["layers"]')
    assert browser.find_element("css selector", "#flame button").text == "layers"


def test_drag_and_pinch_move_and_zoom(browser: Any, page: Path) -> None:
    visit(browser, page, "#x=30,60")
    canvas = find(browser, "canvas.timeline")
    act(browser).move_to_element(canvas).click_and_hold().move_by_offset(-200, 0).release().perform()
    assert state(browser, "x")[0] > 31
    assert state(browser, "x")[1] - state(browser, "x")[0] == pytest.approx(30, abs=0.01)
    browser.execute_script(
        "const at = (id, x, type) => parts.timeline.canvas.dispatchEvent(new PointerEvent(type, {pointerId: id,"
        " clientX: x, clientY: parts.timeline.canvas.getBoundingClientRect().top + 9, pointerType: 'touch'}));"
        "parts.timeline.canvas.setPointerCapture = () => {};"
        "at(11, 500, 'pointerdown'); at(12, 600, 'pointerdown'); at(12, 800, 'pointermove');"
        "at(11, 500, 'pointerup'); at(12, 800, 'pointerup')"
    )
    assert state(browser, "x")[1] - state(browser, "x")[0] < 15


def test_hostile_names_are_text(browser: Any, tmp_path: Path) -> None:
    """Of modules, files, functions, tensors, cards, the command, gaps and the recordings themselves."""
    recording = training(module=f"a.{HOSTILE}")
    recording.metadata["command"].append(HOSTILE)  # type: ignore[index]
    frames = (Frame(f"/me/{HOSTILE}.py", frame.line, f"{frame.name}{HOSTILE}") for frame in recording.stacks.frames)
    recording.stacks.frames[:] = frames
    gap = pd.DataFrame([{"source": HOSTILE, "begin_ns": 0, "end_ns": 0, "lost_count": 0, "reason": HOSTILE}])
    recording = replace(
        recording,
        devices=recording.devices.assign(name=HOSTILE),
        tensors=recording.tensors.assign(name=HOSTILE),
        gaps=gap,
    )
    report = Report(recording)
    both = report.compare(Report(recording), labels=(HOSTILE, f"2{HOSTILE}"))
    for path in (report.save(tmp_path / "page.html"), both.save(tmp_path / "both.html")):
        for rows in ("path", "line", "block"):
            visit(browser, path, f"#by={'path' if rows == 'block' else rows}&rows={rows}&block=0&flame=stack")
            assert browser.title == "vramprof (emulated)"
            assert HOSTILE in find(browser, "#head").text
            assert HOSTILE.partition(".")[0] in find(browser, "#rows").text  # a weight's module ends at its last dot
            assert HOSTILE in find(browser, "#detail").text
            assert browser.find_elements("css selector", "img") == []


def test_a_fragment_of_nonsense_is_survived(browser: Any, page: Path) -> None:
    visit(browser, page, "#x=9,1&m=99999999&block=99999&by=nothing&rows=nothing&s=7&flame=q&axis=e&zoom=[1]")
    assert "GPU 0" in find(browser, "body").text


def test_two_recordings_side_by_side(browser: Any, tmp_path: Path) -> None:
    before, after = Report(training()), Report(training(activation_mib=12, emulated=False))
    visit(browser, before.compare(after, labels=("dry run", "card")).save(tmp_path / "both.html"))
    cards = browser.find_elements("css selector", "#several .card")
    assert ["EMULATED" in card.text for card in cards] == [True, False]
    rows = {row.text.split()[0]: row.text for row in browser.find_elements("css selector", "#difference-0 tbody tr")}
    assert "+4.00 MiB" in rows["allocated"]
    cards[1].click()
    wait(lambda: "16.0 MiB" not in find(browser, "#peak").text and "20.0 MiB" in find(browser, "#peak").text)
    wait(lambda: "20.0 MiB" in find(browser, "#moment h2").text)


def test_two_recordings_on_one_axis_of_steps(browser: Any, tmp_path: Path) -> None:
    """The same step lies at the same place, however many events come before it; the difference is told there."""
    from selenium.webdriver.common.keys import Keys

    before, after = Report(training(steps=3)), Report(training(steps=5, activation_mib=12))
    visit(browser, before.compare(after, labels=("short", "long")).save(tmp_path / "both.html"))
    places = browser.execute_script(
        "const pair = data.recordings.map(recording => ({recording, told: recording.devices[0]}));"
        "const slots = slotsOf(pair), begins = ({told}) => told.overview.steps.map(step => step[1]);"
        "return [slots, ...pair.map(one => begins(one).map(acrossOf(one.told.overview, slots)))]"
    )
    assert places[0] == ["before", 0, 1, 2, 3, 4, "after"]
    assert places[1] == pytest.approx([1 / 7, 2 / 7, 3 / 7])
    assert places[2] == pytest.approx([1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7])
    box = find(browser, "#aligned-0")
    canvas = box.find_element("css selector", "canvas")
    width = canvas.size["width"]
    act(browser).move_to_element_with_offset(canvas, round(width * (1.4 / 7 - 0.5)), 5).perform()
    rows = wait(lambda: {row.text.split()[0]: row.text for row in box.find_elements("css selector", "tbody tr")})
    assert "step 0" in box.text
    assert "+4.00 MiB" in rows["allocated"]
    box.send_keys(*[Keys.ARROW_RIGHT] * 30)
    wait(lambda: "step 1" in box.text)


def test_ranks_and_the_odd_one_out(browser: Any, tmp_path: Path) -> None:
    ranks = {f"rank{rank}": Report(training(activation_mib=12 if rank == 5 else 8, rank=rank)) for rank in range(8)}
    visit(browser, Reports(ranks, kind="ranks").save(tmp_path / "ranks.html"))
    cards = browser.find_elements("css selector", "#several .card")
    assert len(cards) == 8
    assert [card.text.split()[0] for card in cards if "odd one out" in card.text] == ["rank5"]


def test_in_a_notebook(browser: Any, page: Path, report: Report, tmp_path: Path) -> None:
    (tmp_path / "notebook.html").write_text(f"<!doctype html><title>notebook</title>{report._repr_html_()}")
    browser.get((tmp_path / "notebook.html").as_uri())
    browser.switch_to.frame(browser.find_element("css selector", "iframe"))
    wait(lambda: "Alive at the peak" in browser.find_element("css selector", "body").text)
    browser.switch_to.default_content()


def test_findings_lead_to_their_moment_and_rows(browser: Any, tmp_path: Path) -> None:
    report = Report(training())
    frame = Frame("/me/model.py", 9, "forward")
    evidence = (Evidence("kept here", 8 * MIB, "bytes", (frame,)),)
    fix = Fix("let it go", "del x")
    finding = Finding("VP299", HOSTILE, "warning", 8 * MIB, "measured", 0, evidence, fix, moment=7)
    report.__dict__["findings"] = (finding,)
    visit(browser, report.save(tmp_path / "page.html"))
    box = find(browser, ".finding")
    assert HOSTILE in box.text
    assert "let it go" in box.text
    browser.find_elements("css selector", ".finding button")[1].click()
    wait(lambda: "match" in find(browser, "#rows-found").text)
    assert state(browser, "q") == "/me/model.py:9"
    assert state(browser, "m") == 7
    assert report.as_dict()["findings"][0]["moment_ns"] == report.facts.devices[0].timeline.time_ns[7]


@pytest.mark.parametrize(("width", "theme"), [(380, "light"), (380, "dark"), (1600, "light"), (1600, "dark")])
def test_narrow_and_wide_light_and_dark(browser: Any, page: Path, width: int, theme: str) -> None:
    """Nothing sticks out, every word can be told from its paper, and the emulation is said."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        visit(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert "EMULATED" in find(browser, "#head").text
        assert browser.execute_script(CONTRAST) >= 4.5
        canvas = find(browser, "canvas.timeline")
        assert width * 0.8 < canvas.size["width"] <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_prints_light(browser: Any, page: Path) -> None:
    """On paper the page is light, and its pictures are there, whatever the reader's theme."""
    visit(browser, page)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not browser.find_element("css selector", ".controls").is_displayed()
    assert len(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 20_000
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
