"""Puts the pages on the server: `/operator`, `/studio`, and the chat at `/` (last: it takes what is left); and beside
them `/widget.js` for other people's sites, with a shop that shows it at `/demo/shop`.

Who may see the operator's pages, and the headers of all pages, are the server's business (`bot.routes.guards`).
"""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

# Read once, when Gradio is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from ui import chat, operator, studio
from ui.theme import theme

STATIC_FOLDER = Path(__file__).parent / "static"
STATIC_PATH = "/static/rejoinder"


_PUBLIC = {
    "Cache-Control": "no-cache",
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
"""The widget's page loads them from its own origin. They hold nothing of anybody's."""


class _Assets(StaticFiles):
    """Files that the browser asks about each time, so an update never mixes with a cached module; scripts and styles
    without their comments."""

    def file_response(self, full_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(full_path, *args, **kwargs)
        path = Path(full_path)
        if isinstance(response, FileResponse) and path.suffix in _LEAN_TYPES:
            kept = {name: response.headers[name] for name in ("etag", "last-modified")}
            text = lean(path.read_text("utf-8"))
            response = Response(text, media_type=_LEAN_TYPES[path.suffix], headers=kept)
        response.headers.update(_PUBLIC)
        return response


_LEAN_TYPES = {".js": "text/javascript", ".css": "text/css"}
_BLOCK_COMMENT = re.compile(r"(?ms)^[ \t]*/\*(?:(?!\*/).)*\*/[ \t]*$")


def lean(source: str) -> str:
    """A script or style without blank lines, indentation, and comments that have lines of their own.

    Line by line, so no script may hold a template literal of several lines (`test_ui_widget.py`).
    """
    lines = (line.strip() for line in _BLOCK_COMMENT.sub("", source).splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def mount(
    app: FastAPI,
    *,
    assistant: str = "",
    ai_notice: str = "",
    human_offer: str = "",
    language: str = "en",
) -> FastAPI:
    """Mounts the pages; the app's own routes must be there already. Returns the app."""
    mount_public(app, chat.chat_config(assistant, ai_notice, human_offer, language))
    _mount_page(app, operator.operator_page(), "/operator", operator.DESK_HEAD)
    _mount_page(app, studio.studio_page(), "/studio", studio.HEAD)
    page = chat.chat_page(assistant=assistant, ai_notice=ai_notice, human_offer=human_offer, language=language)
    _mount_page(app, page, "/", chat.HEAD)
    return app


def mount_public(app: FastAPI, config: dict[str, Any]) -> None:
    """What anybody may load: scripts and styles, the widget with its words (`ui.chat.chat_config`), the demo shop."""
    app.mount(STATIC_PATH, GZipMiddleware(_Assets(directory=STATIC_FOLDER)), name="rejoinder-static")
    source = lean((STATIC_FOLDER / "widget" / "widget.js").read_text("utf-8"))
    words = json.dumps(config, ensure_ascii=False, separators=(",", ":"))
    script = f"window.rejoinderConfig = {words};\n{source}".encode()
    packed = gzip.compress(script)

    def widget(request: Request) -> Response:
        takes_packed = "gzip" in request.headers.get("accept-encoding", "")
        headers = _PUBLIC | {"Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if takes_packed else {})
        return Response(packed if takes_packed else script, media_type="text/javascript", headers=headers)

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
