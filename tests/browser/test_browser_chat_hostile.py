"""Two hundred hostile texts in the chat page: from a person, from the bot, from an operator, as a quick reply."""

from __future__ import annotations

from itertools import count

import pytest
from playwright.sync_api import expect

from bot.conversation import Message
from bot.feedback.desk import Doing
from tests.browser.chat_page import conversation_of
from tests.browser.conftest import Visit
from tests.browser.product import Product
from tests.hostile import INERT_JS, PAYLOADS

pytestmark = pytest.mark.browser

_numbers = count()


def put(product: Product, conversation_id: str, role: str, text: str, **fields: object) -> None:
    """A line of the transcript, as if it had been said."""
    number = next(_numbers)
    line = Message(f"m_hostile_{number}", conversation_id, 0, role, text, 1000.0, f"hostile-{number}")
    product.rig.store.add_reply(Message(**{**_fields(line), **fields}), None)  # type: ignore[arg-type]


def _fields(message: Message) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__slots__}


@pytest.mark.parametrize("role", ["user", "bot", "operator"])
def test_two_hundred_hostile_texts_stay_text(visit: Visit, product: Product, role: str) -> None:
    """All of them in one transcript: each is there to be read, none came alive, and nothing was asked of any host."""
    page = visit.chat()
    conversation_id = conversation_of(page)
    author = f"operator:{PAYLOADS[0].text}" if role == "operator" else ""  # a provider may call people anything
    if author:
        product.rig.store.desk.take_over(Doing(author, 1000.0), conversation_id)
    for payload in PAYLOADS:
        put(product, conversation_id, role, payload.text, author=author)
    # Nothing waits for a reply, and who speaks goes on speaking.
    put(product, conversation_id, "operator" if author else "bot", "the end", author=author)
    page.reload()
    expect(page.locator(".rj-message")).to_have_count(len(PAYLOADS) + 2)
    shown = page.locator(".rj-message").all_text_contents()[1:-1]
    assert [payload.marker for payload, text in zip(PAYLOADS, shown, strict=True) if payload.marker not in text] == []
    if role == "user":
        assert page.locator(".rj-plain").all_text_contents() == [payload.text for payload in PAYLOADS]
    if author:
        expect(page.locator(".rj-banner")).to_contain_text(PAYLOADS[0].text)
    assert page.evaluate(INERT_JS, "#rejoinder") == []
    assert page.evaluate("document.querySelector('.rj-scroll').scrollWidth <= window.innerWidth")


def test_hostile_quick_replies_and_sources_stay_text(visit: Visit, product: Product) -> None:
    """Titles of articles and buttons of a domain are texts too."""
    page = visit.chat()
    texts = tuple(payload.text for payload in PAYLOADS if payload.kind in ("markup", "link"))
    put(product, conversation_of(page), "bot", "Which one?", quick_replies=texts, sources=texts)
    page.reload()
    expect(page.locator(".rj-quick")).to_have_count(len(texts))
    assert page.locator(".rj-quick").all_text_contents() == list(texts)
    assert page.evaluate(INERT_JS, "#rejoinder") == []


def test_the_search_for_live_payloads_finds_them_where_they_are(visit: Visit) -> None:
    """The control: put into the page as HTML, the same texts are found, also inside a shadow root."""
    page = visit.chat()
    page.evaluate(
        """() => {
            const box = document.body.appendChild(document.createElement('div'));
            box.className = 'control';
            const inside = box.appendChild(document.createElement('div')).attachShadow({mode: 'open'});
            inside.innerHTML = '<a href="javascript:window.hostileRan=1">x</a><b onclick="window.hostileRan=1">x</b>';
        }"""
    )
    assert page.evaluate(INERT_JS, ".control") == ["A leads to javascript:", "B has onclick"]
