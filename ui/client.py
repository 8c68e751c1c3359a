"""The operator pages' road to the bot: its public HTTP API, with the operator key kept on this side.

Raises ApiError, whose text is one line fit to be shown.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx

TIMEOUT_S = 10.0
AWAY = "The server does not answer. It may be starting; this page tries again by itself."


class ApiError(Exception):
    """The server is away or said no."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 when no answer came."""


class Api:
    """The `/v1` routes as async methods; answers are the JSON objects of docs/protocol.md.

    `base_url` may be a function, for servers that learn their port late. `transport` is for tests.
    """

    def __init__(
        self,
        base_url: str | Callable[[], str],
        key: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._base_url = base_url
        self._key = key
        self._transport = transport
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context()

    async def conversations(
        self, *, q: str = "", thumb: int = 0, version: str = "", status: str = "", before: float = 0.0, limit: int = 20
    ) -> dict[str, Any]:
        """A page of the list, newest first; `next` is the `before` of the following page, or empty."""
        wanted = {"q": q, "thumb": thumb, "version": version, "status": status, "before": before, "limit": limit}
        return await self._call("GET", "/v1/conversations", params={k: v for k, v in wanted.items() if v})

    async def conversation(self, conversation_id: str) -> dict[str, Any]:
        """A transcript with its decisions, signals and rewards."""
        return await self._call("GET", f"/v1/conversations/{quote(conversation_id, safe='')}")

    async def versions(self) -> dict[str, Any]:
        """The champion, whether it is frozen, and every version."""
        return await self._call("GET", "/v1/versions")

    async def learner(self) -> dict[str, Any]:
        """The learner's state, its updates, and what came of them."""
        return await self._call("GET", "/v1/learner")

    async def rollback(self, to: str, reason: str) -> dict[str, Any]:
        """Serve `to` again; empty: the champion's parent."""
        return await self._call(
            "POST", "/v1/versions/rollback", json={"to": to, "reason": reason} if to else {"reason": reason}
        )

    async def promote(self, version: str, reason: str) -> dict[str, Any]:
        """Serve `version` from now on."""
        return await self._call("POST", "/v1/versions/promote", json={"version": version, "reason": reason})

    async def freeze(self, reason: str) -> dict[str, Any]:
        """Keep the champion whatever the learner publishes."""
        return await self._call("POST", "/v1/versions/freeze", json={"reason": reason})

    async def unfreeze(self, reason: str) -> dict[str, Any]:
        """Let the gate publish again."""
        return await self._call("POST", "/v1/versions/unfreeze", json={"reason": reason})

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            async with self._client() as client:
                answer = await client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ApiError(AWAY) from error
        return _content(answer)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._base_url() if callable(self._base_url) else self._base_url,
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=self._timeout_s,
            transport=self._transport,
            verify=self._tls,
            # The server is here: no proxy of the environment lies between.
            trust_env=False,
        )


def _content(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        content = None
    if answer.is_success and isinstance(content, dict):
        return content
    raise ApiError(_refusal(answer.status_code, content), answer.status_code)


def _refusal(status: int, content: Any) -> str:
    error = content.get("error") if isinstance(content, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    return str(said) if said else f"The server answered {status}."
