"""The operator's pages in a real browser: signing in, reading a transcript, the studio's levers."""

from __future__ import annotations

import secrets

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visit
from tests.browser.product import Product
from tests.browser.test_browser_chat import HOSTILE, ask

pytestmark = pytest.mark.browser


def test_nobody_reads_conversations_without_signing_in(visit: Visit) -> None:
    """Both pages lead to the sign-in form; their data routes refuse."""
    for path in ("/operator", "/operator/", "/studio"):
        expect(visit.open(path).get_by_label("Operator key")).to_be_visible()
    for path in ("/operator/config", "/operator/gradio_api/startup-events", "/studio/gradio_api/info"):
        assert visit.context.request.get(visit.home + path).status == 401


def fresh(word: str) -> str:
    """A word that no earlier attempt of a test has used."""
    return f"{word}{secrets.token_hex(4)}"


def find(page: Page, words: str) -> None:
    """Search for words that occur in one conversation, and open it."""
    search = page.get_by_label("Search", exact=True)
    search.fill(words)
    search.press("Enter")
    expect(page.locator(".od-row")).to_have_count(1)
    expect(page.locator(".od-row mark").first).to_be_visible()
    page.locator(".od-row").click()
    expect(page.locator(".od-message").first).to_be_visible()


def test_the_operator_finds_and_reads_a_transcript(operator_visit: Visit) -> None:
    """A search finds it; each reply shows its act, propensity, version, why it was chosen, and what the person said."""
    purple = fresh("purple")
    reply = ask(operator_visit.chat(), f"Where is my {purple} card?")
    reply.get_by_role("button", name="Good reply").click()
    page = operator_visit.open("/operator/")
    find(page, purple)
    transcript = page.locator(".od-transcript")
    expect(transcript.get_by_text(f"Where is my {purple} card?")).to_be_visible()
    step = transcript.locator(".od-step")
    expect(step.locator("summary")).to_contain_text("answer:card_arrival")
    expect(step.locator("summary")).to_contain_text("v000001")
    step.locator("summary").click()
    # softmax(1, 0) = 0.731, 0.269
    expect(step.locator(".od-acts tbody tr")).to_have_count(2)
    expect(step.locator(".od-acts")).to_contain_text("73 %")
    expect(step.get_by_text("The retriever alone would have chosen this act.")).to_be_visible()
    expect(step.locator(".od-inside").get_by_text("thumb up")).to_be_visible()


def test_hostile_text_is_inert_on_the_operators_page(operator_visit: Visit, product: Product) -> None:
    """In the list, the snippet and the transcript; a dialog or a request outside fails the test by itself."""
    product.script(HOSTILE)
    magenta = fresh("magenta")
    ask(operator_visit.chat(), f"{magenta} {HOSTILE}")
    page = operator_visit.open("/operator/")
    find(page, magenta)
    expect(page.locator(".od-message.od-user .od-text")).to_have_text(f"{magenta} {HOSTILE}")
    expect(page.locator(":is(.od-rows, .od-transcript) :is(img, script, iframe, b, a)")).to_have_count(0)


def test_filters_narrow_the_list(operator_visit: Visit) -> None:
    """By thumb; nothing that matches is said plainly."""
    amber = fresh("amber")
    ask(operator_visit.chat(), f"An {amber} question").get_by_role("button", name="Bad reply").click()
    page = operator_visit.open("/operator/")
    find(page, amber)
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Thumb", exact=True).select_option("up")
    expect(page.get_by_text("No conversation matches.")).to_be_visible()
    page.get_by_label("Thumb", exact=True).select_option("down")
    expect(page.locator(".od-row")).to_have_count(1)


def test_signing_out_closes_the_pages(operator_visit: Visit) -> None:
    """The cookie is gone; the next visit asks again."""
    page = operator_visit.open("/operator/")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Operator key")).to_be_visible()
    expect(operator_visit.open("/studio").get_by_label("Operator key")).to_be_visible()
