"""Puts the pages on the server: `/operator`, `/studio`, and the chat at `/` (last: it takes what is left); and beside
them `/widget.js` for other people's sites, with a shop that shows it at `/demo/shop`.

Who may see the operator's pages, and the headers of all pages, are the server's business (`bot.routes.guards`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Read once, when Gradio is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from ui import chat, operator, studio
from ui.client import Api
from ui.theme import theme

STATIC_FOLDER = Path(__file__).parent / "static"
STATIC_PATH = "/static/rejoinder"


_PUBLIC = {
    "Cache-Control": "no-cache",
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
"""The widget's page loads them from its own origin. They hold nothing of anybody's."""


class _Revalidated(StaticFiles):
    """Files that the browser asks about each time, so an update never mixes with a cached module."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_PUBLIC)
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
    _mount_widget(app, chat.chat_config(assistant, ai_notice, human_offer, language))
    page = chat.chat_page(assistant=assistant, ai_notice=ai_notice, human_offer=human_offer, language=language)
    _mount_page(app, page, "/", chat.HEAD)
    return app


def _mount_widget(app: FastAPI, config: dict[str, Any]) -> None:
    source = (STATIC_FOLDER / "widget" / "widget.js").read_text("utf-8")
    script = f"window.rejoinderConfig = {json.dumps(config)};\n{source}"

    def widget(_: Request) -> Response:
        return Response(script, media_type="text/javascript", headers=_PUBLIC)

    def shop(_: Request) -> Response:
        return FileResponse(STATIC_FOLDER / "widget" / "shop.html", headers={"Cache-Control": "no-cache"})

    app.add_route("/widget.js", widget, include_in_schema=False)
    app.add_route("/demo/shop", shop, include_in_schema=False)


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
