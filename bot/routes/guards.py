"""What every request passes: security headers, a body limit, and signing in before operator pages. Pure ASGI.

They look at `scope["path"]` only: a URL rebuilt from the Host header could say something else than what is routed.
"""

from __future__ import annotations

import html
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bot.errors import NotAllowed
from bot.routes.access import signed_in
from bot.routes.failures import answer_of
from bot.routes.parts import Service
from bot.routes.signin import MAX_NEXT_CHARS
from bot.staff import ANYBODY, DEVELOPMENT, Member
from bot.wire_errors import TooLarge, Unauthenticated

# Gradio's pages set their own base address.
_SHARED = "base-uri 'self'; object-src 'none'; frame-ancestors 'self'; form-action 'self'"
API_POLICY = f"default-src 'none'; {_SHARED}"
LOGIN_POLICY = f"default-src 'none'; style-src 'unsafe-inline'; {_SHARED}"
# Gradio's pages carry inline scripts and compile the `js=` of events, hence unsafe-inline and unsafe-eval; nothing is
# ever loaded from, or sent to, another host.
PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    f"worker-src 'self' blob:; {_SHARED}"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
_PRIVATE = _HEADERS | {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}
_API_PATHS = ("/v1/", "/health/", "/metrics", "/openapi.json")
_NOT_YOURS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Not for your role - Rejoinder</title>
<style>:root {{ color-scheme: light dark; }} main {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 32rem;
  margin: 20vh auto 0; padding: 0 1rem; }}</style></head><body><main>
<h1>This page is for {roles}</h1>
<p>You are signed in as {name}, with the role {role}.</p>
<p><a href="/operator">Go to the conversations</a></p>
</main></body></html>
"""
PRIVATE_PAGES = {"/operator": ANYBODY, "/studio": DEVELOPMENT}
"""Page -> roles that may see it."""


class SecurityHeaders:
    """Adds the headers to every HTTP response that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _headers_for(path).items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _headers_for(path: str) -> dict[str, str]:
    if path.startswith(_API_PATHS):
        return _PRIVATE | {"Content-Security-Policy": API_POLICY}
    if path.startswith("/login"):
        return _PRIVATE | {"Content-Security-Policy": LOGIN_POLICY}
    return _HEADERS | {"Content-Security-Policy": PAGE_POLICY}


_EDITED = ("/v1/rules", "/v1/knowledge/")
MAX_EDITED_BYTES = 1 << 20
"""Of a body with rules or an article, which only developers (and, to look at one, the staff) may send."""


class BodyLimit:
    """Refuses bodies over `max_bytes` on our own routes, announced or streamed; texts that are edited may be longer."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith((*_API_PATHS, "/login")):
            await self._app(scope, receive, send)
            return
        is_edited = scope["path"].startswith(_EDITED)
        max_bytes = max(self._max_bytes, MAX_EDITED_BYTES) if is_edited else self._max_bytes
        complaint = f"body: expected at most {max_bytes} bytes, got more"
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isascii() and announced.isdigit() and int(announced[:20]) > max_bytes:
            await answer_of(TooLarge(complaint))(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise HTTPException(413, complaint)
            return message

        await self._app(scope, counted, send)


class SignInFirst:
    """Nobody sees an operator page without the operator's cookie: browsers go to `/login`, programs get 401."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        roles = _roles_of(scope["path"]) if scope["type"] in ("http", "websocket") else None
        if roles is None:
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        member = signed_in(connection, self._service)
        if member is not None and member.role in roles:
            await self._app(scope, receive, send)
        elif member is not None and scope["type"] == "http":
            await _not_for(member, roles, _is_read_by_people(connection, scope))(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        elif _is_read_by_people(connection, scope):
            await RedirectResponse(f"/login?next={quote(_asked(scope), safe='/')}", 303)(scope, receive, send)
        else:
            await answer_of(Unauthenticated("expected an operator who signed in"))(scope, receive, send)


def _is_read_by_people(connection: HTTPConnection, scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD") and "text/html" in connection.headers.get("accept", "")


def _not_for(member: Member, roles: frozenset[str], is_read_by_people: bool) -> Response:
    """Who may see the page, and where those who may not can go."""
    if not is_read_by_people:
        return answer_of(NotAllowed(f"expected the role {' or '.join(sorted(roles))}, got {member.role}"))
    whose = " and ".join(f"{role}s" for role in sorted(roles, reverse=True))
    page = _NOT_YOURS.format(roles=whose, name=html.escape(member.name), role=member.role)
    return HTMLResponse(page, 403)


def _asked(scope: Scope) -> str:
    """The page with its query, which says what is open there; without one that the form would not take."""
    path, query = scope["path"], scope["query_string"].decode("latin-1")
    asked = f"{path}?{query}"
    return asked if query and len(asked) <= MAX_NEXT_CHARS else path


def _roles_of(path: str) -> frozenset[str] | None:
    """Who may see a page; None: it is not one of the staff's."""
    found = (roles for page, roles in PRIVATE_PAGES.items() if path == page or path.startswith(f"{page}/"))
    return next(found, None)
