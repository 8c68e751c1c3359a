"""`/ws/chat`: one browser tab. Frames in, checked; frames out, from the tab's own queue.

1. before accepting: the page's Origin, the number of sockets, whether the server is draining;
2. `hello` says who and which conversation; the tab joins the room and gets its snapshot;
3. every further frame is handled in order; an error is one frame to this tab and disturbs nobody else;
4. three things end it: the browser leaves, the room says goodbye, or the tab reads too slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from bot.conversation import Conversation, Message, Signal, SignalKind
from bot.errors import NotAllowed, RejoinderError, TooMuch
from bot.listener import TOO_SLOW, Listener
from bot.room import Room, Snapshot
from bot.routes.access import address_of, may_chat, service_of
from bot.routes.conversations import check_reply_mode, start_conversation
from bot.routes.failures import refuse
from bot.routes.feedback import keep_and_tell, record_vote
from bot.routes.parts import Service
from bot.settings import LimitSettings
from bot.wire import AckOut, ErrorOut, HelloOut, MessageOut, OutcomeOut, PongOut, can_retry, votes_in_force
from bot.wire_client import (
    ChangeSettings,
    ClientFrame,
    Csat,
    Feedback,
    Handover,
    Hello,
    Outcome,
    Ping,
    Retry,
    Stop,
    UserMessage,
    parse_client_frame,
)
from bot.wire_errors import BadFrame, OutOfTurn, TooLarge, Unauthenticated, Unavailable

logger = logging.getLogger(__name__)
router = APIRouter()

HELLO_S = 30.0
"""How long a socket may stay without saying hello."""
PAUSE_S = 0.25
"""How long a tab is not read after it was told `too_much` or `busy`: a flood waits in its own socket."""
CLOSE_S = 2.0
"""How long saying goodbye may take."""
REFUSED = 1008
"""Close code "policy violation"."""


@router.websocket("/ws/chat")
async def chat(websocket: WebSocket) -> None:
    """Serve one tab from handshake to goodbye."""
    service, address = service_of(websocket), address_of(websocket)
    try:
        _check_handshake(websocket, service)
        service.sockets.take(address)
    except RejoinderError as error:
        service.metrics.errors.labels(ErrorOut.of(error).code).inc()
        await refuse(websocket, error)
        return
    service.num_sockets += 1
    service.metrics.sockets.inc()
    try:
        await websocket.accept()
        await _Tab(service, websocket, address).serve()
    finally:
        service.sockets.leave(address)
        service.num_sockets -= 1
        service.metrics.sockets.dec()


def _check_handshake(websocket: WebSocket, service: Service) -> None:
    if not may_chat(websocket, service):
        raise NotAllowed("origin: expected this server's own page or one of allowed_origins, got another")
    if service.hub.draining:
        raise Unavailable("the server is restarting: come back in a few seconds")
    if service.num_sockets >= service.parts.settings.limits.max_sockets:
        raise Unavailable(f"expected at most {service.parts.settings.limits.max_sockets} open chats, got another")


class _Tab:
    """One accepted socket."""

    def __init__(self, service: Service, websocket: WebSocket, address: str) -> None:
        self._service = service
        self._address = address
        self._websocket = websocket
        self._listener = Listener()
        self._room: Room | None = None
        self._person_id = ""

    async def serve(self) -> None:
        """Run until the tab is gone."""
        listener = self._listener
        tasks = {asyncio.create_task(coroutine) for coroutine in (self._read(), self._write(), listener.cut.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._room is not None:
                self._service.hub.leave(self._room, listener)
            await _end(tasks)
        if listener.close_code == TOO_SLOW:
            self._service.metrics.slow_readers.inc()
        with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(CLOSE_S):
                await self._websocket.close(listener.close_code)

    async def _write(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            async for text in self._listener.frames():
                await self._websocket.send_text(text)

    # --- frames in ----------------------------------------------------------------------------------------------------
    async def _read(self) -> None:
        try:
            async with asyncio.timeout(HELLO_S) as deadline:
                while (event := await self._websocket.receive())["type"] != "websocket.disconnect":
                    await self._take(event)
                    if self._room is not None:
                        deadline.reschedule(None)
                return
        except TimeoutError:
            self._refuse(OutOfTurn(f"expected hello within {HELLO_S:g} s, got none"), None)
        # Goodbye is said by the writer, after what is queued.
        await asyncio.Event().wait()

    async def _take(self, event: Mapping[str, Any]) -> None:
        """Handle one incoming frame, whatever it is."""
        frame: ClientFrame | None = None
        try:
            frame = parse_client_frame(_text_of(event, self._service.parts.settings.limits))
            await self._handle(frame)
        except TooMuch as error:
            self._refuse(error, frame)
            await asyncio.sleep(PAUSE_S)
        except RejoinderError as error:
            self._refuse(error, frame)
        except Exception:
            # The boundary of one frame: what it breaks must not reach the socket or anybody else.
            logger.exception("frame failed")
            self._refuse(RejoinderError("the server failed on this frame; it was logged"), frame)

    def _refuse(self, error: RejoinderError, frame: ClientFrame | None) -> None:
        reply = ErrorOut.of(error, getattr(frame, "client_id", ""), getattr(frame, "key", ""))
        self._service.metrics.errors.labels(reply.code).inc()
        self._listener.send(reply)
        if reply.code == "protocol" or (isinstance(frame, Hello) and reply.code == "not_allowed"):
            self._listener.finish(REFUSED)

    async def _handle(self, frame: ClientFrame) -> None:
        if isinstance(frame, Ping):
            self._listener.send(PongOut())
        elif isinstance(frame, Hello):
            await self._hello(frame)
        elif self._room is None:
            raise OutOfTurn(f"expected hello first, got {frame.type}")
        else:
            await self._in_room(frame, self._room)

    async def _in_room(self, frame: ClientFrame, room: Room) -> None:
        if isinstance(frame, UserMessage):
            await self._message(frame, room)
        elif isinstance(frame, Feedback):
            stored = await record_vote(self._service, self._person_id, frame)
            self._listener.send(AckOut(kind="feedback", key=frame.key, message_id=frame.message_id, seq=stored.seq))
        elif isinstance(frame, Stop):
            room.stop()
        elif isinstance(frame, ChangeSettings):
            await self._change(frame, room)
        elif isinstance(frame, Retry):
            await self._retry(frame, room)
        elif isinstance(frame, Outcome | Csat | Handover):
            await self._signal(frame, room)

    # --- hello --------------------------------------------------------------------------------------------------------
    async def _hello(self, frame: Hello) -> None:
        if self._room is not None:
            raise OutOfTurn("expected hello once, got it again")
        self._person_id = self._person(frame)
        conversation = await self._conversation(frame)
        room = self._service.hub.enter(conversation, self._address)
        try:
            await room.join(self._listener, lambda snapshot: self._welcome(snapshot, frame.last_seq))
        except BaseException:
            self._service.hub.leave(room, self._listener)
            raise
        self._room = room

    def _person(self, frame: Hello) -> str:
        parts = self._service.parts
        if frame.token:
            return parts.identity.person_of(frame.token)
        if frame.conversation_id:
            raise Unauthenticated("token: expected the conversation's, got none")
        return parts.ids.person()

    async def _conversation(self, frame: Hello) -> Conversation:
        if frame.conversation_id is None:
            return await start_conversation(self._service, self._person_id, frame.reply, self._address)
        store = self._service.parts.store
        conversation = await asyncio.to_thread(store.conversation, frame.conversation_id)
        if conversation.person_id != self._person_id:
            raise NotAllowed("conversation_id: expected one of yours, got somebody else's")
        if frame.reply is None or frame.reply == conversation.reply_mode:
            return conversation
        check_reply_mode(self._service, frame.reply)
        return await asyncio.to_thread(store.update_conversation, conversation.id, reply_mode=frame.reply)

    def _welcome(self, snapshot: Snapshot, last_seq: int) -> HelloOut:
        parts, conversation = self._service.parts, snapshot.conversation
        shown_name = self._service.staff.shown_name
        votes = votes_in_force(snapshot.signals, snapshot.messages, self._person_id)
        said = OutcomeOut.of(snapshot.signals, self._person_id)
        return HelloOut(
            conversation_id=conversation.id,
            token=parts.identity.person_token(self._person_id),
            ai_notice=parts.domain.ai_notice,
            human_offer=parts.domain.human_offer,
            assistant=parts.domain.assistant,
            version=parts.policy.champion,
            reply=conversation.reply_mode,
            learn=conversation.learn_ok,
            can_write=parts.policy.can_write,
            status=conversation.status,
            position=snapshot.standing.position or None,
            operator=shown_name(snapshot.standing.operator) or None,
            solved=said.solved,
            csat=said.csat,
            messages=[
                MessageOut.of(message, parts.domain, shown_name)
                for message in snapshot.messages
                if message.seq > last_seq
            ],
            votes={message_id: vote for message_id, vote in votes.items() if vote.thumb},
            partial=snapshot.partial,
        )

    # --- what a person does -------------------------------------------------------------------------------------------
    async def _message(self, frame: UserMessage, room: Room) -> None:
        text = _checked_text(frame.text, self._service.parts.settings.limits)
        hasty = self._count_message()
        parts = self._service.parts
        message = Message(parts.ids.message(), room.conversation.id, 0, "user", text, parts.clock(), frame.client_id)
        stored = await room.accept(message, hasty=hasty)
        self._listener.send(AckOut(kind="message", client_id=frame.client_id, message_id=stored.id, seq=stored.seq))

    async def _change(self, frame: ChangeSettings, room: Room) -> None:
        check_reply_mode(self._service, frame.reply)
        self._service.feedback.take(self._person_id)
        await room.change(frame.reply, frame.learn)
        if frame.learn is not None:
            # Corrections of a conversation that is not to be learned from must speak no more.
            await self._service.parts.teacher.load_cases()
        self._listener.send(AckOut(kind="settings", key=frame.key))

    def _count_message(self) -> bool:
        """Whether this person, or their network, is hasty (`bot.limits`). Raises TooMuch."""
        is_person_hasty = self._service.messages.take(self._person_id)
        return self._service.address_messages.take(self._address) or is_person_hasty

    async def _retry(self, frame: Retry, room: Room) -> None:
        hasty = self._count_message()
        store = self._service.parts.store
        reply = await asyncio.to_thread(store.message, frame.message_id)
        tracker = await asyncio.to_thread(store.tracker, room.conversation.id) or {}
        if tracker.get("active_form"):
            # The form would take its person's last words a second time, for its next question.
            raise BadFrame("message_id: expected no form in progress, got one")
        if reply.conversation_id != room.conversation.id or not can_retry(reply):
            raise BadFrame("message_id: expected an answer in this conversation, got another message")
        signal = replace(self._about(room, frame.key), kind=SignalKind.RETRY, decision_id=reply.decision_id)
        self._acknowledge(frame, await room.retry(signal, reply, hasty=hasty))

    async def _signal(self, frame: Outcome | Csat | Handover, room: Room) -> None:
        self._service.feedback.take(self._person_id)
        signal = self._about(room, frame.key)
        if isinstance(frame, Handover):
            stored = await room.handover(signal)
        elif isinstance(frame, Csat):
            signal = replace(signal, kind=SignalKind.CSAT, value=float(frame.value), comment=frame.comment)
            stored = await self._of_the_whole(signal)
        else:
            signal = replace(signal, kind=SignalKind.OUTCOME, value=float(frame.solved))
            stored = await self._of_the_whole(signal)
        self._acknowledge(frame, stored)

    async def _of_the_whole(self, signal: Signal) -> Signal:
        return await keep_and_tell(self._service, signal, lambda signals: OutcomeOut.of(signals, self._person_id))

    def _about(self, room: Room, key: str) -> Signal:
        """A wish for a person; other signals replace what differs."""
        return Signal(
            key=key,
            conversation_id=room.conversation.id,
            kind=SignalKind.HANDOVER,
            value=1.0,
            author=self._person_id,
            created_at=self._service.parts.clock(),
        )

    def _acknowledge(self, frame: Outcome | Csat | Handover | Retry, stored: Signal) -> None:
        self._service.metrics.signals.labels(stored.kind.value).inc()
        self._listener.send(AckOut(kind=frame.type, key=frame.key, seq=stored.seq))


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    # Not gather: cancelled from outside, it raises a CancelledError that anyio does not know for its own.
    done, _ = await asyncio.wait(tasks)
    for task in done:
        if not task.cancelled() and task.exception() is not None:
            logger.error("socket failed", exc_info=task.exception())


def _text_of(event: Mapping[str, Any], limits: LimitSettings) -> str:
    text = event.get("text")
    if text is None:
        raise BadFrame("frame: expected JSON text, got a binary frame")
    size = len(text.encode(errors="replace"))
    if size > limits.max_frame_bytes:
        raise TooLarge(f"frame: expected at most {limits.max_frame_bytes} bytes, got {size}")
    return str(text)


def _checked_text(text: str, limits: LimitSettings) -> str:
    stripped = text.strip()
    if not stripped:
        raise BadFrame("text: expected at least one character, got none")
    if "\0" in stripped:
        raise BadFrame("text: expected no NUL characters, got one")
    if len(stripped) > limits.max_text_chars:
        raise TooLarge(f"text: expected at most {limits.max_text_chars} characters, got {len(stripped)}")
    return stripped
