"""A real browser for the tests of pages: started once, and each page opened in it alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium; tests that need it are skipped where there is none."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip("chromium or chromedriver not found")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}", "window-size=1400,1200",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=Service(str(DRIVER)), options=options)
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a page and wait until it is drawn; afterwards it must have kept quiet.

    No test leaves a message on the console, and no page asks for anything but itself.
    """
    from selenium.webdriver.support.ui import WebDriverWait

    def open_(text: str, *, dark: bool = False) -> Any:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get("about:blank")
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(path.as_uri())
        drawn = "return document.documentElement.dataset.ready"
        WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda d: d.execute_script(drawn))
        return browser

    yield open_
    assert browser.get_log("browser") == []
    asked = list_requests(browser)
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:"))] == []


def list_requests(browser: Any) -> list[str]:
    """Addresses that the page has asked for since it was opened."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
