"""User and operator at once in two browsers: take-over and hand-back, a vote withdrawn, a correction in the next answer."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from bot.conversation import Message, SignalKind
from bot.feedback.desk import Doing
from tests.browser.accessibility import serious_findings
from tests.browser.chat_page import ask, conversation_of, replies, say
from tests.browser.conftest import Visit
from tests.browser.product import Product
from tests.builders import make_signal
from tests.hostile import INERT_JS, PAYLOADS
from tests.service_rig import OPERATOR_KEY

pytestmark = pytest.mark.browser


def sign_in(visit: Visit) -> Page:
    """The operator's page, live."""
    page = visit.open("/operator")
    page.get_by_label("Operator key").fill(OPERATOR_KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    return page


def open_newest(page: Page, words: str) -> None:
    """The first conversation of the list, which must hold these words."""
    page.bring_to_front()
    row = page.locator(".od-row", has_text=words).first
    row.click()
    expect(page.locator(".od-message.od-user", has_text=words)).to_be_visible()


@pytest.fixture(autouse=True)
def later(product: Product) -> None:
    """What happens now is newer than what other tests left, so it stands first in the list."""
    product.rig.clock.now += 60


@pytest.fixture
def both(new_visit: Callable[..., Visit]) -> tuple[Page, Page]:
    """(the customer's chat, the operator's page), in browsers of their own."""
    customer = new_visit(viewport={"width": 1280, "height": 800}).chat()
    return customer, sign_in(new_visit(viewport={"width": 1440, "height": 900}))


def test_an_operator_takes_over_speaks_and_hands_back(both: tuple[Page, Page]) -> None:
    """The customer sees who speaks; the bot is silent meanwhile and answers again afterwards."""
    chat, desk = both
    ask(chat, "A turquoise question")
    open_newest(desk, "turquoise")
    desk.keyboard.press("t")
    expect(chat.get_by_text("local from customer service has joined")).to_be_visible()
    say(chat, "Is somebody there?")
    expect(desk.locator(".od-message.od-user", has_text="Is somebody there?")).to_be_visible()
    field = desk.get_by_label("Your message")
    field.fill("Yes: I am looking into it.")
    field.press("Control+Enter")
    expect(chat.get_by_text("Yes: I am looking into it.")).to_be_visible()
    expect(chat.get_by_text("You are now talking with local, a person.")).to_be_visible()
    expect(chat.locator(".rj-operator").get_by_text("local · Customer service")).to_be_visible()
    assert replies(chat).count() == 1
    desk.get_by_role("button", name="Hand back to the bot").click()
    expect(chat.get_by_text("local has left.")).to_be_visible()
    ask(chat, "And now?")
    expect(desk.locator(".od-message.od-bot", has_text="Your card is on its way.")).to_have_count(2)


def test_a_chinese_customer_reads_chinese_through_a_whole_take_over(
    new_visit: Callable[..., Visit], product: Product
) -> None:
    """Place in the queue, who joined, left and closed, quick replies and errors; the operator reads the same in English."""
    chat = new_visit(locale="zh-CN").chat()
    chat.get_by_label("您的消息").fill("A celadon question")
    chat.keyboard.press("Enter")
    expect(replies(chat)).to_have_count(1)
    chat.locator(".rj-header").get_by_role("button", name="转接人工").click()
    expect(chat.locator(".rj-banner")).to_contain_text("您排在第")
    desk = sign_in(new_visit())
    open_newest(desk, "celadon")
    desk.keyboard.press("t")
    expect(chat.locator(".rj-note").last).to_have_text("local 已加入对话，您现在由人工客服接待。")
    expect(chat.locator(".rj-banner")).to_have_text("您正在与人工客服 local 对话。")
    expect(desk.get_by_text("local from customer service has joined.")).to_be_visible()
    desk.get_by_label("Your message").fill("您好")
    desk.get_by_label("Your message").press("Control+Enter")
    expect(chat.locator(".rj-operator").get_by_text("local · 人工客服")).to_be_visible()
    desk.get_by_role("button", name="Hand back to the bot").click()
    expect(chat.locator(".rj-note").last).to_have_text("local 已离开，现在由 AI 助手继续为您服务。")
    quick = ("Talk to a person", "A title")
    offer = Message(product.rig.parts.ids.message(), conversation_of(chat), 0, "bot", "?", 1000.0, quick_replies=quick)
    product.rig.store.add_reply(offer, None)
    chat.reload()
    expect(chat.locator(".rj-quick")).to_have_text(["转接人工", "A title"])
    chat.locator(".rj-quick", has_text="转接人工").click()
    expect(chat.locator(".rj-user").last.locator(".rj-plain")).to_have_text("转接人工")
    expect(desk.locator(".od-message.od-user").last.locator(".od-text")).to_have_text("Talk to a person")
    expect(replies(chat)).to_have_count(2)
    desk.locator("body").press("t")
    expect(desk.get_by_label("Your message")).to_be_visible()
    desk.get_by_role("button", name="Resolve e").click()
    expect(chat.locator(".rj-note").last).to_have_text("local 已结束本次对话。如有需要，请随时留言。")
    assert "customer service" not in chat.locator(".rj-main").inner_text()


def test_other_words_after_a_lost_answer_are_another_message(both: tuple[Page, Page]) -> None:
    """The first ones were stored although the page never heard so; also while the conversation is put off."""
    chat, desk = both

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    ask(chat, "A viridian question")
    open_newest(desk, "viridian")
    desk.keyboard.press("t")
    field = desk.get_by_label("Your message")
    expect(field).to_be_visible()
    desk.get_by_role("button", name="Snooze 1 h").click()
    expect(desk.get_by_role("button", name="Wake")).to_be_visible()
    desk.route("**/say", lose, times=1)
    for words in ("It is on its way.", "It comes tomorrow."):
        field.fill(words)
        field.press("Control+Enter")
        expect(chat.get_by_text(words)).to_be_visible()


def test_a_correction_is_the_next_answer_and_a_withdrawn_vote_leaves_the_page(both: tuple[Page, Page]) -> None:
    """Both without a reload on either side; the page says what became of the correction."""
    chat, desk = both
    reply = ask(chat, "Where is my crimson card?")
    open_newest(desk, "crimson")
    reply.get_by_role("button", name="Bad reply").click()
    expect(desk.locator(".od-step summary").get_by_text("thumb down")).to_be_visible()
    reply.get_by_role("button", name="Bad reply").click()
    expect(desk.locator(".od-step summary").get_by_text("thumb down")).to_have_count(0)
    desk.keyboard.press("c")
    desk.get_by_label("Or the right words").fill("Crimson cards are at the post office.")
    desk.get_by_role("button", name="Correct it").click()
    expect(desk.locator(".od-case")).to_contain_text("in force")
    say(chat, "Where is my crimson card?")
    expect(replies(chat).last).to_contain_text("Crimson cards are at the post office.")
    expect(desk.locator(".od-case")).to_contain_text("It spoke in one reply since.")
    last = desk.locator(".od-step").last
    last.locator("summary").click()
    expect(last.get_by_text("A correction of the same question brought this act to the top.")).to_be_visible()


def test_staff_see_where_a_reply_was_cut_as_its_customer_does(both: tuple[Page, Page], product: Product) -> None:
    """By the same ellipsis, in the operator's transcript and in the studio's; a sentence that ended has none."""
    chat, desk = both
    product.rig.replier.stop_reason = "length"
    ask(chat, "A first question")
    product.script("Your card ", "is on")
    ask(chat, "A cobalt question")
    open_newest(desk, "cobalt")
    expect(chat.locator(".rj-bot .rj-text").last).to_have_text("Your card is on…")
    shown = [re.compile(r"by \*\*Friday\*\*\.$"), "Your card is on…"]
    expect(desk.locator(".od-message.od-bot .od-text").filter(has_text="Your card")).to_have_text(shown)
    desk.keyboard.press("c")
    desk.get_by_label("Or the right words").fill("It is in the cobalt box.")
    desk.get_by_role("button", name="Correct it").click()
    expect(desk.locator(".od-case")).to_contain_text("in force")
    desk.goto(f"{product.url}/studio/#knowledge")
    desk.get_by_role("region", name="Cases").last.get_by_role("row", name="A cobalt question").get_by_role(
        "button"
    ).first.click()
    expect(desk.locator(".st-message.bot .st-said").filter(has_text="Your card")).to_have_text(shown)


def test_triage_needs_no_mouse(both: tuple[Page, Page]) -> None:
    """j and k walk, a claims, f flags, e closes, / searches, ? shows the sheet; keys typed into a field are text."""
    chat, desk = both
    ask(chat, "An ochre question")
    row = desk.locator(".od-row", has_text="ochre").first
    expect(row).to_be_visible()
    desk.keyboard.press("j")
    expect(row).to_have_attribute("aria-current", "true")
    expect(desk.locator(".od-message.od-user", has_text="ochre")).to_be_visible()
    desk.keyboard.press("a")
    expect(desk.locator(".od-head").get_by_text("@local")).to_be_visible()
    desk.keyboard.press("f")
    expect(row.get_by_text("flagged")).to_be_visible()
    desk.keyboard.press("n")
    desk.get_by_label("Only the staff sees it").fill("a jet of notes")
    desk.keyboard.press("Control+Enter")
    expect(desk.locator(".od-notes")).to_contain_text("a jet of notes")
    desk.keyboard.press("e")
    expect(desk.locator(".od-head").get_by_text("resolved")).to_be_visible()
    desk.keyboard.press("?")
    expect(desk.get_by_role("dialog", name="Keys")).to_be_visible()
    desk.keyboard.press("Escape")
    expect(desk.get_by_role("dialog")).to_have_count(0)
    desk.keyboard.press("/")
    expect(desk.get_by_label("Search", exact=True)).to_be_focused()


def test_keys_are_the_dialogs_while_one_is_open(both: tuple[Page, Page], product: Product) -> None:
    """Also after what it sent was refused: its field has the focus again, f does not flag behind it, Escape closes it alone."""
    chat, desk = both
    ask(chat, "A saffron question")
    open_newest(desk, "saffron")
    desk.keyboard.press("n")
    field = desk.get_by_label("Only the staff sees it")
    field.fill("a note")
    desk.route("**/notes", lambda route: route.abort(), times=1)
    desk.get_by_role("button", name="Keep", exact=True).click()
    expect(desk.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
    expect(field).to_be_focused()
    field.blur()
    desk.keyboard.press("f")
    desk.keyboard.press("Escape")
    expect(desk.get_by_role("dialog")).to_have_count(0)
    expect(desk.locator(".od-message.od-user", has_text="saffron")).to_be_visible()
    desk.keyboard.press("a")
    expect(desk.locator(".od-head").get_by_text("@local")).to_be_visible()
    assert not product.rig.store.desk.line(conversation_of(chat), 1000.0).flagged


def test_two_operators_see_each_other_and_a_claim_holds(new_visit: Callable[..., Visit], product: Product) -> None:
    """Who looks at a conversation, and whose it is, shows on the other's page at once; an account signs in by password."""
    staff = product.rig.app.state.service.staff
    ben = f"ben{len(staff.accounts())}"
    staff.add(Doing("operator:local", 1000.0), ben, "operator", "a long password")
    ask(new_visit().chat(), "A sepia question")
    mine, bens = sign_in(new_visit()), new_visit().open("/operator")
    open_newest(mine, "sepia")
    bens.get_by_label("Name").fill(ben)
    bens.get_by_label("Password").fill("a long password")
    bens.get_by_role("button", name="Sign in").click()
    expect(bens.get_by_role("link", name="Studio")).to_be_hidden()
    expect(bens.locator(".od-row", has_text="sepia").first.get_by_text("local looking")).to_be_visible()
    open_newest(bens, "sepia")
    expect(mine.locator(".od-head").get_by_text(f"{ben} looking")).to_be_visible()
    mine.keyboard.press("a")
    expect(bens.locator(".od-head").get_by_text("@local")).to_be_visible()
    bens.keyboard.press("a")
    expect(bens.get_by_role("dialog", name="local has claimed this conversation")).to_be_visible()


def test_two_hundred_hostile_texts_are_inert(new_visit: Callable[..., Visit], product: Product) -> None:
    """In list, search, transcript, notes, tags and dialogs; requests and dialogs fail the test by themselves."""
    store, ids = product.rig.store, product.rig.parts.ids
    chat = new_visit().chat()
    ask(chat, "A hostile beginning")
    conversation_id = conversation_of(chat)
    doing = Doing("operator:local", 1000.0)
    for i, payload in enumerate(PAYLOADS):
        said = Message(ids.message(), conversation_id, 0, "user", payload.text, 1000.0, client_id=f"h{i}")
        store.add_user_message(said)
    for payload in PAYLOADS[::20]:
        store.desk.add_note(doing, conversation_id, payload.text)
        store.desk.tag(doing, conversation_id, payload.text[:40], present=True)
        said_of_all = {"conversation_id": conversation_id, "kind": SignalKind.CSAT, "decision_id": "", "value": 1.0}
        store.add_signal(make_signal(key=payload.marker, comment=payload.text, **said_of_all))
    desk = sign_in(new_visit())
    desk.keyboard.press("j")
    expect(desk.locator(".od-message.od-user")).to_have_count(len(PAYLOADS) + 1)
    assert desk.evaluate(INERT_JS, "#rj-desk") == []
    shown = desk.locator(".od-message.od-user .od-text").all_text_contents()
    assert list(shown[1:]) == [payload.text for payload in PAYLOADS]


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(new_visit: Callable[..., Visit], width: int, scheme: str) -> None:
    """List with its filters, transcript with its details, composer; on a desktop and on a phone."""
    ask(new_visit().chat(), "A plum question").get_by_role("button", name="Bad reply").click()
    desk = sign_in(new_visit(viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"))
    expect(desk.locator(".od-row").first).to_be_visible()
    desk.get_by_role("button", name="Filters").click()
    assert serious_findings(desk, "#rj-desk") == []
    desk.get_by_role("button", name="Filters").click()
    desk.keyboard.press("j")
    desk.locator(".od-step summary").last.click()
    expect(desk.locator(".od-acts")).to_be_visible()
    assert serious_findings(desk, "#rj-desk") == []
    desk.keyboard.press("i")
    expect(desk.get_by_role("heading", name="About the whole conversation")).to_be_visible()
    assert serious_findings(desk, "#rj-desk") == []
    assert desk.evaluate("document.documentElement.scrollWidth") <= width
