"""Puts the three pages on the server: `/operator`, `/studio`, and the chat at `/` (last: it takes what is left)."""

from __future__ import annotations

import os
from collections.abc import Callable

# Read once, when Gradio is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from starlette.staticfiles import StaticFiles  # noqa: E402

from ui import chat, operator, studio  # noqa: E402
from ui.client import Api  # noqa: E402
from ui.guard import PageGuard  # noqa: E402
from ui.theme import DESK_HEAD, STATIC_FOLDER, STATIC_PATH, theme  # noqa: E402


def mount(
    app: FastAPI,
    *,
    base_url: str | Callable[[], str],
    operator_key: str,
    assistant: str = "",
    ai_notice: str = "",
    human_offer: str = "",
    language: str = "en",
) -> FastAPI:
    """Mounts the pages; the app's own routes must be there already. Returns the app.

    `base_url` is where this server's `/v1` answers (a function when the port is not known yet). The operator's pages
    use it with `operator_key`, which no browser sees; browsers need the session cookie of `/login`.
    """
    api = Api(base_url, operator_key)
    app.mount(STATIC_PATH, StaticFiles(directory=STATIC_FOLDER), name="rejoinder-static")
    _mount_page(app, operator.operator_page(api), "/operator", DESK_HEAD)
    _mount_page(app, studio.studio_page(api), "/studio", DESK_HEAD)
    page = chat.chat_page(assistant=assistant, ai_notice=ai_notice, human_offer=human_offer, language=language)
    _mount_page(app, page, "/", chat.HEAD)
    app.add_middleware(PageGuard, private_paths=("/operator", "/studio"), signed_in=api.signed_in)
    return app


def _mount_page(app: FastAPI, page: gr.Blocks, path: str, head: str) -> None:
    gr.mount_gradio_app(
        app, page, path, head=head, theme=theme(), footer_links=[], run_history=False, ssr_mode=False, pwa=False,
        mcp_server=False, enable_monitoring=False, show_error=False,
    )  # fmt: skip
