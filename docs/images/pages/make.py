"""Makes the pictures of dashboards/README.md from the sample logs, with Selenium and Chromium.

``python docs/images/pages/make.py`` in a checkout with the development dependencies, and Pillow,
which leaves each picture the colours that it shows and makes it half as large.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
OFF, ON = "sample_logs/h100x2-off", "sample_logs/h100x2-on"
FOUR = "sample_logs/cpu-dp4-on"
FLEET = sorted(f"sample_logs/{p.name}" for p in (ROOT / "sample_logs").iterdir() if p.is_dir())
NUM_COLOURS = 128
# File, arguments of ``dashboard``, dark, size of the window, what is done on the page.
PICTURES: tuple[tuple[str, list[str], bool, tuple[int, int], str], ...] = (
    ("overview", [FOUR], False, (1384, 867), "point"),
    ("overview_dark", [FOUR], True, (1384, 2400), ""),
    ("stretch", [FOUR], False, (1284, 1200), "stretch"),
    ("request", [FOUR], False, (1384, 1010), "request"),
    ("comparison", [OFF, ON, "--page", "comparison"], False, (1280, 1530), ""),
    ("whatif", [ON, "--page", "whatif"], False, (1280, 1310), ""),
    ("fleet", FLEET, False, (1280, 1150), ""),
)


def open_browser(folder: str) -> WebDriver:
    """Headless Chromium with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={folder}/profile")
    return webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)


def act(browser: WebDriver, what: str) -> None:
    """Do to the page what its picture is about."""
    if what == "stretch":
        browser.find_element("css selector", ".worst button").click()
        browser.execute_async_script("setTimeout(() => arguments[0](scrollTo(0, 0)), 1500)")
    elif what == "request":
        browser.find_elements("css selector", "button.rid")[0].click()
    elif what == "point":
        browser.execute_async_script(
            "timelines[0].lead(timelines[0].show(44, 64)).then(arguments[0])"
        )
        area = browser.find_element("css selector", ".plot[data-exact] .nsewdrag")
        x, y = -round(0.41 * area.size["width"]), -round(0.38 * area.size["height"])
        ActionChains(browser).move_to_element_with_offset(area, x, y).perform()


def photograph(
    browser: WebDriver, page: Path, dark: bool, size: tuple[int, int], what: str
) -> bytes:
    """A page as the browser shows it."""
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    window = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    browser.get(page.as_uri())
    drawn = "return document.documentElement.dataset.ready"
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(drawn))
    act(browser, what)
    # By then whatever was asked for is painted.
    browser.execute_async_script("setTimeout(arguments[0], 1500)")
    picture: bytes = browser.get_screenshot_as_png()
    return picture


def main() -> None:
    """Draw each page and photograph it."""
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        browser = open_browser(folder)
        for name, arguments, dark, size, what in PICTURES:
            page = Path(folder) / "page.html"
            command = [sys.executable, "-m", "pdtrace", "dashboard", *arguments, "-o", str(page)]
            subprocess.run(command, check=True)
            picture = Image.open(io.BytesIO(photograph(browser, page, dark, size, what)))
            few = picture.convert("RGB").quantize(NUM_COLOURS, dither=Image.Dither.NONE)
            few.save(HERE / f"{name}.png", optimize=True)
        browser.quit()


if __name__ == "__main__":
    main()
