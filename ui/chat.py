"""The chat page: a Gradio page holding one container that our own script fills.

The browser talks to `/ws/chat` itself (docs/protocol.md); this module only renders the first frame: the AI notice,
the offer of a person, and the texts the script needs.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

import gradio as gr

from ui.texts import LANGUAGES, texts

HEAD = """<link rel="stylesheet" href="static/rejoinder/chat.css">
<script type="module" src="static/rejoinder/page.js"></script>"""


def chat_page(*, assistant: str = "", ai_notice: str = "", human_offer: str = "", language: str = "en") -> gr.Blocks:
    """Blocks for `/`. Empty texts are taken from the catalogue."""
    words = texts(language)
    assistant = assistant or words["assistant"]
    page: gr.Blocks
    with gr.Blocks(title=assistant, analytics_enabled=False, fill_width=True) as page:
        frame = first_frame(assistant, ai_notice or words["ai_notice"], human_offer or words["human_offer"], language)
        gr.HTML(frame, elem_classes="rj-stage", js_on_load=None, apply_default_css=False)
    return page


def chat_config(assistant: str, ai_notice: str, human_offer: str, language: str = "en") -> dict[str, Any]:
    """What the script is told before it asks the server: who speaks, and all texts by language (`language`: the default)."""
    words = texts(language)
    return {
        "assistant": assistant or words["assistant"],
        "ai_notice": ai_notice or words["ai_notice"],
        "human_offer": human_offer or words["human_offer"],
        "language": language.partition("-")[0].lower(),
        "texts": {name: dict(words) for name, words in LANGUAGES.items()},
    }


def first_frame(assistant: str, ai_notice: str, human_offer: str, language: str = "en") -> str:
    """The container as HTML: readable before any script runs, with the script's configuration in `data-config`."""
    notice = f"<p><strong>{escape(ai_notice)}</strong></p><p>{escape(human_offer)}</p>"
    config = chat_config(assistant, ai_notice, human_offer, language)
    data = escape(json.dumps(config, ensure_ascii=True), quote=True)
    return (
        f'<div id="rejoinder" lang="{escape(language)}" data-config="{data}"><div class="rj-first">{notice}</div></div>'
    )
