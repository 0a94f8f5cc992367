"""A real browser for the page's tests: Debian's chromium, without a window, driven by selenium."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WIDTH, HEIGHT = 1200, 1000


@contextmanager
def open_browser(*, has_logs: bool = True) -> Iterator[Any]:
    """A headless chromium that draws in software and, unless told otherwise, keeps its console and network logs."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    service = shutil.which("chromedriver")
    if chromium is None or service is None:
        pytest.skip("no chromium with its chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(argument)
    if has_logs:
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    try:
        yield browser
    finally:
        browser.quit()


def visit(browser: Any, path: Path, fragment: str = "") -> None:
    """Open the page from disk, and wait until its blocks are there."""
    browser.get("about:blank")
    browser.get(f"{path.as_uri()}{fragment}")
    wait(lambda: browser.execute_script("return performance.getEntriesByName('ready').length > 0"))


def wait(condition: Callable[[], Any], *, seconds: float = 20) -> Any:
    """Until the condition holds; an element that was just replaced is looked for again."""
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(StaleElementReferenceException):
            found = condition()
            if found:
                return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def requests(browser: Any) -> list[str]:
    """What was asked of any network since the last call, data: and file: aside."""
    found = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return [url for url in found if not url.startswith(("file:", "data:", "about:"))]
