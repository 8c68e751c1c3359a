"""The pages as built: texts, private handlers, nothing from another host, and handlers that survive a silent server.

Tests that build a page are async: without a running loop Gradio makes one and never closes it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

import ui
from tests.browser.sample_answers import operator_answers
from ui import operator, studio
from ui.app import STATIC_FOLDER
from ui.chat import chat_page
from ui.client import Api
from ui.texts import CHINESE, ENGLISH, texts
from ui.theme import theme


def make_api(status: int = 200, **answers: Any) -> Api:
    """An API that answers each path's last word from `answers`."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=answers.get(request.url.path.rsplit("/", 1)[-1], {}))

    return Api("http://bot.test", "k", transport=httpx.MockTransport(answer))


def test_every_language_has_every_text_with_the_same_places_to_fill() -> None:
    """A missing key would show its name to people."""
    assert ENGLISH.keys() == CHINESE.keys()
    for key, english in ENGLISH.items():
        assert set(re.findall(r"{(\w+)}", english)) == set(re.findall(r"{(\w+)}", CHINESE[key])), key
    assert (texts("zh-CN"), texts("xx")) == (CHINESE, ENGLISH)


def test_every_text_the_scripts_ask_for_exists() -> None:
    """Keys are literals in the scripts: `say("key"` and the second choice of `cond ? a : b`."""
    scripts = "".join(path.read_text() for path in STATIC_FOLDER.glob("*.js"))
    asked = set(re.findall(r'say\((?:[^()"`]*\? )?"([\w. ]+)"', scripts)) | set(
        re.findall(r'say\([^()"`]*\? "[\w. ]+" : "([\w. ]+)"', scripts)
    )
    assert len(asked) > 30
    assert asked <= ENGLISH.keys()


def test_nothing_the_pages_ship_names_another_host() -> None:
    """Fonts, scripts and styles are ours; the only address is the name of the SVG vocabulary."""
    shipped = [path for path in Path(ui.__file__).parent.rglob("*") if path.suffix in (".js", ".css", ".py")]
    found = {url for path in shipped for url in re.findall(r"https?://[\w.-]+\.\w+[\w./-]*", path.read_text())}
    assert found == {"http://www.w3.org/2000/svg"}
    assert not theme()._stylesheets


def test_scripts_never_parse_text_as_html() -> None:
    """Every way to turn a string into elements or code."""
    scripts = "".join(path.read_text() for path in STATIC_FOLDER.glob("*.js"))
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function|setHTMLUnsafe|createContextualFragment"
    assert not re.search(forbidden, scripts)


@pytest.mark.parametrize("build", [studio.studio_page])
async def test_handlers_of_the_operators_pages_are_private_and_never_queued(build: Any) -> None:
    """Gradio offers handlers as an API unless told otherwise, and its queue loses answers (ui/handlers.py)."""
    page = build(make_api())
    assert page.fns
    assert {(handler.api_visibility, handler.queue) for handler in page.fns.values()} == {("private", False)}


async def test_pages_that_speak_to_the_server_themselves_have_no_handler_at_all() -> None:
    """Chat and operator: the browser's own socket and requests are their road to the bot."""
    assert not chat_page(assistant="Bea").fns
    assert not operator.operator_page().fns


async def test_a_silent_server_leaves_what_is_shown_and_says_one_line() -> None:
    """The plots stay; the problem is named."""
    api = make_api(status=503)
    trouble, *shown = await studio.Studio(api).refresh()
    assert ("The server answered 503." in trouble, len(shown)) == (True, 7)


async def test_the_studio_refreshes_everything_at_once() -> None:
    """Cards, four plots, two tables."""
    answers = operator_answers()
    shown = await studio.Studio(make_api(versions=answers["versions"], learner=answers["learner"])).refresh()
    assert (len(shown), shown[0], "v000004" in shown[1]) == (8, "", True)


@pytest.mark.parametrize(
    ("change", "version", "reason"), [("freeze", "", " "), ("promote", studio.BASE_CHOICE, "read it")]
)
async def test_a_lever_without_reason_or_version_asks_for_it(change: str, version: str, reason: str) -> None:
    """Nothing is pending, so a confirmation would change nothing."""
    pending, _, confirmation, said = studio.Studio(make_api()).ask(change, version, reason)
    assert (pending, confirmation.visible, "dk-problem" in said) == (None, False, True)


async def test_only_versions_that_still_have_weights_can_be_chosen() -> None:
    """Newest first, after the one that needs no choice."""
    states = {"v000000": "base", "v000001": "pruned", "v000002": "published", "v000003": "champion"}
    lines = [{"version": version, "state": state} for version, state in states.items()]
    dropdown = await studio.Studio(make_api(versions={"versions": lines})).choices()
    assert [name for name, _ in dropdown.choices] == [studio.BASE_CHOICE, "v000003", "v000002", "v000000"]


async def test_a_lever_moves_only_after_the_confirmation() -> None:
    """What was asked is what is done; a second press does nothing."""
    desk = studio.Studio(make_api(rollback={"champion": "v000002", "frozen": True}))
    pending, question, confirmation, _ = desk.ask("rollback", "v000002", " worse <answers> ")
    assert (pending, confirmation.visible) == (("rollback", "v000002", "worse <answers>"), True)
    assert "worse &lt;answers&gt;" in question
    pending, _, said, _ = await desk.confirm(pending)
    assert (pending, "v000002" in said, "learning is frozen" in said) == (None, True, True)
    assert (await desk.confirm(None))[2] == ""
