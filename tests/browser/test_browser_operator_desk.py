"""The operator's page beyond one transcript: accounts and their release, a session that ended, macros, corrections taken back."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from bot.conversation import BASE_VERSION
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Pair
from tests.browser.accessibility import serious_findings
from tests.browser.chat_page import ask, conversation_of, menu, replies, say
from tests.browser.conftest import Visit
from tests.browser.product import Product
from tests.browser.test_browser_operator_live import open_newest, sign_in
from tests.version_folder import publish_bytes

pytestmark = pytest.mark.browser

PASSWORD = "a long password"
LOCAL = Doing("operator:local", 1000.0)


HOLD_ANSWERS = """() => {
  const fetched = window.fetch;
  window.held = [];
  window.fetch = async (url, options) => {
    const answer = await fetched(url, options);
    if (/\\/(suggest|say)$/.test(url)) await new Promise((go) => window.held.push(go));
    return answer;
  };
}"""
"""From now on a draft, or the end of a sending, reaches the page only when a test lets it."""


@pytest.fixture(autouse=True)
def later(product: Product) -> None:
    """What happens now is newer than what other tests left, so it stands first in the list."""
    product.rig.clock.now += 60


def hired(product: Product, role: str) -> str:
    """A new account's name."""
    name = f"ana{secrets.token_hex(4)}"
    product.rig.app.state.service.staff.add(LOCAL, name, role, PASSWORD)
    return name


def enter(page: Page, name: str) -> None:
    """Sign in by password."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("live", exact=True)).to_be_visible()


def test_an_account_is_released_to_the_provider_after_a_yes(new_visit: Callable[..., Visit], product: Product) -> None:
    """Not by the first press; then it waits for the provider, cannot be released again, and the log below says who did it."""
    name = hired(product, "operator")
    page = sign_in(new_visit(viewport={"width": 1440, "height": 900}))
    page.get_by_role("button", name="People").click()
    row = page.get_by_role("row", name=name).first
    for answer in ("Cancel", "Release"):
        row.get_by_role("button", name="Release").click()
        asked = page.get_by_role("dialog", name=f"Release {name} to the sign-in provider?")
        expect(asked).to_contain_text("its password and its sessions end now")
        assert serious_findings(page, "#rj-desk") == []
        expect(row.get_by_text("may sign in")).to_be_visible()
        asked.get_by_role("button", name=answer).click()
        expect(asked).to_be_hidden()
    expect(row.get_by_text("waits for the provider")).to_be_visible()
    expect(row.get_by_role("button", name="Release")).to_have_count(0)
    expect(page.get_by_role("cell", name="release account").first).to_be_visible()
    newest = product.rig.store.desk.audit(limit=1)[0]
    assert (newest.actor, newest.action, newest.target) == ("operator:local", "release account", name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_every_lever_is_in_sight(new_visit: Callable[..., Visit], product: Product, scheme: str) -> None:
    """At 390 pixels: those of the bar, and an account's with the longest name; none is reached by scrolling sideways."""
    staff = product.rig.app.state.service.staff
    staff.add(LOCAL, "somebody.with.a.long.name@their-company.example.org", "developer", PASSWORD)
    page = sign_in(new_visit(viewport={"width": 390, "height": 844}, color_scheme=scheme, reduced_motion="reduce"))
    for name in ("People", "Compare", "Keys", "Sign out"):
        expect(page.get_by_role("button", name=name, exact=True)).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="People").click()
    row = page.get_by_role("row", name="somebody")
    for name in ("Shut out", "Release"):
        expect(row.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    assert serious_findings(page, "#rj-desk") == []


def test_whoever_must_sign_in_again_comes_back_to_where_they_were(
    new_visit: Callable[..., Visit], product: Product
) -> None:
    """The page goes to the form by itself as soon as its session ends, also when it hears of it by a refused handshake; the
    conversation that was open is open again."""
    name, staff = hired(product, "operator"), product.rig.app.state.service.staff
    ask(new_visit().chat(), "A heliotrope question")
    page = new_visit().open("/operator")
    enter(page, name)
    open_newest(page, "heliotrope")
    staff.change(LOCAL, name, role="admin")
    expect(page.get_by_label("Operator key")).to_be_visible()
    enter(page, name)
    expect(page.locator(".od-message.od-user", has_text="heliotrope")).to_be_visible()
    product.cut_wire()
    expect(page.get_by_text("offline, reconnecting…")).to_be_visible()
    staff.change(LOCAL, name, role="operator")
    product.mend_wire()
    expect(page.get_by_label("Operator key")).to_be_visible()
    enter(page, name)
    expect(page.locator(".od-message.od-user", has_text="heliotrope")).to_be_visible()


def test_filters_and_words_that_were_not_sent_outlive_a_session(
    new_visit: Callable[..., Visit], product: Product
) -> None:
    """The filter, the reply with its tick, and a note, in this tab alone; once sent, the words are gone."""
    name, staff = hired(product, "operator"), product.rig.app.state.service.staff
    ask(new_visit().chat(), "A sienna question").get_by_role("button", name="Bad reply").click()
    visit = new_visit(viewport={"width": 1440, "height": 900})
    page = visit.open("/operator")
    enter(page, name)
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("Thumb").select_option("down")
    open_newest(page, "sienna")
    page.keyboard.press("t")
    field = page.get_by_label("Your message")
    field.fill("Half a sen")
    page.get_by_label("Teach the bot this answer").check()
    page.get_by_role("button", name="Write a note").click()
    page.get_by_label("Only the staff sees it").fill("half a note")
    staff.change(LOCAL, name, role="admin")
    expect(page.get_by_label("Operator key")).to_be_visible()

    enter(page, name)
    expect(field).to_have_value("Half a sen")
    expect(page.get_by_label("Teach the bot this answer")).to_be_checked()
    page.get_by_role("button", name="Filters").click()
    expect(page.get_by_label("Thumb")).to_have_value("down")
    page.get_by_role("button", name="Write a note").click()
    expect(page.get_by_label("Only the staff sees it")).to_have_value("half a note")
    page.get_by_role("button", name="Cancel").click()
    beside = visit.open(f"/operator/?{page.url.partition('?')[2]}")
    expect(beside.get_by_label("Your message")).to_have_value("")
    field.fill("A whole sentence.")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".od-message.od-operator")).to_contain_text("A whole sentence.")
    expect(field).to_have_value("")
    page.reload()
    expect(field).to_have_value("")


def test_what_one_account_left_unsent_is_no_other_accounts(new_visit: Callable[..., Visit], product: Product) -> None:
    """Neither its words nor its search, though both sign in in one tab; and signing out leaves nothing to oneself."""
    names, staff = (hired(product, "operator"), hired(product, "operator")), product.rig.app.state.service.staff
    ask(new_visit().chat(), "A carmine question")
    page = new_visit(viewport={"width": 1440, "height": 900}).open("/operator")
    enter(page, names[0])
    search = page.get_by_label("Search", exact=True)
    search.fill("carmine")
    search.press("Enter")
    expect(page.locator(".od-row mark")).to_have_text("carmine")
    open_newest(page, "carmine")
    page.keyboard.press("t")
    page.get_by_label("Your message").fill("Not for Ben")
    staff.change(LOCAL, names[0], role="admin")
    expect(page.get_by_label("Operator key")).to_be_visible()
    kept = "Object.values(sessionStorage).join()"
    assert "Not for Ben" in page.evaluate(kept)

    enter(page, names[1])
    expect(page.locator(".od-message.od-user", has_text="carmine")).to_be_visible()
    expect(search).to_have_value("")
    assert "Not for Ben" not in page.evaluate(kept)
    search.fill("carmine")
    search.press("Enter")
    expect(page.locator(".od-row mark")).to_have_text("carmine")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Operator key")).to_be_visible()
    assert page.evaluate(kept) == ""
    enter(page, names[1])
    expect(search).to_have_value("")


def test_a_reply_is_kept_as_a_macro_and_used_again(new_visit: Callable[..., Visit]) -> None:
    """It fills the field, to be changed before it is sent; the customer reads it."""
    chat, name = new_visit().chat(), f"post{secrets.token_hex(4)}"
    ask(chat, "A periwinkle question")
    desk = sign_in(new_visit(viewport={"width": 1440, "height": 900}))
    open_newest(desk, "periwinkle")
    desk.keyboard.press("t")
    field = desk.get_by_label("Your message")
    field.fill("It is at the post office.")
    desk.get_by_role("button", name="Keep as macro").click()
    dialog = desk.get_by_role("dialog", name="Keep this reply for everybody")
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_role("button", name="Keep").click()
    expect(dialog).to_be_hidden()
    field.fill("")
    desk.get_by_label("Macros").select_option(name)
    expect(field).to_have_value("It is at the post office.")
    expect(field).to_be_focused()
    field.press("Control+Enter")
    expect(chat.locator(".rj-operator")).to_contain_text("It is at the post office.")


def test_what_comes_late_lands_in_no_other_conversation(new_visit: Callable[..., Visit]) -> None:
    """Neither the bot's draft nor the end of a sending: both were asked for beside the other customer. And over words that
    were typed, a draft asks first."""
    first, second = new_visit().chat(), new_visit().chat()
    ask(first, "A fuchsia question")
    ask(second, "A maroon question")
    desk = sign_in(new_visit(viewport={"width": 1440, "height": 900}))
    field, draft = desk.get_by_label("Your message"), desk.get_by_role("button", name="Draft by the bot")
    for words in ("fuchsia", "maroon"):
        open_newest(desk, words)
        desk.keyboard.press("t")
        expect(field).to_be_focused()
        field.blur()
    desk.evaluate(HOLD_ANSWERS)

    def let_go() -> None:
        """The answer that is held, or comes next."""
        desk.wait_for_function("() => window.held.length")
        desk.evaluate("() => window.held.shift()()")

    draft.click()
    open_newest(desk, "fuchsia")
    field.fill("Only for you")
    let_go()
    expect(field).to_have_value("Only for you")
    desk.get_by_role("button", name="Send", exact=True).click()
    open_newest(desk, "maroon")
    expect(field).to_have_value("")
    field.fill("Words for the other one")
    let_go()
    expect(first.locator(".rj-operator")).to_contain_text("Only for you")
    expect(desk.get_by_text("Sent.", exact=True)).to_be_visible()
    expect(field).to_have_value("Words for the other one")
    for answer, expected in (("Cancel", "Words for the other one"), ("Replace", "In 5 days.")):
        draft.click()
        let_go()
        desk.get_by_role("dialog", name="Replace what you have written?").get_by_role("button", name=answer).click()
        expect(field).to_have_value(expected)
    open_newest(desk, "fuchsia")
    expect(field).to_have_value("")


def test_whoever_loses_a_conversation_to_a_colleague_is_told_and_keeps_their_words(
    new_visit: Callable[..., Visit], product: Product
) -> None:
    """They stand in the field again after a take-over back."""
    chat = new_visit().chat()
    ask(chat, "A puce question")
    desk = sign_in(new_visit(viewport={"width": 1440, "height": 900}))
    open_newest(desk, "puce")
    desk.keyboard.press("t")
    desk.get_by_label("Your message").fill("Half an answer")
    product.rig.store.desk.take_over(Doing("operator:ben", 1000.0), conversation_of(chat), force=True)
    expect(desk.get_by_text("ben has taken over. What you had written is kept.")).to_be_visible()
    desk.get_by_role("button", name="Take over from them").click()
    desk.get_by_role("dialog").get_by_role("button", name="Take over").click()
    expect(desk.get_by_label("Your message")).to_have_value("Half an answer")


def test_a_conversation_that_its_person_deletes_leaves_the_page(
    new_visit: Callable[..., Visit], product: Product
) -> None:
    """Transcript, composer and row, at once and in plain words."""
    chat = new_visit().chat()
    ask(chat, "A teal question")
    desk = sign_in(new_visit(viewport={"width": 1440, "height": 900}))
    open_newest(desk, "teal")
    menu(chat, "Delete my conversation")
    chat.get_by_role("button", name="Delete", exact=True).click()
    expect(desk.get_by_text("Its person deleted this conversation.")).to_be_visible()
    expect(desk.get_by_text("teal")).to_have_count(0)
    expect(desk.get_by_label("Your message")).to_have_count(0)


def test_who_was_put_off_is_back_when_the_time_has_come(new_visit: Callable[..., Visit], product: Product) -> None:
    """On a page that nobody touches; who waits has waited longer by then."""
    chat = new_visit().chat()
    ask(chat, "A russet question")
    chat.locator(".rj-header").get_by_role("button", name="Talk to a person").click()
    expect(chat.locator(".rj-banner")).to_be_visible()
    visit = new_visit(viewport={"width": 1440, "height": 900})
    visit.context.clock.install()
    desk = sign_in(visit)
    row = desk.locator(".od-row", has_text="russet")
    open_newest(desk, "russet")
    desk.keyboard.press("z")
    expect(row).to_have_count(0)
    expect(desk.locator(".od-lamp")).to_have_text("live")
    product.rig.clock.now += 3601
    desk.clock.fast_forward(31_000)
    expect(row).to_contain_text("waits 1 h")
    expect(desk.get_by_role("button", name="Snooze 1 h")).to_be_visible()


def test_an_article_that_is_missing_becomes_a_draft(new_visit: Callable[..., Visit], product: Product) -> None:
    """With the question it was missed for, under the reply that did not help."""
    ask(new_visit().chat(), "May I pay with a mauve watch?")
    desk = sign_in(new_visit(viewport={"width": 1440, "height": 900}))
    open_newest(desk, "mauve")
    desk.locator(".od-step summary").last.click()
    desk.get_by_role("button", name="Article missing").click()
    dialog = desk.get_by_role("dialog", name="The right article is missing")
    dialog.get_by_label("Title of the article").fill("Paying by watch")
    dialog.get_by_label("What it should say").fill("Yes, with any.")
    assert serious_findings(desk, "#rj-desk") == []
    dialog.get_by_role("button", name="Keep the draft").click()
    expect(desk.get_by_text("The draft is kept with the question.")).to_be_visible()
    draft = product.rig.store.desk.drafts()[0]
    assert (draft.title, draft.answer) == ("Paying by watch", "Yes, with any.")
    assert draft.question == "May I pay with a mauve watch?"


def test_two_versions_are_compared_blind(new_visit: Callable[..., Visit], product: Product) -> None:
    """Whose answers they are is told after the verdict, given by a key here, and then it is counted."""
    rig = product.rig
    ask(new_visit().chat(), "An indigo question")
    version, asked = publish_bytes(rig.versions), rig.store.newest_replies(1)[0].decision_id
    sides = (BASE_VERSION, "answer:card_arrival", version, "respond:utter_greet#0")
    rig.store.desk.add_pair(LOCAL, Pair("pair_1", 1000.0, asked, *sides))
    desk = sign_in(new_visit(viewport={"width": 1440, "height": 900}))
    desk.keyboard.press("p")
    dialog = desk.get_by_role("dialog", name="Compare two versions")
    expect(dialog.get_by_text("No verdict yet.")).to_be_visible()
    dialog.get_by_role("button", name="Next question").click()
    expect(dialog.get_by_role("region", name="Left")).to_contain_text("In 5 days.")
    expect(dialog.get_by_role("region", name="Right")).to_contain_text("Hello")
    expect(dialog.locator("blockquote")).to_have_text("An indigo question")
    assert serious_findings(desk, "#rj-desk") == []
    desk.keyboard.press("1")
    expect(dialog.get_by_text(f"Kept. Left was {BASE_VERSION}, right was {version}.")).to_be_visible()
    expect(dialog.get_by_role("row", name=f"{BASE_VERSION} / {version}")).to_contain_text("1000")
    assert rig.store.desk.verdicts()[0]["a_wins"] == 1


def test_a_correction_that_is_taken_back_speaks_no_more(new_visit: Callable[..., Visit]) -> None:
    """From the transcript it was made in; the control is the answer before."""
    chat = new_visit().chat()
    ask(chat, "Where is my vermilion card?")
    desk = sign_in(new_visit(viewport={"width": 1440, "height": 900}))
    open_newest(desk, "vermilion")
    desk.keyboard.press("c")
    desk.get_by_label("Or the right words").fill("Vermilion cards are red.")
    desk.get_by_role("button", name="Correct it").click()
    expect(desk.locator(".od-case")).to_contain_text("in force")
    say(chat, "Where is my vermilion card?")
    expect(replies(chat).last).to_contain_text("Vermilion cards are red.")
    desk.locator(".od-case").get_by_role("button", name="Take back").click()
    expect(desk.locator(".od-case")).not_to_contain_text("in force")
    before = replies(chat).count()
    say(chat, "Where is my vermilion card?")
    expect(replies(chat)).to_have_count(before + 1)
    expect(replies(chat).last).not_to_contain_text("Vermilion")
