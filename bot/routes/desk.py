"""What an operator does with one conversation: claim, put off, mark, take over, speak, hand back, close.

Every action is in the audit log, by the store, in the same transaction. Who may speak is decided there too.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from bot.announcements import announcement
from bot.conversation import Message, digest
from bot.errors import ConflictError, NotAllowed, NotFound
from bot.feedback.desk import Doing
from bot.feedback.desk_records import InboxRow
from bot.routes.access import DeskDep, ServiceDep
from bot.routes.inbox import seen_by_others
from bot.routes.parts import Service
from bot.wire import MessageOut
from bot.wire_client import Id, Key

router = APIRouter(tags=["desk"])

Text = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"^[^\x00]*\S[^\x00]*$")]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Marks(_Asked):
    """What to change; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"claimed": True}, {"add_tag": "refund"}]})

    claimed: bool | None = None
    """true: yours, false: nobody's."""
    force: bool = False
    """Claim it although it is somebody else's."""
    flagged: bool | None = None
    snoozed_until: Annotated[float, Field(ge=0, le=1e11)] | None = None
    """Epoch s; 0: back at once."""
    add_tag: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    remove_tag: Annotated[str, Field(min_length=1, max_length=40)] | None = None


class TakeOver(_Asked):
    """`force`: although somebody else has it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"force": False}]})

    force: bool = False


class NewNote(_Asked):
    """A private note."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Called the courier: it is on its way."}]})

    text: Text


class Draft(_Asked):
    """What the bot had suggested, before the operator's hand."""

    act: Annotated[str, Field(max_length=200)]
    text: Annotated[str, Field(max_length=8000)]


class Say(_Asked):
    """An operator's message. `teach`: let the bot answer so when the same is asked again (never for an unedited draft)."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"key": "k1", "text": "It left our depot this morning.", "teach": False}]}
    )

    key: Key
    text: Text
    draft: Draft | None = None
    teach: bool = False


class Said(BaseModel):
    """The message as stored, and the case that was made of it, if one was."""

    message: MessageOut
    case_id: str | None


class SuggestionOut(BaseModel):
    """A draft by the bot."""

    act: str
    text: str
    probability: float


class NoteOut(BaseModel):
    """A private note."""

    seq: int
    at: float
    author: str
    text: str


@router.patch("/v1/conversations/{conversation_id}")
async def mark(service: ServiceDep, doing: DeskDep, conversation_id: Id, body: Marks) -> InboxRow:
    """Claim or release, flag, snooze, tag."""
    return await asyncio.to_thread(_mark, service, doing, conversation_id, body)


def _mark(service: Service, doing: Doing, conversation_id: str, body: Marks) -> InboxRow:
    desk = service.parts.store.desk
    if body.claimed:
        desk.claim(doing, conversation_id, force=body.force)
    elif body.claimed is False:
        desk.release(doing, conversation_id)
    if body.flagged is not None:
        desk.flag(doing, conversation_id, flagged=body.flagged)
    if body.snoozed_until is not None:
        desk.snooze(doing, conversation_id, body.snoozed_until)
    for value, present in ((body.add_tag, True), (body.remove_tag, False)):
        if value is not None:
            desk.tag(doing, conversation_id, value.strip(), present=present)
    return _line(service, doing, conversation_id)


@router.post("/v1/conversations/{conversation_id}/notes", status_code=201)
async def add_note(service: ServiceDep, doing: DeskDep, conversation_id: Id, body: NewNote) -> NoteOut:
    """Write a note that only the staff sees."""
    note = await asyncio.to_thread(service.parts.store.desk.add_note, doing, conversation_id, body.text)
    return NoteOut(seq=note.seq, at=note.at, author=note.author, text=note.text)


# --- who speaks -------------------------------------------------------------------------------------------------------
@router.post("/v1/conversations/{conversation_id}/takeover")
async def take_over(service: ServiceDep, doing: DeskDep, conversation_id: Id, body: TakeOver) -> InboxRow:
    """From now on the operator speaks and the bot is silent; the customer is told."""
    desk = service.parts.store.desk

    def change() -> None:
        if desk.take_over(doing, conversation_id, force=body.force):
            _announce(service, doing, conversation_id, "joined")

    await service.hub.change_speaker(conversation_id, change)
    return await asyncio.to_thread(_line, service, doing, conversation_id)


@router.post("/v1/conversations/{conversation_id}/handback")
async def hand_back(service: ServiceDep, doing: DeskDep, conversation_id: Id) -> InboxRow:
    """The bot answers again, knowing what was said meanwhile; the customer is told."""
    return await _end(service, doing, conversation_id, "bot", "left")


@router.post("/v1/conversations/{conversation_id}/resolve")
async def resolve(service: ServiceDep, doing: DeskDep, conversation_id: Id) -> InboxRow:
    """Close it; it opens again when its person writes."""
    return await _end(service, doing, conversation_id, "resolved", "closed")


async def _end(service: Service, doing: Doing, conversation_id: str, status: str, event: str) -> InboxRow:
    desk, store = service.parts.store.desk, service.parts.store

    def change() -> None:
        spoke = store.conversation(conversation_id).status == "person"
        if desk.end_turn(doing, conversation_id, status) and spoke:
            _announce(service, doing, conversation_id, event)

    await service.hub.change_speaker(conversation_id, change)
    return await asyncio.to_thread(_line, service, doing, conversation_id)


def _line(service: Service, doing: Doing, conversation_id: str) -> InboxRow:
    row = service.parts.store.desk.line(conversation_id, doing.at)
    return seen_by_others(service, row, doing.name)


def _announce(service: Service, doing: Doing, conversation_id: str, event: str) -> None:
    """An event of its own in the transcript: whoever reads it later, the bot too, sees where the human stretch ended."""
    text = announcement(event, service.staff.shown_name(doing.name))
    message = Message(service.parts.ids.message(), conversation_id, 0, "system", text, doing.at)
    service.parts.store.add_reply(message, None)


@router.post("/v1/conversations/{conversation_id}/say")
async def say(service: ServiceDep, doing: DeskDep, conversation_id: Id, body: Say) -> Said:
    """Speak to the customer; only for whoever has taken over. The same key is the same message, with other words 409. What may not be taught
    from is refused before it is sent."""
    parts, text = service.parts, body.text.strip()
    teaches = body.teach and not _is_unedited(body)
    if teaches and not (await asyncio.to_thread(parts.store.conversation, conversation_id)).learn_ok:
        raise NotAllowed("its person does not want this conversation to be learned from: send it without teaching")
    message = Message(
        id=f"m_{digest(doing.actor, conversation_id, body.key)}",
        conversation_id=conversation_id,
        seq=0,
        role="operator",
        text=text,
        created_at=doing.at,
        author=doing.actor,
    )
    stored = await asyncio.to_thread(_store_said, service, doing, message)
    room = service.hub.rooms.get(conversation_id)
    if room is not None:
        await room.publish()
    case_id = await _taught(service, doing, stored, body) if teaches else None
    return Said(message=MessageOut.of(stored, parts.domain, str), case_id=case_id)


def _store_said(service: Service, doing: Doing, message: Message) -> Message:
    """Once, with a row in the audit log."""
    store = service.parts.store
    with suppress(NotFound):
        said = store.message(message.id)
        if said.text != message.text:
            raise ConflictError("key: expected the same words as before, got others")
        return said
    stored = store.add_reply(message, None)
    store.desk.note(doing, "say", message.conversation_id, {}, {"message": message.id})
    return stored


def _is_unedited(body: Say) -> bool:
    """A draft that nobody edited would teach the bot only itself."""
    return body.draft is not None and body.draft.text.split() == body.text.split()


async def _taught(service: Service, doing: Doing, said: Message, body: Say) -> str | None:
    """The case made of a reply; None where nobody has asked anything yet."""
    draft, draft_act = (body.draft.text, body.draft.act) if body.draft else ("", "")
    store = service.parts.store
    messages = await asyncio.to_thread(store.messages, said.conversation_id)
    asked = [line.text for line in messages if line.role == "user" and line.seq < said.seq]
    if not asked:
        return None
    return (await service.parts.teacher.teach_words(doing, said, asked[-1], draft, draft_act)).id


@router.post("/v1/conversations/{conversation_id}/suggest")
async def suggest(service: ServiceDep, _: DeskDep, conversation_id: Id) -> SuggestionOut:
    """What the bot would say now; nothing is stored or sent."""
    found = await service.parts.teacher.suggest(conversation_id)
    return SuggestionOut(act=found.act, text=found.text, probability=found.probability)
