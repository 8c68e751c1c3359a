"""The chat page as a person sees it: a real browser, the real server, a scripted policy."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, expect

from bot.conversation import Message
from tests.browser.chat_page import ask, conversation_of, replies, say
from tests.browser.conftest import Visit
from tests.browser.product import Product

pytestmark = pytest.mark.browser

WHOLE = "Your card is on its way. It will arrive by Friday."
HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script> [press](javascript:alert(3)) **<b onclick=alert(4)>bold</b>** "
    "![x](https://evil.example/pixel.png) <iframe src=https://evil.example></iframe> ${alert(5)} {{7*7}}"
)


def offset(part: Locator, whole: Locator) -> tuple[float, float]:
    """Where a part is within something that may scroll or still be sliding in (px): both are read in one frame."""
    x, y = whole.evaluate(
        """(outer, inner) => {
            const [a, b] = [outer.getBoundingClientRect(), inner.getBoundingClientRect()];
            return [b.x - a.x, b.y - a.y].map((distance) => Math.round(100 * distance) / 100);
        }""",
        part.element_handle(),
    )
    return x, y


def stored_votes(product: Product) -> list[tuple[float, str, str]]:
    """(value, label, comment) of the thumbs in conversations that are open in a page, oldest first."""
    found = [signal for name in list(product.rig.hub.rooms) for signal in product.rig.store.signals(name)]
    return [(signal.value, signal.label, signal.comment) for signal in sorted(found, key=lambda signal: signal.seq)]


def test_the_first_frame_says_ai_and_offers_a_person(visit: Visit) -> None:
    """Before any script runs, the container already holds both; afterwards the domain's own words do."""
    page = visit.chat()
    expect(page.get_by_text("I am an AI assistant.")).to_be_visible()
    expect(page.get_by_text("You can ask for a person at any time.")).to_be_visible()
    config = visit.context.request.get(visit.home + "/config").text()
    assert "You are chatting with an AI assistant." in config
    expect(page.locator("footer:not(.rj-footer)")).to_have_count(0)


def test_a_reply_is_seen_growing(visit: Visit, product: Product) -> None:
    """Each piece shows as it comes; the stop button is there while it does; the whole message ends it."""
    product.hold()
    page = visit.chat()
    say(page, "Where is my card?")
    expect(page.locator(".rj-typing")).to_be_visible()
    product.step(2)
    growing = page.locator(".rj-streaming .rj-text")
    expect(growing).to_have_text("Your card is on")
    expect(page.get_by_role("button", name="Stop the reply")).to_be_visible()
    product.step(4)
    expect(replies(page).locator(".rj-text")).to_have_text(WHOLE)
    expect(page.locator(".rj-streaming")).to_have_count(0)
    expect(page.get_by_role("button", name="Stop the reply")).to_be_hidden()


def test_stop_ends_the_reply_where_it_is(visit: Visit, product: Product) -> None:
    """What was written stays, marked as stopped."""
    product.hold()
    page = visit.chat()
    say(page, "Where is my card?")
    product.step(1)
    expect(page.locator(".rj-streaming .rj-text")).to_have_text("Your card")
    page.get_by_role("button", name="Stop the reply").click()
    expect(page.get_by_text("Stopped")).to_be_visible()
    expect(page.locator(".rj-bot .rj-text").last).to_have_text("Your card")


@pytest.mark.parametrize(
    ("reason", "tokens", "shown"),
    [
        ("length", ("Your card ", "is on"), "Your card is on…"),
        ("length", ("Your card ", "is on ", "its way."), "Your card is on its way."),
        ("stop", ("Your card ", "is on"), "Your card is on"),
    ],
)
def test_a_reply_cut_in_the_middle_of_a_sentence_says_so(
    visit: Visit, product: Product, reason: str, tokens: tuple[str, ...], shown: str
) -> None:
    """By an ellipsis; one that ends with its sentence, or by itself, has none."""
    product.rig.replier.stop_reason, product.rig.policy.tokens = reason, tokens
    expect(ask(visit.chat()).locator(".rj-text")).to_have_text(shown)


def test_a_second_tab_sees_the_same_conversation_live(visit: Visit, product: Product) -> None:
    """History on opening, then messages, deltas and votes as they happen in the first."""
    first = visit.chat()
    ask(first)
    second = visit.chat()
    expect(replies(second).locator(".rj-text")).to_have_text(WHOLE)
    product.hold()
    say(first, "And the PIN?")
    product.step(1)
    expect(second.get_by_text("And the PIN?")).to_be_visible()
    expect(second.locator(".rj-streaming .rj-text")).to_have_text("Your card")
    product.step(5)
    expect(replies(second)).to_have_count(2)
    replies(first).first.get_by_role("button", name="Bad reply").click()
    expect(replies(second).first.get_by_role("button", name="Bad reply")).to_have_attribute("aria-pressed", "true")


def test_a_vote_with_reasons_and_comment_is_one_vote_and_survives_a_reload(visit: Visit, product: Product) -> None:
    """A press counts at once; details replace it as one vote; the reloaded page shows it; pressing again withdraws."""
    page = visit.chat()
    reply = ask(page)
    reply.get_by_role("button", name="Good reply").click()
    reply.get_by_role("button", name="Correct").click()
    reply.get_by_role("button", name="Quick", exact=True).click()
    reply.get_by_label("Anything else? (optional)").fill("just what I needed")
    reply.get_by_role("button", name="Send feedback").click()
    expect(reply.get_by_text("Thank you.")).to_be_visible()
    page.reload()
    up = replies(page).get_by_role("button", name="Good reply")
    expect(up).to_have_attribute("aria-pressed", "true")
    replies(page).get_by_role("button", name="Edit feedback").click()
    expect(replies(page).get_by_role("button", name="Correct")).to_have_attribute("aria-pressed", "true")
    expect(replies(page).get_by_label("Anything else? (optional)")).to_have_value("just what I needed")
    up.click()
    expect(up).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".rj-vote-form")).to_have_count(0)
    page.reload()
    expect(up).to_have_attribute("aria-pressed", "false")
    assert stored_votes(product)[-3:] == [(1.0, "", ""), (1.0, "correct|fast", "just what I needed"), (0.0, "", "")]


def test_a_reply_that_asks_shows_its_question_until_it_is_rated(visit: Visit, product: Product) -> None:
    """Beside the thumbs, which stay where they are when it goes; back after a reload only while there is no vote. Other
    replies show none (the control)."""
    page, question = visit.chat(), "Did this answer your question?"
    plain = ask(page)
    product.ask_for_ratings()
    asked = ask(page)
    expect(asked.get_by_text(question)).to_be_visible()
    expect(asked.get_by_role("group", name=question)).to_be_visible()
    expect(plain.get_by_text(question)).to_be_hidden()
    page.reload()
    asked, up = replies(page).nth(1), replies(page).nth(1).get_by_role("button", name="Good reply")
    expect(asked.get_by_text(question)).to_be_visible()
    before = offset(up, asked)
    up.click()
    expect(asked.get_by_text(question)).to_be_hidden()
    assert offset(up, asked) == before
    page.reload()
    expect(up).to_have_attribute("aria-pressed", "true")
    expect(asked.get_by_text(question)).to_be_hidden()


def test_a_thumb_can_change_its_mind(visit: Visit) -> None:
    """The other thumb takes the place of the first, with the other sign's reasons."""
    reply = ask(visit.chat())
    reply.get_by_role("button", name="Good reply").click()
    reply.get_by_role("button", name="Bad reply").click()
    expect(reply.get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "false")
    expect(reply.get_by_role("button", name="Bad reply")).to_have_attribute("aria-pressed", "true")
    expect(reply.get_by_role("button", name="Wrong answer")).to_be_visible()


def test_a_new_version_shows_without_a_reload(visit: Visit, product: Product) -> None:
    """The badge in the header changes; replies keep the badge of the version that made them."""
    page = visit.chat()
    old = ask(page)
    product.publish("v000002")
    expect(page.locator(".rj-badge b")).to_have_text("v000002")
    new = ask(page, "And now?")
    expect(old.locator(".rj-version")).to_have_text("v000001")
    expect(new.locator(".rj-version")).to_have_text("v000002")


def test_a_connection_lost_in_the_middle_of_a_reply_loses_and_doubles_nothing(visit: Visit, product: Product) -> None:
    """The banner says so; pieces written meanwhile appear after the reconnect; what was typed offline is sent once."""
    product.hold()
    page = visit.chat()
    say(page, "Where is my card?")
    product.step(2)
    expect(page.locator(".rj-streaming .rj-text")).to_have_text("Your card is on")
    product.cut_wire()
    expect(page.get_by_text("You are offline. Reconnecting…")).to_be_visible()
    product.step(1)
    say(page, "Are you there?")
    expect(page.locator(".rj-sending")).to_have_count(1)
    product.mend_wire()
    expect(page.locator(".rj-streaming .rj-text")).to_have_text("Your card is on its way.")
    expect(page.get_by_text("You are offline. Reconnecting…")).to_be_hidden()
    product.step(9)
    expect(replies(page).locator(".rj-text")).to_have_text([WHOLE, WHOLE])
    expect(page.locator(".rj-user .rj-plain")).to_have_text(["Where is my card?", "Are you there?"])
    expect(page.locator(".rj-sending")).to_have_count(0)


def test_hostile_text_stays_text(visit: Visit, product: Product) -> None:
    """Written by a person and by the bot: shown as it is; no dialog, no request, no element of its own."""
    product.script(HOSTILE)
    page = visit.chat()
    reply = ask(page, HOSTILE)
    expect(page.locator(".rj-user .rj-plain")).to_have_text(HOSTILE)
    expect(reply.locator(".rj-text")).to_contain_text("<img src=x onerror=alert(1)><script>alert(2)</script>")
    expect(page.locator(".rj-thread :is(img, script, iframe, b)")).to_have_count(0)
    hrefs = reply.locator("a").evaluate_all("links => links.map(link => [link.protocol, link.rel])")
    assert all(protocol == "https:" and "noopener" in rel for protocol, rel in hrefs)


def test_links_say_where_they_lead_and_bold_and_lists_are_shown(visit: Visit, product: Product) -> None:
    """The safe subset of markdown, with the host written beside a label."""
    product.script("**Two** ways:\n- [the form](https://bank.example/form)\n- call us")
    text = ask(visit.chat()).locator(".rj-text")
    expect(text.locator("strong")).to_have_text("Two")
    expect(text.locator("li")).to_have_text(["the form (bank.example)", "call us"])
    expect(text.locator("a")).to_have_attribute("href", "https://bank.example/form")


def test_a_source_opens_the_approved_article(visit: Visit) -> None:
    """In a dialog that takes the focus and closes with Escape."""
    page = visit.chat()
    ask(page).get_by_role("button", name="Source: When your card comes").click()
    panel = page.get_by_role("dialog", name="When your card comes")
    expect(panel.get_by_text("In 5 days.")).to_be_visible()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()


def test_quick_replies_are_buttons_that_speak(visit: Visit, product: Product) -> None:
    """Offered under the newest message; pressing one says it."""
    page = visit.chat()
    conversation_id = page.evaluate("JSON.parse(localStorage.getItem('rejoinder.chat')).conversation_id")
    offer = Message("m_offer", conversation_id, 0, "bot", "Which one?", 1000.0, quick_replies=("Debit", "Credit"))
    product.rig.store.add_reply(offer, None)
    page.reload()
    page.get_by_role("button", name="Debit").click()
    expect(page.locator(".rj-user .rj-plain")).to_have_text("Debit")
    expect(page.get_by_role("button", name="Credit")).to_have_count(0)


def test_a_pressed_quick_reply_stays_what_was_on_its_button(new_visit: Callable[..., Visit], product: Product) -> None:
    """At once, in the other tab, after a reload and in another language; what was sent is the reply's own text."""
    visit = new_visit(locale="zh-CN")
    page, other = visit.chat(), visit.chat()
    conversation_id = conversation_of(page)
    offer = Message("m_offer_zh", conversation_id, 0, "bot", "Which?", 1000.0, quick_replies=("Yes", "A title"))
    product.rig.store.add_reply(offer, None)
    page.reload()
    other.reload()
    expect(other.locator(".rj-quick")).to_have_text(["是", "A title"])
    page.locator(".rj-quick", has_text="是").click()
    for tab in (page, other):
        expect(tab.locator(".rj-user .rj-plain")).to_have_text(["是"])
        expect(tab.get_by_role("button", name="修改此问题")).to_have_count(0)
        expect(replies(tab)).to_have_count(1)
    page.get_by_label("您的消息").fill("Yes")
    page.keyboard.press("Enter")
    expect(replies(page)).to_have_count(2)
    page.reload()
    expect(page.locator(".rj-user .rj-plain")).to_have_text(["是", "Yes"])
    sent = [line.text for line in product.rig.store.messages(conversation_id) if line.role == "user"]
    assert sent == ["Yes", "Yes"]
    page.evaluate("localStorage.setItem('rejoinder.language', '\"en\"')")
    page.reload()
    expect(page.locator(".rj-user .rj-plain")).to_have_text(["Yes", "Yes"])


def test_settings_are_kept_by_the_conversation(visit: Visit) -> None:
    """Generated replies and not learning: both survive a reload and show in the other tab."""
    page, other = visit.chat(), visit.chat()
    page.bring_to_front()
    page.get_by_role("button", name="Chat settings").click()
    page.get_by_text("Generated", exact=True).click()
    page.get_by_text("Learn from this conversation").click()
    expect(other.locator(".rj-badge")).to_contain_text("not learning from this chat")
    page.reload()
    expect(page.locator(".rj-badge")).to_contain_text("not learning from this chat")
    page.get_by_role("button", name="Chat settings").click()
    expect(page.get_by_role("radio", name="Generated")).to_be_checked()


def test_talking_to_a_person_is_one_press(visit: Visit) -> None:
    """The bot says so and the banner stays."""
    page = visit.chat()
    page.locator(".rj-header").get_by_role("button", name="Talk to a person").click()
    expect(page.get_by_text("A person will come.")).to_be_visible()
    expect(page.get_by_text("A person will join this chat soon.")).to_be_visible()


def test_solved_is_asked_once_and_answered(visit: Visit, product: Product) -> None:
    """The answer is stored as an outcome and the thanks stay after a reload."""
    page = visit.chat()
    ask(page)
    page.get_by_role("button", name="Yes, solved").click()
    expect(page.get_by_text("Glad to hear it.")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Glad to hear it.")).to_be_visible()
    expect(page.get_by_role("button", name="Yes, solved")).to_have_count(0)


def test_a_new_conversation_starts_empty_in_every_tab(visit: Visit, product: Product) -> None:
    """Tabs share the conversation, also when it changes: none starts one of its own."""
    page, other = visit.chat(), visit.chat()
    ask(page)
    before = product.rig.store.counts()["conversations"]
    for number in range(3):
        expect(replies(other)).to_have_count(1)
        page.get_by_role("button", name="Chat settings").click()
        page.get_by_role("button", name="New conversation").click()
        expect(replies(page)).to_have_count(0)
        expect(replies(other)).to_have_count(0)
        ask(other, f"Hello {number}")
        expect(page.get_by_text(f"Hello {number}")).to_be_visible()
    assert product.rig.store.counts()["conversations"] == before + 3


def test_a_refused_message_can_be_tried_again(visit: Visit, product: Product) -> None:
    """Over the rate limit: one line, a retry that sends the same message once."""
    page = visit.chat()
    for number in range(20):
        ask(page, f"question {number}")
    say(page, "one too many")
    expect(page.locator(".rj-failed .rj-plain")).to_have_text("one too many")
    expect(page.locator(".rj-error")).to_contain_text("s.")
    product.pass_time(120)
    page.locator(".rj-error").get_by_role("button", name="Try again").click()
    expect(replies(page)).to_have_count(21)
    expect(page.get_by_text("one too many")).to_have_count(1)
    expect(page.locator(".rj-failed")).to_have_count(0)


def test_the_page_works_by_keyboard(visit: Visit) -> None:
    """Shift+Enter is a new line, Enter sends; from the field back, Tab reaches the thumbs."""
    page = visit.chat()
    field = page.get_by_label("Your message")
    field.press_sequentially("line one")
    field.press("Shift+Enter")
    field.press_sequentially("line two")
    field.press("Enter")
    expect(page.locator(".rj-user .rj-plain")).to_have_text(re.compile("line one\\s+line two"))
    expect(replies(page)).to_have_count(1)
    bad = replies(page).get_by_role("button", name="Bad reply")
    for _ in range(8):
        page.keyboard.press("Shift+Tab")
        if bad.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(bad).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator(".rj-vote-form")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(new_visit: Callable[..., Visit], scheme: str) -> None:
    """390 pixels wide, light and dark, with the feedback form open."""
    page = new_visit(viewport={"width": 390, "height": 844}, color_scheme=scheme, reduced_motion="reduce").chat()
    ask(page, "w" * 200).get_by_role("button", name="Bad reply").click()
    expect(page.get_by_role("button", name="Send feedback")).to_be_visible()
    assert page.evaluate("document.querySelector('.rj-scroll').scrollWidth <= 390")
    assert page.evaluate("document.documentElement.scrollWidth <= 390")


def test_a_forgotten_conversation_becomes_a_new_one(visit: Visit) -> None:
    """A token that the server does not know: the page starts over and says so."""
    page = visit.chat()
    page.evaluate(
        "localStorage.setItem('rejoinder.chat', JSON.stringify({conversation_id: 'c_gone', token: 'p_1.bad'}))"
    )
    page.reload()
    expect(page.get_by_text("Your earlier conversation is no longer available.")).to_be_visible()
    ask(page)
