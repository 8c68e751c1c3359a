"""What a person may do on the chat page beside asking: in a real browser, with the real server and store."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from bot.errors import NotFound, TooMuch
from bot.feedback.desk import Doing
from tests.browser.chat_page import ask, conversation_of, menu, replies, say
from tests.browser.conftest import Visit
from tests.browser.product import Product
from tests.builders import make_conversation

pytestmark = pytest.mark.browser


def signals(product: Product, page: Page) -> list[tuple[str, float]]:
    """(kind, value) of the open conversation's signals, oldest first."""
    return [(signal.kind.value, signal.value) for signal in product.rig.store.signals(conversation_of(page))]


def test_another_answer_is_a_second_reply_and_a_signal_about_the_first(visit: Visit, product: Product) -> None:
    """Offered under the newest reply only."""
    page = visit.chat()
    first = ask(page)
    first.get_by_role("button", name="Another answer").click()
    expect(replies(page)).to_have_count(2)
    expect(first.get_by_role("button", name="Another answer")).to_be_hidden()
    expect(replies(page).nth(1).get_by_role("button", name="Another answer")).to_be_visible()
    expect(page.locator(".rj-user")).to_have_count(1)
    assert signals(product, page) == [("retry", 1.0)]


def test_the_last_question_can_be_asked_in_other_words(visit: Visit) -> None:
    """Its words come back into the field; cancelling empties it; only the newest question offers it."""
    page = visit.chat()
    ask(page, "wher is my crad")
    page.get_by_role("button", name="Edit this question").click()
    field = page.get_by_label("Your message")
    expect(field).to_be_focused()
    expect(field).to_have_value("wher is my crad")
    page.get_by_role("button", name="Cancel").click()
    expect(field).to_have_value("")
    page.get_by_role("button", name="Edit this question").click()
    ask(page, "Where is my card?")
    expect(page.get_by_text("Ask your question in other words.")).to_be_hidden()
    expect(page.get_by_role("button", name="Edit this question")).to_have_count(1)


def test_one_question_at_a_time(visit: Visit, product: Product) -> None:
    """While a reply asks for a thumb the chat does not ask whether it is solved; then it does. A reply that does not ask
    is the control."""
    page, solved = visit.chat(), "Did this solve your problem?"
    ask(page)
    expect(page.get_by_text(solved)).to_be_visible()
    product.ask_for_ratings()
    asked = ask(page)
    expect(asked.get_by_text("Did this answer your question?")).to_be_visible()
    expect(page.get_by_text(solved)).to_be_hidden()
    asked.get_by_role("button", name="Bad reply").click()
    expect(page.get_by_text(solved)).to_be_hidden()
    asked.get_by_role("button", name="Skip").click()
    expect(page.get_by_text(solved)).to_be_visible()


def test_a_solved_chat_is_rated_and_the_rating_stays(visit: Visit, product: Product) -> None:
    """Four of five, changed to five; the page that is loaded again knows from the server."""
    page = visit.chat()
    ask(page)
    page.get_by_role("button", name="Yes, solved").click()
    page.get_by_role("button", name="4 of 5").click()
    expect(page.get_by_text("Thank you for rating this chat.")).to_be_visible()
    page.get_by_role("button", name="5 of 5").click()
    expect(page.locator(".rj-star.rj-lit")).to_have_count(5)
    page.wait_for_function("!sessionStorage.getItem('rejoinder.outbox').includes('csat')")
    page.reload()
    expect(page.get_by_text("Glad to hear it.")).to_be_visible()
    expect(page.get_by_role("button", name="5 of 5")).to_have_attribute("aria-pressed", "true")
    assert signals(product, page) == [("outcome", 1.0), ("csat", 4.0), ("csat", 5.0)]


def test_what_is_said_of_the_chat_shows_in_the_other_tab(visit: Visit) -> None:
    """Solved in one, rated in the other, not solved after all: both show the same without a reload."""
    one, other = visit.chat(), visit.chat()
    ask(one)
    one.get_by_role("button", name="Yes, solved").click()
    expect(other.get_by_text("Glad to hear it.")).to_be_visible()
    other.get_by_role("button", name="4 of 5").click()
    expect(one.get_by_role("button", name="4 of 5")).to_have_attribute("aria-pressed", "true")
    one.get_by_role("button", name="Change").click()
    one.get_by_role("button", name="Not yet").click()
    expect(other.get_by_text("Thank you for telling us.")).to_be_visible()


def test_thanks_for_a_vote_promise_only_what_is_done(visit: Visit) -> None:
    """It teaches; in a conversation that is not to be learned from, customer service reads it."""
    page = visit.chat()
    first = ask(page)
    first.get_by_role("button", name="Bad reply").click()
    page.get_by_role("button", name="Send feedback").click()
    expect(first.get_by_text("Thank you. The assistant learns from this.")).to_be_visible()
    page.get_by_role("button", name="Do not learn from my conversation").click()
    second = ask(page, "And now?")
    second.get_by_role("button", name="Bad reply").click()
    page.get_by_role("button", name="Send feedback").click()
    expect(second.get_by_text("nothing is learned from this conversation")).to_be_visible()


def test_do_not_learn_from_my_conversation_is_one_press_and_obeyed(visit: Visit, product: Product) -> None:
    """The conversation says so in the store, and so does what is decided after it; allowing again is one press too."""
    page = visit.chat()
    ask(page)
    page.get_by_role("button", name="Do not learn from my conversation").click()
    expect(page.get_by_text("Nothing in this conversation teaches the assistant.")).to_be_visible()
    expect(page.locator(".rj-badge")).to_contain_text("not learning from this chat")
    ask(page)
    assert not product.rig.store.conversation(conversation_of(page)).learn_ok
    page.get_by_role("button", name="Allow learning").click()
    expect(page.locator(".rj-badge")).to_contain_text("learning")
    expect(page.get_by_role("button", name="Do not learn from my conversation")).to_be_visible()


def test_a_wish_not_to_learn_is_shown_until_it_is_obeyed_or_refused(visit: Visit, product: Product) -> None:
    """Pressed offline, it is sent after the reconnect. Refused, the page says what holds and offers another try."""
    page = visit.chat()
    ask(page)
    stop, allow = "Do not learn from my conversation", "Allow learning"
    kept, store = "!sessionStorage.getItem('rejoinder.outbox').includes('settings')", product.rig.store
    product.cut_wire()
    expect(page.get_by_text("You are offline. Reconnecting…")).to_be_visible()
    page.get_by_role("button", name=stop).click()
    product.mend_wire()
    expect(page.get_by_text("You are offline. Reconnecting…")).to_be_hidden()
    page.wait_for_function(kept)
    expect(page.get_by_role("button", name=allow)).to_be_visible()
    conversation = store.conversation(conversation_of(page))
    assert not conversation.learn_ok
    with suppress(TooMuch):
        while True:
            product.rig.app.state.service.feedback.take(conversation.person_id)
    page.get_by_role("button", name=allow).click()
    expect(page.locator(".rj-error")).to_contain_text("That was a lot at once.")
    expect(page.get_by_text("Nothing in this conversation teaches the assistant.")).to_be_visible()
    product.pass_time(60)
    page.locator(".rj-error").get_by_role("button", name="Try again").click()
    expect(page.get_by_role("button", name=stop)).to_be_visible()
    page.wait_for_function(kept)
    assert store.conversation(conversation.id).learn_ok


def test_a_person_is_written_to_without_waiting_for_the_assistant(visit: Visit, product: Product) -> None:
    """No dots, and the send button stays: at once and after a reload; nor is another answer offered. The bot's turn is the
    control."""
    page = visit.chat()
    expect(ask(page).get_by_role("button", name="Another answer")).to_be_visible()
    product.rig.store.desk.take_over(Doing("operator:anna", 1000.0), conversation_of(page))
    page.reload()
    expect(page.get_by_text("You are now talking with anna, a person.")).to_be_visible()
    expect(replies(page).get_by_role("button", name="Another answer")).to_be_hidden()
    say(page, "Hello, are you there?")
    expect(page.locator(".rj-sending")).to_have_count(0)
    for _ in range(2):
        expect(page.get_by_text("Hello, are you there?")).to_be_visible()
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
        expect(page.locator(".rj-typing")).to_be_hidden()
        page.reload()


def test_what_is_said_in_a_conversation_that_staff_deleted_goes_to_a_new_one(visit: Visit, product: Product) -> None:
    """At once, with a line that says so; the other tab follows. So does the wish not to be learned from."""
    page, other = visit.chat(), visit.chat()
    ask(page)
    first = conversation_of(page)
    product.rig.store.erase_conversation(first, author="operator", at=1.0)
    say(page, "Are you still there?")
    expect(page.get_by_text("Your earlier conversation is no longer available.")).to_be_visible()
    for tab in (page, other):
        expect(tab.locator(".rj-user .rj-plain")).to_have_text(["Are you still there?"])
        expect(replies(tab)).to_have_count(1)
    second = conversation_of(page)
    product.rig.store.erase_conversation(second, author="operator", at=1.0)
    page.get_by_role("button", name="Do not learn from my conversation").click()
    expect(page.locator(".rj-user")).to_have_count(0)
    expect(page.get_by_role("button", name="Allow learning")).to_be_visible()
    page.wait_for_function("!sessionStorage.getItem('rejoinder.outbox').includes('settings')")
    third = conversation_of(page)
    assert len({first, second, third}) == 3
    assert not product.rig.store.conversation(third).learn_ok


def test_a_conversation_is_downloaded_as_a_file(visit: Visit) -> None:
    """With what was said and the vote."""
    page = visit.chat()
    ask(page, "Where is my marmalade?").get_by_role("button", name="Good reply").click()
    page.wait_for_function("!sessionStorage.getItem('rejoinder.outbox').includes('feedback')")
    with page.expect_download() as downloading:
        menu(page, "Download my conversation")
    assert downloading.value.suggested_filename == f"conversation-{conversation_of(page)}.json"
    saved = json.loads(Path(downloading.value.path()).read_text())
    assert "Where is my marmalade?" in [line["text"] for line in saved["messages"]]
    assert [vote["thumb"] for vote in saved["votes"].values()] == [1]


def test_a_conversation_is_deleted_after_asking_once(visit: Visit, product: Product) -> None:
    """Kept when asked to; else gone from the server, from this page and from the other tab."""
    page, other = visit.chat(), visit.chat()
    ask(page)
    expect(replies(other)).to_have_count(1)
    before = conversation_of(page)
    menu(page, "Delete my conversation")
    page.get_by_role("button", name="Keep it").click()
    assert product.rig.store.messages(before)
    menu(page, "Delete my conversation")
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("Your conversation was deleted.")).to_be_visible()
    expect(replies(page)).to_have_count(0)
    expect(replies(other)).to_have_count(0)
    with pytest.raises(NotFound):
        product.rig.store.conversation(before)
    ask(page)


def test_the_place_in_the_queue_is_shown_and_moves(visit: Visit, product: Product) -> None:
    """One person more is before us, then is helped."""
    store, before = product.rig.store, f"c_{uuid4().hex}"
    store.add_conversation(make_conversation(id=before, created_at=1.0, status="waiting"))
    page = visit.chat()
    page.locator(".rj-header").get_by_role("button", name="Talk to a person").click()
    expect(page.get_by_text(re.compile(r"You are number \d+ in the queue\."))).to_be_visible()
    place = store.desk.waiting().index(conversation_of(page)) + 1
    expect(page.get_by_text(f"You are number {place} in the queue.")).to_be_visible()
    expect(page.locator(".rj-header").get_by_role("button", name="Talk to a person")).to_be_disabled()
    store.update_conversation(before, status="resolved")
    expect(page.get_by_text(f"You are number {place - 1} in the queue.")).to_be_visible()


def test_the_page_speaks_the_browsers_language_until_another_is_chosen(new_visit: Callable[..., Visit]) -> None:
    """Chinese by the browser, English by choice; the choice stays."""
    page = new_visit(locale="zh-CN").open()
    expect(page.get_by_label("您的消息")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh"
    expect(page.get_by_text("它用英语回答。")).to_be_visible()
    page.get_by_role("button", name="对话设置").click()
    page.get_by_text("English").click()
    expect(page.get_by_label("Your message")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Your message")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "en"


def test_markdown_shows_code_headings_and_quotes_and_fetches_no_picture(visit: Visit, product: Product) -> None:
    """A picture is a link that says where it leads; nothing is asked of its host (the fixture watches)."""
    product.script("# Steps\nUse `exit` *soon*.\n> quoted\n```\na < b\n```\n![map](https://bank.example/map.png)")
    text = ask(visit.chat()).locator(".rj-text")
    expect(text.locator("strong")).to_have_text("Steps")
    expect(text.locator("p code")).to_have_text("exit")
    expect(text.locator("em")).to_have_text("soon")
    expect(text.locator("blockquote")).to_have_text("quoted")
    expect(text.locator("pre")).to_have_text("a < b")
    expect(text.locator("a")).to_have_text("map (bank.example)")
    expect(text.locator("img")).to_have_count(0)


def violations(page: Page) -> list[str]:
    """What axe finds that is serious or worse."""
    found = Axe().run(page).response["violations"]
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {[node['html'][:120] for node in one['nodes']]}" for one in grave]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_serious(new_visit: Callable[..., Visit], product: Product, scheme: str, width: int) -> None:
    """With everything open that can be: the question, the form, the menu, the rating, an article, a dialog."""
    page = new_visit(viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce").chat()
    product.ask_for_ratings()
    product.script("**Bold**, `code` and a [link](https://bank.example/a).")
    reply = ask(page)
    assert violations(page) == []
    reply.get_by_role("button", name="Bad reply").click()
    assert violations(page) == []
    reply.get_by_role("button", name="Skip").click()
    page.get_by_role("button", name="Yes, solved").click()
    page.get_by_role("button", name="Chat settings").click()
    assert violations(page) == []
    page.get_by_role("button", name="Delete my conversation").click()
    assert violations(page) == []
    page.get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name=re.compile("^Source")).click()
    expect(page.get_by_text("In 5 days.")).to_be_visible()
    assert violations(page) == []


def test_axe_does_find_what_is_wrong(visit: Visit) -> None:
    """The control: a button without a name."""
    page = visit.chat()
    page.evaluate(
        """() => {
            const button = document.querySelector('.rj').appendChild(document.createElement('button'));
            button.style.cssText = 'width: 40px; height: 40px';
        }"""
    )
    assert [line.split(":")[0] for line in violations(page)] == ["button-name"]
