"""What stands before the pages: sign-in for the operator's, and headers that let no page reach another host.

Gradio's own `auth_dependency` leaves some routes open and answers 401 without a way to sign in; this asks the API
about every request under the guarded paths and sends a browser to `/login`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.client import ApiError

CONTENT_POLICY = "; ".join(
    [
        "default-src 'self'",
        # Gradio's page has inline scripts, and its plots and HTML templates compile functions.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)


class PageGuard:
    """ASGI middleware around the whole app; only page requests are touched."""

    def __init__(
        self, app: ASGIApp, *, private_paths: tuple[str, ...], signed_in: Callable[[str], Awaitable[bool]]
    ) -> None:
        self.app = app
        self.private_paths = private_paths
        self.signed_in = signed_in
        """Asked with the browser's Cookie header."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = await self._refusal(scope) if self._is_private(scope["path"]) else None
        await (refusal or self.app)(scope, receive, _with_policy(send))

    def _is_private(self, path: str) -> bool:
        return any(path == private or path.startswith(private + "/") for private in self.private_paths)

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        try:
            if await self.signed_in(headers.get("cookie", "")):
                return RedirectResponse(_under_root(scope, scope["path"] + "/")) if scope["path"] in self.private_paths else None
        except ApiError as error:
            return PlainTextResponse(str(error), status_code=503)
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(f"{_under_root(scope, '/login')}?next={quote(scope['path'])}", status_code=303)
        return JSONResponse({"error": {"code": "not_allowed", "message": "Sign in first."}}, status_code=401)


def _under_root(scope: Scope, path: str) -> str:
    root: str = scope.get("root_path", "")
    return path if root and path.startswith(root) else root + path


def _with_policy(send: Send) -> Send:
    async def send_with_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("text/html"):
                headers.setdefault("Content-Security-Policy", CONTENT_POLICY)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "same-origin")
        await send(message)

    return send_with_policy
