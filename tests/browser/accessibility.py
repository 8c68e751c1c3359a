"""What axe-core finds on a page, as lines a test can compare with []."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

SERIOUS = ("serious", "critical")


def serious_findings(page: Page, selector: str) -> list[str]:
    """Serious and critical findings under a selector: rule, what it is about, where."""
    found = Axe().run(page, context=selector).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {node['target']}"
        for rule in found
        if rule["impact"] in SERIOUS
        for node in rule["nodes"]
    ]
