"""Signing in with a provider in a real browser: two sites, their redirects, and cookies that only one of them may see."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from bot.oidc import Provider
from bot.settings import OidcSettings
from tests.browser.conftest import FIRST_PAGE_MS, Visit
from tests.browser.product import Product
from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, ScriptedProvider

pytestmark = pytest.mark.browser


@pytest.fixture
def provider(product: Product) -> Iterator[ScriptedProvider]:
    """On localhost, which is another site than 127.0.0.1, where the product is."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        scripted = ScriptedProvider(product.rig.clock, f"http://localhost:{listening.getsockname()[1]}")
        somebody = uuid4().hex  # The product outlives this test, and the account with it.
        scripted.person |= {"sub": somebody, "email": f"{somebody}@example.org"}
        server = uvicorn.Server(uvicorn.Config(scripted.app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield scripted
        finally:
            server.should_exit = True
            thread.join()


def test_an_operator_signs_in_with_the_provider_and_lands_where_they_wanted(
    visit: Visit, product: Product, provider: ScriptedProvider
) -> None:
    """The session's cookie is SameSite=Strict, which a redirect from another site would not carry."""
    settings = OidcSettings(
        issuer=provider.issuer, client_id=CLIENT_ID, name="Example", role_claim="groups", operators=("desk",)
    )
    service = product.rig.app.state.service
    service.provider = Provider(settings, product.url, secret=CLIENT_SECRET, clock=product.rig.clock)
    visit.homes.append(provider.issuer)
    try:
        page = visit.open("/operator")
        door = page.get_by_role("link", name="Sign in with Example")
        expect(door).to_be_visible()
        assert Axe().run(page).response["violations"] == []
        door.click()
        expect(page.get_by_text(f"{provider.person['email']} · operator")).to_be_visible(timeout=FIRST_PAGE_MS)
        assert page.url.startswith(f"{product.url}/operator")
        assert [row.action for row in product.rig.store.desk.audit(limit=2)] == ["sign in", "add account"]
        page.get_by_role("button", name="Sign out").click()
        expect(door).to_be_visible()
        assert provider.asked[-1] == "/end"
    finally:
        service.provider = None
