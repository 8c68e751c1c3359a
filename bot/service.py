"""The web service: one FastAPI app around the parts it is given.

    frame in -> hub (room of the conversation) -> session (one reply) -> frames out -> store

Owns the order in which a server stops, whatever its peers do: not ready at once, running replies end (`hub.DRAIN_S`), sockets
are told to come back (1012), who is still there is cut off (`LINGER_S`). Together within 30 s, when a supervisor kills.
Knows nothing of models, pages or the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware

from bot import wire
from bot.errors import StoreError
from bot.language import known_language
from bot.routes import (
    accounts,
    chat,
    conversations,
    desk,
    failures,
    feedback,
    guards,
    health,
    inbox,
    jobs,
    knowledge,
    learner,
    lessons,
    own,
    provider,
    review,
    rules,
    serving,
    signin,
    versions,
    watch,
)
from bot.routes.parts import AppParts, Service
from bot.settings import Settings

__all__ = ["AppParts", "DrainingServer", "create_app", "drain", "exit_cleanly_on_sigterm", "uvicorn_config"]

logger = logging.getLogger(__name__)

LINGER_S = 3.0
"""How long peers may take to leave after the drain: requests that run to end, closing frames to be answered."""
GRACE_S = 4
"""After the drain, until uvicorn cancels what a cut connection has not ended."""
CHAMPION_POLL_S = 0.25
"""How soon open pages hear of a new version."""
QUEUE_POLL_S = 1.0
"""How soon people who wait hear that the queue has moved."""
_ROUTERS = (
    *(chat, conversations, own, feedback, inbox, desk, review, accounts, watch),
    *(versions, lessons, learner, serving, rules, knowledge, jobs, signin, provider, health),
)


def create_app(parts: AppParts) -> FastAPI:
    """The app, with its own metrics registry and rooms. Pages are mounted by whoever builds the product."""
    service = Service.of(parts)
    app = FastAPI(
        title="Rejoinder",
        description="A customer-service chatbot that learns from thumbs. The chat itself is the websocket `/ws/chat`; "
        "its frames are among the schemas, and docs/protocol.md explains them.",
        version="1",
        lifespan=_lifespan,
        responses=failures.ERRORS,
        # FastAPI's pages load scripts from another host.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    for module in _ROUTERS:
        app.include_router(module.router)
    failures.install(app)
    app.add_middleware(guards.SignInFirst, service=service)
    app.add_middleware(guards.BodyLimit, max_bytes=parts.settings.limits.max_frame_bytes)
    app.add_middleware(guards.SecurityHeaders)
    if parts.settings.allowed_origins:
        # The widget on somebody's page opens sources, and downloads or erases with the person's own token: no cookies.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=parts.settings.allowed_origins,
            allow_methods=["GET", "DELETE"],
            allow_headers=["Authorization"],
        )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend its schema
    return app


async def drain(app: FastAPI) -> None:
    """Stop taking work, let running replies end, close every socket with 1012. Safe to call twice."""
    await app.state.service.hub.drain()


_PLAIN_REFUSALS = failures.PlainRefusals()
"""One, which a logger takes once however many servers there were."""


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains before it closes connections, and then waits for nobody. uvicorn alone cuts running replies
    at once, and waits for a peer that reads no more, or of which a request never ends."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, linger_s: float = LINGER_S) -> None:
        super().__init__(config)
        self._app = app
        self._linger_s = linger_s
        self._closing: set[Any] = set()
        logging.getLogger("uvicorn.error").addFilter(_PLAIN_REFUSALS)

    async def on_tick(self, counter: int) -> bool:
        """Each tenth of a second: what has been closing for `linger_s` is dropped. A reader that was cut for reading nothing
        would otherwise keep its connection, and the memory of what it was sent, for as long as it likes."""
        if counter % max(1, round(self._linger_s / 0.1)) == 0:
            closing = {peer for peer in self.server_state.connections if peer.transport.is_closing()}
            for peer in closing & self._closing:
                peer.transport.abort()
            self._closing = closing
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain (a second Ctrl-C ends it early), then what uvicorn does."""
        draining = asyncio.create_task(drain(self._app))
        while not draining.done() and not self.force_exit:
            await asyncio.wait({draining}, timeout=0.1)
        draining.cancel()
        cutting = asyncio.get_running_loop().call_later(self._linger_s, self._cut)
        await super().shutdown(sockets)
        cutting.cancel()

    def _cut(self) -> None:
        """Drop connections with what they have not read; their requests end as after any lost connection."""
        for connection in list(self.server_state.connections):
            # A transport that is closing waits for its buffer to be read.
            connection.transport.abort()


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """No compression (memory per socket, and compressed bombs); frames bounded before they are read."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        # Larger frames than allowed must reach the app, which answers with one clear line; this bounds memory.
        ws_max_size=16 * settings.limits.max_frame_bytes,
        ws_per_message_deflate=False,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
    )


def exit_cleanly_on_sigterm() -> None:
    """uvicorn raises the signal that stopped it once more when it is done: by default that would kill the process before
    anything else is closed, with an exit code of failure."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    watching = [asyncio.create_task(work(service)) for work in (_tell_versions, _tell_positions, watch.tell_changes)]
    # Its model takes most of a second to load: not within somebody's first message.
    warming = asyncio.create_task(asyncio.to_thread(known_language, "some words to warm up", ("en",)))
    try:
        yield
    finally:
        for task in watching:
            task.cancel()
        await app.state.service.jobs.close()
        await warming
        await drain(app)


async def _tell_versions(service: Service) -> None:
    """Tell open pages when another version becomes champion."""
    told = ""
    while True:
        champion = service.parts.policy.champion
        if champion != told:
            told = champion
            service.metrics.champion.set(int(champion.lstrip("v") or 0))
            service.hub.tell_version(champion)
        await asyncio.sleep(CHAMPION_POLL_S)


async def _tell_positions(service: Service) -> None:
    """Tell people who wait for a person where they stand."""
    while True:
        try:
            await service.hub.tell_positions()
        except StoreError:
            logger.exception("could not read the queue; it is read again")
        await asyncio.sleep(QUEUE_POLL_S)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's schema plus the frames of the websocket, which OpenAPI has no place for."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, frames = models_json_schema(
            [(frame, "validation") for frame in wire.FRAMES], ref_template="#/components/schemas/{model}"
        )
        schema["components"]["schemas"] |= frames["$defs"]
        app.openapi_schema = schema
    return app.openapi_schema
