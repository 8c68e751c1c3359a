"""How a test talks on the chat page."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect


def say(page: Page, text: str) -> None:
    """Type and send."""
    page.bring_to_front()
    field = page.get_by_label("Your message")
    field.fill(text)
    field.press("Enter")


def replies(page: Page) -> Locator:
    """Replies of the policy: those that can be rated."""
    return page.locator(".rj-bot:has(.rj-votes)")


def ask(page: Page, text: str = "Where is my card?") -> Locator:
    """Say something and wait for the whole reply."""
    before = replies(page).count()
    say(page, text)
    expect(replies(page)).to_have_count(before + 1)
    return replies(page).nth(before)


def conversation_of(page: Page) -> str:
    """Its id, as the browser remembers it."""
    found: str = page.evaluate("JSON.parse(localStorage.getItem('rejoinder.chat')).conversation_id")
    return found


def menu(page: Page, item: str) -> None:
    """Press an item of the chat's menu. In a tab behind another one Chromium draws once a second, and clicks wait for that."""
    page.bring_to_front()
    page.get_by_role("button", name="Chat settings").click()
    page.get_by_role("button", name=item).click()
