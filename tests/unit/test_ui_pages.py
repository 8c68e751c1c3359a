"""The pages as built: texts, private handlers, nothing from another host, and handlers that survive a silent server.

Tests that build a page are async: without a running loop Gradio makes one and never closes it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import ui
from bot.announcements import EVENTS, SOMEBODY, announcement
from bot.domain import load_domain
from bot.session import TALK_TO_A_PERSON
from bot.wire import DOWN_CHIPS, UP_CHIPS
from bot.wire_errors import WIRE_CODES
from ui import operator, studio
from ui.app import STATIC_FOLDER
from ui.chat import chat_page
from ui.texts import CHINESE, ENGLISH, LANGUAGES, texts
from ui.theme import theme


def test_every_language_has_every_text_with_the_same_places_to_fill() -> None:
    """A missing key would show its name to people."""
    for name, words in LANGUAGES.items():
        assert ENGLISH.keys() == words.keys(), name
        for key, english in ENGLISH.items():
            assert words[key].strip(), (name, key)
            assert set(re.findall(r"{(\w+)}", english)) == set(re.findall(r"{(\w+)}", words[key])), (name, key)
    assert (texts("zh-CN"), texts("xx")) == (CHINESE, ENGLISH)


def test_what_the_server_says_in_english_has_its_words_in_the_catalogue() -> None:
    """Events, reasons, errors, and the quick replies of the session and of both shipped domains; the English are the server's."""
    domains = [load_domain(name) for name in ("bank", "shop")]
    offered = {
        title for domain in domains for said in domain.responses.values() for one in said for title in one.buttons
    }
    assert {f"quick.{title}" for title in {*offered, TALK_TO_A_PERSON}} <= ENGLISH.keys()
    assert {f"chip.{chip}" for chip in (*UP_CHIPS, *DOWN_CHIPS)} <= ENGLISH.keys()
    assert {f"error.{code}" for code in WIRE_CODES} <= ENGLISH.keys()
    for event in EVENTS:
        assert ENGLISH[f"event.{event}"].format(name="Ana") == announcement(event, "Ana")
    assert ENGLISH["event.somebody"] == SOMEBODY


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


@pytest.mark.parametrize("build", [chat_page, operator.operator_page, studio.studio_page])
async def test_pages_that_speak_to_the_server_themselves_have_no_handler_at_all(build: Any) -> None:
    """The browser's own socket and requests are their road to the bot."""
    assert not build().fns
