"""Puts the three pages on the server: `/operator`, `/studio`, and the chat at `/` (last: it takes what is left).

Who may see the operator's pages, and the headers of all pages, are the server's business (`bot.routes.guards`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Read once, when Gradio is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from fastapi import FastAPI
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from ui import chat, operator, studio
from ui.client import Api
from ui.theme import theme

STATIC_FOLDER = Path(__file__).parent / "static"
STATIC_PATH = "/static/rejoinder"


class _Revalidated(StaticFiles):
    """Files that the browser asks about each time, so an update never mixes with a cached module."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


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
    use it with `operator_key`, which no browser sees.
    """
    api = Api(base_url, operator_key)
    app.mount(STATIC_PATH, _Revalidated(directory=STATIC_FOLDER), name="rejoinder-static")
    _mount_page(app, operator.operator_page(api), "/operator", operator.HEAD)
    _mount_page(app, studio.studio_page(api), "/studio", operator.HEAD)
    page = chat.chat_page(assistant=assistant, ai_notice=ai_notice, human_offer=human_offer, language=language)
    _mount_page(app, page, "/", chat.HEAD)
    return app


def _mount_page(app: FastAPI, page: gr.Blocks, path: str, head: str) -> None:
    if path != "/":
        # Without it the page at "/" would answer for the path without its slash.
        app.add_route(
            path, lambda request: RedirectResponse(f"{request.url.path.rstrip('/')}/"), include_in_schema=False
        )
    gr.mount_gradio_app(
        app,
        page,
        path,
        head=head,
        theme=theme(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
    )
