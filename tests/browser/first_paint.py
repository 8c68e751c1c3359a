"""Measures how soon the chat page shows: `python -m tests.browser.first_paint` prints one JSON object.

The real server with the scripted policy of the browser tests, and Chromium with an empty cache each time. Times are
milliseconds after the navigation began, by the browser's own clock.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.conftest import ARGS
from tests.browser.product import running_product

NUM_VISITS = 10
CHROMIUM = "/usr/bin/chromium"
MEASURE_JS = """() => ({
  first_paint_ms: performance.getEntriesByName('first-contentful-paint')[0].startTime,
  ready_ms: performance.now(),
  num_requests: performance.getEntriesByType('resource').length + 1,
  bytes: performance.getEntriesByType('resource').reduce((sum, entry) => sum + entry.transferSize, 0),
})"""
"""`ready_ms`: the greeting of the server is on the page."""


def visit(browser: Browser, url: str) -> dict[str, float]:
    """One person's first visit."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(url)
    expect(page.locator(".rj-message")).to_have_count(1)
    measured: dict[str, float] = page.evaluate(MEASURE_JS)
    context.close()
    return measured


def main() -> None:
    """Ten visits to `/`, the first (which warms the server) left out."""
    with tempfile.TemporaryDirectory() as home, running_product(Path(home)) as product, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        visits = [visit(browser, product.url) for _ in range(NUM_VISITS + 1)][1:]
        browser.close()
    report = {name: round(statistics.median(one[name] for one in visits)) for name in visits[0]}
    report["first_paint_worst_ms"] = round(max(one["first_paint_ms"] for one in visits))
    print(json.dumps(report | {"visits": NUM_VISITS}))


if __name__ == "__main__":
    main()
