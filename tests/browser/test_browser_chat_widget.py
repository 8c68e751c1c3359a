"""The widget on somebody else's page: one script tag, the same chat, and only where it is allowed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.chat_page import ask, conversation_of, replies
from tests.browser.conftest import Visit
from tests.browser.product import Product
from tests.builders import make_message
from tests.hostile import INERT_JS, PAYLOADS

pytestmark = pytest.mark.browser


def open_shop(visit: Visit, address: str, button: str = "Open chat") -> Page:
    """The shop's page with its widget opened."""
    visit.homes.append(address)
    page = visit.context.new_page()
    page.goto(address)
    page.get_by_role("button", name=button).click()
    return page


def test_a_named_site_has_the_whole_chat(visit: Visit, product: Product) -> None:
    """Asked, answered, its source opened, history after a reload, closed with Escape."""
    page = open_shop(visit, product.shop.allowed)
    expect(page.locator(".rj-badge b")).to_have_text("v000001")
    reply = ask(page)
    reply.get_by_role("button", name="Source: When your card comes").click()
    expect(page.get_by_text("In 5 days.")).to_be_visible()
    page.keyboard.press("Escape")
    page.reload()
    page.get_by_role("button", name="Open chat").click()
    expect(replies(page)).to_have_count(1)
    page.get_by_label("Your message").press("Escape")
    expect(page.get_by_label("Your message")).to_be_hidden()
    expect(page.get_by_role("button", name="Open chat")).to_be_focused()


def test_a_pressed_quick_reply_stays_what_was_on_its_button(new_visit: Callable[..., Visit], product: Product) -> None:
    """In the widget as on the page: a Chinese button, a Chinese bubble, also when the shop's page is opened again."""
    page = open_shop(new_visit(locale="zh-CN"), product.shop.allowed, "打开聊天")
    expect(page.locator(".rj-badge b")).to_have_text("v000001")
    offer = make_message(
        id="m_offer_widget", conversation_id=conversation_of(page), role="bot", text="?", quick_replies=("No",)
    )
    product.rig.store.add_reply(offer, None)
    page.reload()
    page.get_by_role("button", name="打开聊天").click()
    page.locator(".rj-quick", has_text="否").click()
    expect(replies(page)).to_have_count(1)
    page.reload()
    page.get_by_role("button", name="打开聊天").click()
    expect(page.locator(".rj-user .rj-plain")).to_have_text("否")


def test_neither_side_reaches_the_others_looks(visit: Visit, product: Product) -> None:
    """The shop's `* { ... !important }` stays outside; the shop's own button, the control, is red and large."""
    page = open_shop(visit, product.shop.allowed)
    look = "node => [getComputedStyle(node).color, getComputedStyle(node).fontSize]"
    assert page.get_by_role("button", name="Buy").evaluate(look) == ["rgb(255, 0, 0)", "40px"]
    assert ask(page).locator(".rj-text p").evaluate(look) == ["rgb(27, 33, 31)", "16px"]


def test_a_site_that_nobody_named_gets_no_chat(visit: Visit, product: Product) -> None:
    """The same pages under another name: nothing is drawn, and the console tells the site's owner what to do."""
    visit.homes.append(product.shop.stranger)
    page = visit.context.new_page()
    said = f"The chat is not shown here: {product.shop.stranger} is not one of the allowed_origins of {product.url}."
    with page.expect_console_message(lambda line: line.text == said):
        page.goto(product.shop.stranger)
    expect(page.locator("#rejoinder-widget")).to_have_count(0)


def test_a_stranger_who_opens_the_socket_all_the_same_is_refused(visit: Visit, product: Product) -> None:
    """By its Origin, before anything is stored; on the named site the same two lines connect."""
    connects = f"""() => new Promise((done) => {{
        const socket = new WebSocket({product.url.replace("http", "ws")!r} + "/ws/chat");
        socket.onopen = () => done(true);
        socket.onclose = () => done(false);
    }})"""
    visit.homes += [product.shop.stranger, product.shop.allowed]
    page = visit.context.new_page()
    page.goto(product.shop.stranger)
    assert page.evaluate(connects) is False
    page.goto(product.shop.allowed)
    assert page.evaluate(connects) is True


def test_a_server_that_is_away_when_the_page_opens_is_no_refusal(visit: Visit, product: Product) -> None:
    """The button is there; the chat behind it connects when the server is back."""
    visit.homes.append(product.shop.allowed)
    page = visit.context.new_page()
    page.route("**/health/live", lambda route: route.abort())
    page.route("**/tokens.css", lambda route: route.abort())
    page.goto(product.shop.allowed)
    page.get_by_role("button", name="Open chat").click()
    expect(page.locator(".rj-badge b")).to_have_text("v000001")


def test_hostile_texts_stay_text_in_the_widget(visit: Visit, product: Product) -> None:
    """As on the page: every one is there, none came alive on the shop's site."""
    page = open_shop(visit, product.shop.allowed)
    expect(page.locator(".rj-badge b")).to_have_text("v000001")
    here = conversation_of(page)
    for number, payload in enumerate(PAYLOADS):
        line = make_message(id=f"m_{number}_{here}", conversation_id=here, role="bot", text=payload.text)
        product.rig.store.add_reply(line, None)
    page.reload()
    page.get_by_role("button", name="Open chat").click()
    expect(page.locator(".rj-message")).to_have_count(len(PAYLOADS) + 1)
    assert page.evaluate(INERT_JS, "#rejoinder-widget") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_demo_shop_shows_it_and_axe_finds_nothing_serious(new_visit: Callable[..., Visit], scheme: str) -> None:
    """Served by the product itself."""
    visit = new_visit(viewport={"width": 390, "height": 844}, color_scheme=scheme, reduced_motion="reduce")
    page = visit.open("/demo/shop")
    found = [one["id"] for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    page.get_by_role("button", name="Open chat").click()
    ask(page)
    found += [one["id"] for one in Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth <= 390")
