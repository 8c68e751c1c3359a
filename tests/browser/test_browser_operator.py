"""The operator's pages in a real browser: signing in, reading a transcript, the studio's levers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.accessibility import serious_findings
from tests.browser.chat_page import ask, conversation_of
from tests.browser.conftest import Visit
from tests.browser.product import Product
from tests.browser.test_browser_chat import HOSTILE
from tests.builders import make_decision, make_message
from tests.hostile import INERT_JS

pytestmark = pytest.mark.browser

DAY_S = 86_400.0


def test_nobody_reads_conversations_without_signing_in(visit: Visit) -> None:
    """Both pages lead to the sign-in form; their data routes refuse."""
    for path in ("/operator", "/operator/", "/studio"):
        expect(visit.open(path).get_by_label("Operator key")).to_be_visible()
    for path in ("/operator/config", "/operator/gradio_api/startup-events", "/studio/gradio_api/info"):
        assert visit.context.request.get(visit.home + path).status == 401


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_where_one_signs_in(new_visit: Callable[..., Visit], scheme: str) -> None:
    """Also beside the line that says what was wrong; on a phone."""
    page = new_visit(viewport={"width": 390, "height": 844}, color_scheme=scheme).open("/login")
    page.get_by_label("Operator key").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator(".problem")).to_be_visible()
    assert serious_findings(page, "main") == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


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


def test_a_filter_is_kept_exported_and_removed(operator_visit: Visit) -> None:
    """Chosen again it brings its list back; both files hold what it shows and nothing else; removed it is gone."""
    lilac, name = fresh("lilac"), fresh("Lilac")
    ask(operator_visit.chat(), f"A {lilac} question").get_by_role("button", name="Bad reply").click()
    page = operator_visit.open("/operator/")
    find(page, lilac)
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Thumb", exact=True).focus()
    for chosen in ("up", "down"):  # by keyboard, which stays there
        page.keyboard.press("ArrowDown")
        expect(page.get_by_label("Thumb", exact=True)).to_have_value(chosen)
    expect(page.get_by_label("Thumb", exact=True)).to_be_focused()
    page.get_by_label("Name of this filter").fill(name)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text(f'Filter "{name}" is saved.')).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_label("Search", exact=True)).to_have_value("")
    page.get_by_label("Saved filters").select_option(name)
    expect(page.get_by_label("Search", exact=True)).to_have_value(lilac)
    expect(page.locator(".od-row")).to_have_count(1)
    lines = exported(page, "Export JSONL").splitlines()
    assert (len(lines), lilac in lines[0]) == (1, True)
    assert lilac in exported(page, "Export CSV")
    page.get_by_role("button", name=f"Remove the filter {name}").click()
    expect(page.get_by_text(f'Filter "{name}" is removed.')).to_be_visible()
    expect(page.get_by_label("Saved filters").locator("option", has_text=name)).to_have_count(0)


def exported(page: Page, link: str) -> str:
    """The file behind a link."""
    with page.expect_download() as download:
        page.get_by_role("link", name=link).click()
    return Path(download.value.path()).read_text()


def test_until_a_day_means_to_its_end(visit: Visit, sign_in: Callable[[Visit], Visit], product: Product) -> None:
    """From and until the same day: what happened on it, in the reader's own time. The day after holds nothing yet."""
    product.rig.clock.now += 10 * DAY_S  # the rig's clock begins with the epoch: nothing can be asked before it
    ochre = fresh("ochre")
    ask(sign_in(visit).chat(), f"An {ochre} question")
    page = visit.open("/operator/")
    find(page, ochre)
    day = product.rig.store.newest_replies(1)[0].created_at
    today, tomorrow = page.evaluate(
        "moments => moments.map((at) => new Date(at * 1000).toLocaleDateString('sv'))", [day, day + DAY_S]
    )
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("From").fill(today)
    page.get_by_label("Until").fill(today)
    expect(page.get_by_label("Until")).to_have_value(today)
    expect(page.locator(".od-row")).to_have_count(1)
    page.get_by_label("Until").fill(tomorrow)
    page.get_by_label("From").fill(tomorrow)
    expect(page.get_by_text("No conversation matches.")).to_be_visible()


def test_what_an_action_did_is_read_beside_what_it_said(operator_visit: Visit, product: Product) -> None:
    """The action and why it failed, slots, forms, and events that only Rasa knows; whatever a slot holds stays text."""
    chat, umber = operator_visit.chat(), fresh("umber")
    ask(chat, f"An {umber} question")
    here = conversation_of(chat)
    decision = make_decision(id=fresh("d"), conversation_id=here, turn=9)
    fields = {"conversation_id": here, "role": "bot", "decision_id": decision.id, "text": "Done."}
    events: list[dict[str, Any]] = [
        {"event": "action", "name": "action_freeze_card", "error": "it raised KeyError"},
        {"event": "slot", "name": "card_last4", "value": HOSTILE},
        {"event": "slot", "name": "freeze_confirmed", "value": None},
        {"event": "active_loop", "name": None},
        {"event": "reminder", "name": "tomorrow", "intent": "check"},
    ]
    product.rig.store.add_reply(make_message(id=fresh("m"), **fields), decision, events=events)
    page = operator_visit.open("/operator/")
    find(page, umber)
    step = page.locator(".od-step", has_text="action failed")
    step.locator("summary").first.click()
    expect(step.locator(".od-doings li")).to_have_text(
        [
            "ran action_freeze_card it raised KeyError",
            f"card_last4 = {json.dumps(HOSTILE)}",
            "freeze_confirmed was emptied",
            "ended the form",
            'reminder {"intent":"check","name":"tomorrow"}',
        ]
    )
    assert page.evaluate(INERT_JS, "#rj-desk") == []
    assert serious_findings(page, "#rj-desk") == []


def test_signing_out_closes_the_pages(operator_visit: Visit) -> None:
    """The cookie is gone; the next visit asks again."""
    page = operator_visit.open("/operator/")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Operator key")).to_be_visible()
    expect(operator_visit.open("/studio").get_by_label("Operator key")).to_be_visible()
