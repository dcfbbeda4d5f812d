"""Size and speed of a page in headless Chromium: render, first paint, zoom, stretch, request.

page.py [--iterations N] [--ranks R] [--requests Q]  - draws the overview of a made run (default a
million iterations on 8 ranks with 200,000 requests), opens it, and prints what a reader waits for.
A stall is a task of the browser that blocks its page; the longest of each action is printed.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pdtrace.pages import render_page  # noqa: E402
from tests.pages.made_pages import settle  # noqa: E402

MADE = ROOT / "tests" / "figures"
make_run = runpy.run_path(str(MADE / "made_run.py"))["make_run"]
add_requests = runpy.run_path(str(MADE / "made_requests.py"))["add_requests"]
OBSERVE = """
window.stalls = [];
new PerformanceObserver((list) => list.getEntries().forEach((e) => stalls.push(e.duration)))
  .observe({ type: "longtask", buffered: true });
"""
TAKE = "const told = window.stalls.map(Math.round); window.stalls = []; return told;"


def open_browser(folder: str) -> webdriver.Chrome:
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("headless", "no-sandbox", "disable-gpu", f"user-data-dir={folder}/profile"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1400,1200")
    return webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)


def describe(stalls: list[int]) -> str:
    """The longest of the stalls over 50 ms, and how many there were."""
    return f"longest stall {max(stalls)} ms of {len(stalls)}" if stalls else "no stall over 50 ms"


def main() -> None:
    """Draw, open, act, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--requests", type=int, default=200_000)
    told = parser.parse_args()
    run = add_requests(make_run(told.iterations, told.ranks), told.requests)
    began = time.perf_counter()
    page = render_page(run)
    print(f"render                {time.perf_counter() - began:7.1f} s")
    print(f"page                  {len(page.encode()) / 1e6:7.2f} MB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        driver = open_browser(folder)
        try:
            measure(driver, path, told.iterations)
        finally:
            driver.quit()


def measure(driver: webdriver.Chrome, path: Path, iterations: int) -> None:
    """Open the page and time what a reader does."""
    driver.get(path.as_uri())
    ready = "return document.documentElement.dataset.ready"
    WebDriverWait(driver, 120).until(lambda d: d.execute_script(ready))
    driver.execute_script(OBSERVE)
    time.sleep(0.3)
    paint = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
    print(f"first paint           {driver.execute_script(paint):7.0f} ms")
    print(f"all figures drawn     {float(driver.execute_script(ready)):7.0f} ms")
    print(f"  opening: {describe(driver.execute_script(TAKE))}")
    print(driver.execute_script("return document.querySelector('[data-exact]').closest('.tile')"
                                ".querySelector('p.note').textContent"))  # fmt: skip
    took = []
    while True:
        driver.find_element("css selector", '[data-do="in"]').click()
        settle(driver)
        plot = driver.find_element("css selector", "[data-exact]")
        took.append(float(plot.get_attribute("data-draw-ms") or "nan"))
        if plot.get_attribute("data-exact") == "true":
            break
    print(f"zoom, {len(took)} steps        {sorted(took)[len(took) // 2]:7.0f} ms median redraw, "
          f"{max(took):.0f} ms longest; {describe(driver.execute_script(TAKE))}")  # fmt: skip
    for share in (1.0, 0.5, 0.001):
        number = max(int(share * iterations), 1)
        driver.execute_script("timelines[0].stretch.set(0, arguments[0])", number)
        settle(driver)
        bar = driver.find_element("css selector", "#stretch")
        until = float(bar.get_attribute("data-took-ms") or "nan")
        stalls = describe(driver.execute_script(TAKE))
        print(f"stretch of {number:9,} {until:7.0f} ms until the last tile; {stalls}")
    driver.execute_script("timelines[0].stretch.clear()")
    settle(driver)
    driver.execute_script(TAKE)
    began = time.perf_counter()
    driver.execute_async_script(
        "const p = timelines[0].path; p.show(p.requests.carried - 1).then(arguments[0])"
    )
    print(f"request's way         {1e3 * (time.perf_counter() - began):7.0f} ms; "
          f"{describe(driver.execute_script(TAKE))}")  # fmt: skip


if __name__ == "__main__":
    main()
