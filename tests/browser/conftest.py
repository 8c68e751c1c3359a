"""One Chromium a module; each test gets a running product and persons (fresh profiles) of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, expect, sync_playwright

from tests.browser.product import Product, running_product
from tests.service_rig import OPERATOR_KEY

ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 20_000
FIRST_PAGE_MS = 90_000
"""The first page of a fresh browser and server: everything is read from disk once."""
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """Of this test alone: under a random order, what one test leaves in a shared one fails another."""
    with running_product(tmp_path / "product") as product:
        yield product


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Closed at the end of each module: while Playwright is open its event loop runs, and no async test can."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=ARGS)
        yield opened
        opened.close()


class Visit:
    """One person's browser: its tabs, and everything in them that must never happen."""

    def __init__(self, context: BrowserContext, home: str) -> None:
        self.context = context
        self.home = home
        self.homes = [home]
        """Whom its pages may ask for anything."""
        self.dialogs: list[str] = []
        self.outside: list[str] = []
        self.errors: list[str] = []
        context.set_default_timeout(PATIENCE_MS)
        context.on("page", self._watch)

    def open(self, path: str = "/") -> Page:
        """A tab at `path`."""
        page = self.context.new_page()
        page.goto(self.home + path, timeout=FIRST_PAGE_MS)
        return page

    def chat(self) -> Page:
        """A tab whose chat is connected: the version badge is there."""
        page = self.open()
        expect(page.locator(".rj-badge b")).to_have_text("v000001")
        return page

    def _watch(self, page: Page) -> None:
        page.on("dialog", self._refuse)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._note(request.url))

    def _refuse(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _note(self, url: str) -> None:
        if not url.startswith((*self.homes, "data:", "blob:")):
            self.outside.append(url)


@pytest.fixture
def new_visit(browser: Browser, product: Product) -> Iterator[Callable[..., Visit]]:
    """Makes persons; at the end no page may have shown a dialog, raised, or asked another host for anything."""
    visits: list[Visit] = []

    def make(**options: object) -> Visit:
        visits.append(Visit(browser.new_context(**options), product.url))  # type: ignore[arg-type]
        return visits[-1]

    yield make
    for visit in visits:
        visit.context.close()
        assert (visit.dialogs, visit.outside, visit.errors) == ([], [], [])


@pytest.fixture
def visit(new_visit: Callable[..., Visit]) -> Visit:
    """One person on a desktop screen."""
    return new_visit(viewport={"width": 1280, "height": 800})


@pytest.fixture
def sign_in() -> Callable[[Visit], Visit]:
    """Signs a person in as an operator, with the form."""

    def enter(visit: Visit) -> Visit:
        page = visit.open("/operator")
        page.get_by_label("Operator key").fill(OPERATOR_KEY)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("link", name="Studio")).to_be_visible(timeout=FIRST_PAGE_MS)
        page.close()
        return visit

    return enter


@pytest.fixture
def operator_visit(visit: Visit, sign_in: Callable[[Visit], Visit]) -> Visit:
    """An operator who signed in with the form."""
    return sign_in(visit)
