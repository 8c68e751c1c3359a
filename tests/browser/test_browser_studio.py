"""The studio in a real browser: learning and its levers, rules from a mistake to a version, on a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from bot.domain import load_domain
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Draft
from bot.feedback.rules import load_rules
from bot.feedback.rules_draft import in_force, save
from bot.feedback.settle import settle
from bot.feedback.store import UpdateRow
from tests.browser.chat_page import ask
from tests.browser.conftest import Visit
from tests.browser.product import Product
from tests.builders import make_conversation, make_decision, make_message, make_signal
from tests.hostile import INERT_JS, PAYLOADS
from tests.service_rig import OPERATOR_KEY
from tests.version_folder import publish_bytes

pytestmark = pytest.mark.browser

BANK = load_domain("bank")
WORKER_MS = 90_000
"""A worker is a process: it may have to wait for its turn on the processor."""
METRICS = {"kl_champion": 0.012, "kl_start": 0.03, "entropy": 0.4, "ess": 0.8, "clip_fraction": 0.02, "staleness": 1.5}


def studio(visit: Visit, page: str) -> Page:
    """One of its pages, with the script at work."""
    opened = visit.open(f"/studio/#{page}")
    expect(opened.locator("#studio[data-started]")).to_be_visible()
    return opened


def is_frozen(product: Product) -> bool:
    return product.rig.versions.frozen


def test_no_lever_moves_without_a_reason_and_a_yes(operator_visit: Visit, product: Product) -> None:
    """Freeze, and unfreeze again; each says what it will do."""
    page = studio(operator_visit, "learning")
    expect(page.locator(".st-card").first).to_contain_text("v000000")
    page.get_by_role("button", name="Freeze learning", exact=True).click()
    dialog = page.get_by_role("dialog", name="Freeze learning")
    expect(dialog).to_contain_text("The champion stays, whatever the learner finds.")
    dialog.get_by_role("button", name="Yes, do it").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Write a reason first")
    assert not is_frozen(product)
    dialog.get_by_label("Reason").fill("audit <b>today</b>")
    dialog.get_by_role("button", name="Yes, do it").click()
    expect(page.get_by_text("Done: v000000 serves, learning is frozen.")).to_be_visible()
    assert is_frozen(product)
    page.get_by_role("button", name="Unfreeze learning").click()
    page.get_by_label("Reason").fill("audit over")
    page.get_by_role("button", name="Yes, do it").click()
    expect(page.get_by_text("Done: v000000 serves, learning may publish.")).to_be_visible()
    assert not is_frozen(product)


def test_the_studio_shows_how_replies_are_made_now(operator_visit: Visit, product: Product) -> None:
    """Times by their median and 95th percentile, batches as bars, the versions that spoke, and what people were told as
    errors. The control: what was never measured is a dash."""
    metrics = product.rig.app.state.service.metrics
    for _ in range(10):
        metrics.queue_s.observe(0.15)
    metrics.version_replies.labels("v000007").inc(1234)
    metrics.errors.labels("busy").inc()
    serving = studio(operator_visit, "learning").get_by_role("region", name="Serving")
    expect(serving.get_by_role("row", name="Waited for a place")).to_contain_text("ms")
    expect(serving.get_by_role("row", name="A new version, until it served")).to_contain_text("––")
    expect(serving.get_by_role("row", name="v000007")).to_contain_text("1,234")
    expect(serving).to_contain_text("busy 1")
    expect(serving).to_contain_text("None yet.")


def test_a_canary_is_begun_watched_and_withdrawn(operator_visit: Visit, product: Product) -> None:
    """From the list of versions, with a share; a panel shows what people say of both until it ends."""
    version = publish_bytes(product.rig.versions)
    page = studio(operator_visit, "learning")
    page.get_by_role("row", name=f"{version} published").get_by_role("button", name="Canary").click()
    dialog = page.get_by_role("dialog", name=f"Canary {version}")
    dialog.get_by_label("Share of conversations").select_option("25 %")
    dialog.get_by_label("Reason").fill("carefully")
    dialog.get_by_role("button", name="Yes, do it").click()
    panel = page.get_by_role("region", name=f"Canary {version}")
    expect(panel).to_contain_text("Gets 25 % of conversations")
    expect(panel).to_contain_text("too early to tell 0 of 200 conversations")
    expect(panel.get_by_role("row", name=f"Canary {version} 0 0 – –")).to_be_visible()
    canary = product.rig.versions.canary()
    assert canary
    assert (canary.version, canary.share, canary.reason) == (version, 0.25, "carefully")
    panel.get_by_role("button", name="Withdraw it").click()
    page.get_by_label("Reason").fill("enough")
    page.get_by_role("button", name="Yes, do it").click()
    expect(panel).to_have_count(0)
    assert product.rig.versions.canary() is None


def test_plots_show_what_is_under_the_pointer_and_the_arrow_keys(operator_visit: Visit, product: Product) -> None:
    """One update: its entropy with the update's name; the same number stands in the table below."""
    product.rig.store.commit_update(UpdateRow(1000.0, 0, "checkpoint-000001", "refused", "v000000", METRICS))
    page = studio(operator_visit, "learning")
    plot = page.locator("figure", has=page.get_by_role("heading", name="Entropy, nats"))
    plot.locator(".st-drawing").hover()
    expect(plot.locator(".st-tip")).to_contain_text("Entropy 0.40")
    page.mouse.move(0, 0)
    expect(plot.locator(".st-tip")).to_be_hidden()
    plot.locator(".st-drawing").focus()
    page.keyboard.press("ArrowLeft")
    expect(plot.locator(".st-tip")).to_be_visible()
    plot.get_by_text("Numbers").click()
    expect(plot.get_by_role("cell", name="0.40").first).to_be_visible()


def rate_the_newest_reply(product: Product) -> None:
    """A thumb up that has settled."""
    store = product.rig.store
    reply = store.newest_replies(1)[0]
    about = {"conversation_id": reply.conversation_id, "decision_id": reply.decision_id}
    store.add_signal(make_signal(key=reply.id, author="p_studio", value=1.0, **about))
    settle(store, load_rules(BANK.rewards_path), 1e10, 0.0)


def test_rules_are_mended_tried_and_saved(operator_visit: Visit, product: Product) -> None:
    """A mistake is marked while one types; saving opens after the trial; the version has author and reason."""
    ask(operator_visit.chat(), "Where is my card?")
    rate_the_newest_reply(product)
    page = studio(operator_visit, "rules")
    editor = page.get_by_label("Reward rules, YAML")
    expect(editor).to_have_value(re.compile("outcome"))
    text, number = editor.input_value(), len(product.rig.store.rules_versions()) + 1
    editor.fill(text.replace("solved: 1.0", "solvd: 1.0", 1))
    line = text.splitlines().index("    solved: 1.0") + 1
    expect(page.get_by_role("button", name=f"rewards.yml:{line}:5")).to_be_visible()
    expect(page.get_by_text("did you mean solved?")).to_be_visible()
    expect(page.locator(".st-marked")).to_have_text(str(line))
    expect(page.get_by_role("button", name="Try on history")).to_be_disabled()
    heavier = re.sub(r"up: [\d.]+", f"up: 0.{60 + number}", text, count=1)
    editor.fill(heavier)
    expect(page.get_by_text("No mistake.")).to_be_visible()
    expect(page.get_by_role("button", name="Save…")).to_be_disabled()
    page.get_by_role("button", name="Try on history").click()
    expect(page.get_by_role("heading", name="On history")).to_be_visible(timeout=WORKER_MS)
    expect(page.get_by_role("region", name="Gain most").get_by_role("button").first).to_be_visible()
    page.get_by_role("button", name="Save…").click()
    page.get_by_label("Reason").fill(f"praise more {number}")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_text(f"Rules version {number} is in force.")).to_be_visible()
    expect(page.get_by_role("cell", name=f"praise more {number}")).to_be_visible()
    expect(page.get_by_text("the learner computes the rewards anew")).to_be_visible()
    version = product.rig.store.rules_versions()[0]
    assert (version.text, version.author, version.reason) == (heavier, "operator:local", f"praise more {number}")
    settle(product.rig.store, load_rules(BANK.rewards_path), 1e10, 0.0)
    expect(page.get_by_text("all rewards are by these rules")).to_be_visible()


def test_rules_that_a_colleague_put_in_force_meanwhile_are_not_undone_unseen(
    operator_visit: Visit, product: Product
) -> None:
    """Looking at another tab does not open saving again: the differences are new, and the trial must be, too."""
    page = studio(operator_visit, "rules")
    text = draft_that_was_tried(page)
    parts = product.rig.parts
    theirs = re.sub(r"up: [\d.]+", "up: 0.33", text, count=1)
    based_on = in_force(parts.store, parts.domain).rules.rules_hash
    save(parts.store, parts.domain, theirs, based_on=based_on, author="dan", reason="less praise", at=1000.0)
    page.get_by_role("tab", name="Knowledge").click()
    page.get_by_role("tab", name="Reward rules").click()
    expect(page.get_by_text("dan put version 1 in force meanwhile")).to_be_visible()
    expect(page.get_by_role("button", name="Save…")).to_be_disabled()
    expect(page.get_by_label("Reward rules, YAML")).to_have_value(text)
    expect(page.locator(".st-diff .st-removed", has_text="0.33")).to_have_count(1)


def test_unsaved_rules_outlive_a_session_that_ends(operator_visit: Visit, sign_in: Callable[[Visit], Visit]) -> None:
    """The form leads back to the same page, and what was written is in the editor; signing out forgets it."""
    page = studio(operator_visit, "rules")
    text = draft_that_was_tried(page)
    operator_visit.context.clear_cookies()
    page.get_by_role("button", name="Try on history").click()
    page.get_by_label("Operator key").fill(OPERATOR_KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("The changes that you had not saved are back")).to_be_visible()
    expect(page.get_by_label("Reward rules, YAML")).to_have_value(text)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Operator key")).to_be_visible()
    assert "0.77" not in page.evaluate("JSON.stringify(sessionStorage)")


def draft_that_was_tried(page: Page) -> str:
    """Other rules than those in force, in the editor; saving is open."""
    editor = page.get_by_label("Reward rules, YAML")
    expect(editor).to_have_value(re.compile("outcome"))
    text = re.sub(r"up: [\d.]+", "up: 0.77", editor.input_value(), count=1)
    editor.fill(text)
    page.get_by_role("button", name="Try on history").click()
    expect(page.get_by_role("button", name="Save…")).to_be_enabled(timeout=WORKER_MS)
    return text


def test_an_article_that_a_colleague_changed_is_not_overwritten_and_escape_asks_first(operator_visit: Visit) -> None:
    """Saving says so and keeps the words; Escape once keeps them, twice throws them away."""
    page = studio(operator_visit, "knowledge")
    page.locator("#st-page-knowledge .st-table").last.get_by_role("button").first.click()
    dialog = page.get_by_role("dialog")
    area = dialog.get_by_label("Article")
    mine, theirs = area.input_value() + "Mine.\n", area.input_value() + "Theirs.\n"
    file = f"{operator_visit.home}/v1/knowledge/articles/{dialog.get_by_label('Id').input_value()}"
    others = operator_visit.context.request
    assert others.put(file, data={"text": theirs}, headers={"Origin": operator_visit.home}).ok
    area.fill(mine)
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_text("somebody changed it meanwhile")).to_be_visible()
    assert others.get(file).json()["text"] == theirs
    page.keyboard.press("Escape")
    expect(dialog.get_by_role("alert")).to_have_text("What you wrote is not saved. Close again to throw it away.")
    expect(area).to_have_value(mine)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_on_a_phone_the_levers_of_a_version_are_reached_without_scrolling_sideways(
    new_visit: Callable[..., Visit], sign_in: Callable[[Visit], Visit], product: Product
) -> None:
    """Each row of a table stands in lines of its own there, each figure with its name."""
    version = publish_bytes(product.rig.versions)
    page = studio(sign_in(new_visit(viewport={"width": 390, "height": 844})), "learning")
    row = page.get_by_role("region", name="Versions").get_by_role("row", name=version).first
    row.get_by_role("button", name="Promote").scroll_into_view_if_needed()
    for name in ("32 replies", "Promote", "Roll back to"):
        expect(row.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    wide = "[...document.querySelectorAll('.st-scroll:has(.st-rows)')].filter((node) => node.scrollWidth > node.clientWidth).length"
    assert page.evaluate(wide) == 0


@pytest.mark.parametrize("name", ["learning", "rules", "knowledge"])
def test_a_phone_shows_every_page_without_scrolling_sideways(
    new_visit: Callable[..., Visit], sign_in: Callable[[Visit], Visit], name: str
) -> None:
    """390 pixels: wide things scroll inside their own frame."""
    page = studio(sign_in(new_visit(viewport={"width": 390, "height": 844})), name)
    expect(page.locator(f"#st-page-{name} .st-panel").first).to_be_visible()
    widths = page.evaluate("[document.documentElement.scrollWidth, document.querySelector('#studio').scrollWidth]")
    assert widths == [390, 390]


def test_the_tabs_are_walked_with_the_arrow_keys(operator_visit: Visit) -> None:
    """And an address leads to its page."""
    page = studio(operator_visit, "rules")
    expect(page.get_by_role("tab", name="Reward rules")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Reward rules").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name="Knowledge")).to_be_visible()


def test_an_article_is_written_read_by_people_and_taken_away(operator_visit: Visit) -> None:
    """The mistake is told while one types; the preview shows what people will read."""
    page = studio(operator_visit, "knowledge")
    page.get_by_role("button", name="New article").click()
    dialog = page.get_by_role("dialog", name="New article")
    dialog.get_by_label("Id").fill("watch")
    text = "---\ntitle: Paying by watch\nquestions:\n  - Can I pay with my watch?\n---\nYes, **if** it is paired.\n"
    dialog.get_by_label("Article").fill(text.replace("title:", "titel:"))
    expect(dialog.get_by_text("watch.md:2: expected one of title, questions")).to_be_visible()
    expect(dialog.get_by_role("button", name="Save")).to_be_disabled()
    dialog.get_by_label("Article").fill(text)
    expect(dialog.get_by_role("region", name="Preview").locator("strong")).to_have_text("if")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_text("“Paying by watch” is in use from the next question on.")).to_be_visible()
    told = operator_visit.context.request.get(f"{operator_visit.home}/v1/articles/watch").json()
    assert told["answer"] == "Yes, **if** it is paired."
    page.get_by_role("button", name="Paying by watch", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("The article was removed.")).to_be_visible()


def test_a_question_that_went_wrong_becomes_an_article(operator_visit: Visit, product: Product) -> None:
    """From the group to the editor, with the question in it; a draft leaves its list when it is published."""
    word = f"q{uuid4().hex[:8]}"  # like nothing that another test, or another try, asks
    ask(operator_visit.chat(), f"{word}one {word}two {word}three?").get_by_role("button", name="Bad reply").click()
    here = product.rig.store.newest_replies(1)[0].conversation_id
    add_draft(product, uuid4().hex, title="Turquoise", question=f"Do you take {word} notes?", conversation_id=here)
    page = studio(operator_visit, "knowledge")
    expect(page.locator(".st-gap").first).to_be_visible()
    for more in page.locator("details.st-more > summary").all():  # other tests' questions may come before it
        more.click()
    group = page.locator(".st-gap", has_text=f"{word}one")
    expect(group.get_by_text("thumb down 1")).to_be_visible()
    group.get_by_role("button", name="Write an article").click()
    expect(page.get_by_role("dialog").get_by_label("Article")).to_have_value(re.compile(f"{word}one"))
    page.get_by_role("button", name="Close").click()
    page.get_by_role("row", name=f"{word} notes").get_by_role("button", name="Write it").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Id").fill("turquoise")
    area = dialog.get_by_label("Article")
    area.fill(area.input_value() + "No, we do not.\n")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_text("“Turquoise” is in use from the next question on.")).to_be_visible()
    expect(page.get_by_role("row", name=f"{word} notes")).to_have_count(0)
    page.get_by_role("button", name="Turquoise", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("The article was removed.")).to_be_visible()


def test_a_version_is_traced_to_those_who_taught_it_promoted_and_taken_back(
    operator_visit: Visit, product: Product
) -> None:
    """From the list to a conversation and its words; each change with a reason, and the version named."""
    word, rig = f"w{uuid4().hex[:8]}", product.rig
    ask(operator_visit.chat(), f"Where is my {word} card?")
    version = publish_bytes(rig.versions)
    taught_by = (rig.store.newest_replies(1)[0].decision_id,)
    rig.store.commit_update(UpdateRow(1000.0, 0, f"checkpoint-{version}", "published", version, METRICS, taught_by))
    try:
        page = studio(operator_visit, "learning")
        versions = page.locator('section.st-panel[aria-label="Versions"]')
        row = versions.get_by_role("row", name=version).first
        row.get_by_role("button", name="32 replies").click()
        page.get_by_role("dialog", name=f"What taught {version}").get_by_role("button", name=word).click()
        expect(page.locator(".st-message.user", has_text=word)).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        row.get_by_role("button", name="Promote").click()
        decide(page, "better by eye")
        expect(page.get_by_text(f"Done: {version} serves")).to_be_visible()
        assert rig.versions.champion().version == version
        versions.get_by_role("row", name="v000000").last.get_by_role("button", name="Roll back to").click()
        decide(page, "worse after all")
        expect(page.get_by_text("Done: v000000 serves, learning is frozen.")).to_be_visible()
    finally:
        rig.versions.set_champion("v000000", "as before", "test")
        rig.versions.unfreeze("as before", "test")


def test_operators_whose_words_taught_a_version_stand_beside_its_replies(
    operator_visit: Visit, product: Product
) -> None:
    """What they wrote, to which question, who and when; from there to the conversation."""
    rig, chat = product.rig, operator_visit.chat()
    message_id = ask(chat, "My magenta card never came").get_attribute("data-message-id")
    body, headers = {"message_id": message_id, "text": "I am sorry. It takes 5 days."}, {"Origin": operator_visit.home}
    assert chat.request.post(f"{operator_visit.home}/v1/corrections", data=body, headers=headers).ok
    case = rig.store.desk.cases()[0]
    lineage = {"num_decisions": 1, "decision_ids": ["d1"], "case_ids": [case.id], "cursor": 40}
    version = publish_bytes(rig.versions, lineage=lineage)
    drawn = (rig.store.newest_replies(1)[0].decision_id, case.id)
    rig.store.commit_update(UpdateRow(1000.0, 0, f"checkpoint-{version}", "published", version, METRICS, drawn))
    page = studio(operator_visit, "learning")
    page.get_by_role("region", name="Versions").get_by_role("button", name="1 reply, 1 wording").click()
    dialog = page.get_by_role("dialog", name=f"What taught {version}")
    expect(dialog.get_by_text("1 reply in all")).to_be_visible()
    row = dialog.get_by_role("region", name="Operators' own words").get_by_role("row", name="I am sorry.")
    expect(row).to_contain_text("local")
    assert serious(Axe().run(page)) == []
    row.get_by_role("button", name="My magenta card never came").click()
    expect(page.locator(".st-message.user", has_text="magenta")).to_be_visible()


def decide(page: Page, reason: str) -> None:
    """Give the reason that a dialog asks for, and go on."""
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="Yes, do it").click()


def test_a_case_says_where_it_comes_from_and_answers_no_more_once_removed(operator_visit: Visit) -> None:
    """Its words answer, the control; removed, the bot's own do."""
    word, chat = f"w{uuid4().hex[:8]}", operator_visit.chat()
    question, words = f"Where is my {word} card?", f"{word} cards come by boat."
    message_id = ask(chat, question).get_attribute("data-message-id")
    body, headers = {"message_id": message_id, "text": words}, {"Origin": operator_visit.home}
    assert chat.request.post(f"{operator_visit.home}/v1/corrections", data=body, headers=headers).ok
    expect(ask(chat, question)).to_contain_text(words)
    page = studio(operator_visit, "knowledge")
    row = page.get_by_role("region", name="Cases").last.get_by_role("row", name=question)
    expect(row).to_contain_text(words)
    row.get_by_role("button", name=question).click()
    expect(page.locator(".st-message.user", has_text=word).first).to_be_visible()
    page.keyboard.press("Escape")
    row.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("The case was removed: it answers nothing any more.")).to_be_visible()
    expect(ask(chat, question)).to_contain_text("Your card is on its way.")


def add_draft(product: Product, name: str, **fields: str) -> None:
    desk = product.rig.store.desk
    desk.add_draft(
        Doing("operator:local", 1000.0),
        Draft(**{"answer": ""} | fields, id=name, at=1000.0, author="operator:local"),
    )


def poison(product: Product) -> None:
    """Every payload as a question that went wrong, as a draft, and as the reason of an update that was refused."""
    store = product.rig.store
    for payload in PAYLOADS:
        name = f"bad{payload.marker}"
        store.add_conversation(make_conversation(id=name, person_id="p_hostile"))
        question = make_message(id=f"{name}q", conversation_id=name, text=payload.text, client_id=name)
        store.add_user_message(question)
        decision = make_decision(id=f"{name}d", conversation_id=name, person_id="p_hostile")
        fields = {"conversation_id": name, "role": "bot", "decision_id": decision.id, "act": "handoff"}
        store.add_reply(make_message(id=f"{name}r", text=payload.text, **fields), decision)
    worst = [payload.text for payload in PAYLOADS[::4]]
    for payload in PAYLOADS[::4]:
        about = {"title": payload.text, "question": payload.text, "conversation_id": f"bad{payload.marker}"}
        add_draft(product, f"{payload.marker}{uuid4().hex}", **about)
    metrics = METRICS | {"gate": {"passed": False, "reasons": worst}}
    lineage = tuple(f"bad{payload.marker}d" for payload in PAYLOADS)
    store.commit_update(UpdateRow(1000.0, 0, "checkpoint-000009", "published", "v000009", metrics, lineage))


def clean(product: Product) -> None:
    """The drafts would stand in other tests' way."""
    desk = product.rig.store.desk
    for draft in desk.drafts():
        desk.set_draft(Doing("operator:local", 1.0), draft.id, {"state": "dropped"})


def test_two_hundred_hostile_texts_stay_text(operator_visit: Visit, product: Product) -> None:
    """In groups, drafts, reasons and a transcript; a dialog or a request to elsewhere fails by itself."""
    poison(product)
    try:
        page = studio(operator_visit, "knowledge")
        expect(page.locator(".st-gap").first).to_be_visible()
        expect(page.get_by_role("region", name="Drafts").get_by_role("row").nth(10)).to_be_visible()
        shown = page.locator("#st-page-knowledge").text_content() or ""
        assert [payload.marker for payload in PAYLOADS if payload.marker not in shown] == []
        assert page.evaluate(INERT_JS, "#studio") == []
        page.locator(".st-gaps button.link").first.click()
        expect(page.locator(".st-message.user")).to_be_visible()
        assert page.evaluate(INERT_JS, "#studio") == []
        page.get_by_role("button", name="Close").click()
        page.get_by_role("tab", name="Learning").click()
        expect(page.get_by_role("region", name="Updates").get_by_text(PAYLOADS[0].marker)).to_be_visible()
        assert page.evaluate(INERT_JS, "#studio") == []
    finally:
        clean(product)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    new_visit: Callable[..., Visit], sign_in: Callable[[Visit], Visit], scheme: str
) -> None:
    """On each of the three pages, and in a dialog."""
    visit = sign_in(new_visit(viewport={"width": 1280, "height": 800}, color_scheme=scheme))
    found = []
    for name in ("learning", "rules", "knowledge"):
        page = studio(visit, name)
        expect(page.locator(f"#st-page-{name} .st-panel").last).to_be_visible()
        found += serious(Axe().run(page))
    page.get_by_role("button", name="New article").click()
    found += serious(Axe().run(page))
    assert found == []


def serious(results: Any) -> list[str]:
    """What axe finds that is serious or worse, and where."""
    violations = [one for one in results.response["violations"] if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {node['html'][:200]}" for one in violations for node in one["nodes"]]
