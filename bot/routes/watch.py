"""`/ws/operator`: an operator's open page hears which conversations changed and who looks at which.

Changes are found by asking the store for what is past the last revision seen (`Desk.changed_since`): whatever wrote them,
this process or the learner's, is heard. Nobody is asked while no page is open. Who may listen is asked before anything is
told, and as often as changes are looked for: whoever is shut out, demoted or signed in too long ago hears no more.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from bot.errors import StoreError
from bot.listener import Listener
from bot.routes.access import service_of, signed_in
from bot.routes.failures import refuse
from bot.routes.parts import Service
from bot.wire_errors import Unauthenticated

router = APIRouter()

CHANGES_POLL_S = 0.3
"""How soon operators see a change, and whoever may listen no longer is cut off."""
SIGN_IN_AGAIN = 1008
"""Close code "policy violation" (RFC 6455, section 7.4.1)."""


class Look(BaseModel):
    """From the page: which conversation it shows; null: none."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    type: Literal["look"]
    conversation_id: Annotated[str, Field(max_length=64)] | None


class ChangedOut(BaseModel):
    """Conversations that changed, or are no more."""

    type: Literal["changed"] = "changed"
    conversations: list[str]


class ViewersOut(BaseModel):
    """Who looks at what: conversation -> names."""

    type: Literal["viewers"] = "viewers"
    viewers: dict[str, list[str]]


@router.websocket("/ws/operator")
async def watch(websocket: WebSocket) -> None:
    """One open page, until it is closed."""
    service = service_of(websocket)
    member = signed_in(websocket, service)
    if member is None:
        refusal = Unauthenticated("expected an operator who signed in, on this server's own page")
        await refuse(websocket, refusal)
        return
    # Read before the page hears that it is live and reads its list: nothing may change unheard in between.
    revision = await asyncio.to_thread(service.parts.store.desk.last_revision)
    await websocket.accept()
    page = Listener()
    service.presence.enter(page, member.name, lambda: signed_in(websocket, service) == member)
    if service.presence.seen is None:
        service.presence.seen = revision
    _tell_viewers(service)
    tasks = {asyncio.create_task(work) for work in (_read(websocket, service, page), _write(websocket, page))}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        service.presence.leave(page)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        _tell_viewers(service)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await websocket.close(page.close_code)


async def _read(websocket: WebSocket, service: Service, page: Listener) -> None:
    with contextlib.suppress(WebSocketDisconnect, ValidationError):
        while True:
            frame = Look.model_validate_json(await websocket.receive_text())
            service.presence.look(page, frame.conversation_id or "")
            _tell_viewers(service)


async def _write(websocket: WebSocket, page: Listener) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        async for text in page.frames():
            await websocket.send_text(text)


def _tell_viewers(service: Service) -> None:
    _tell(service, ViewersOut(viewers=service.presence.by_conversation()))


def _tell(service: Service, frame: ChangedOut | ViewersOut) -> None:
    service.presence.dismiss(SIGN_IN_AGAIN)
    text = frame.model_dump_json()
    for page in service.presence.pages:
        page.send_text(text)


def tell_erased(service: Service, conversation_id: str) -> None:
    """Open pages hear of it as of a change: no row is left in which `tell_changes` could find it."""
    _tell(service, ChangedOut(conversations=[conversation_id]))


async def tell_changes(service: Service) -> None:
    """Runs as long as the server."""
    desk, presence = service.parts.store.desk, service.presence
    while True:
        presence.dismiss(SIGN_IN_AGAIN)
        if not presence.pages:
            presence.seen = None
        elif presence.seen is not None:
            # A store that cannot be read now can be later, and then tells all that changed meanwhile.
            with contextlib.suppress(StoreError):
                changed, presence.seen = await asyncio.to_thread(desk.changed_since, presence.seen)
                if changed:
                    _tell(service, ChangedOut(conversations=changed))
        await asyncio.sleep(CHANGES_POLL_S)
