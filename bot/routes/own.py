"""What a person may do with a conversation of their own besides talking: take it along, and have it forgotten."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from bot.conversation import Conversation, SignalKind
from bot.errors import NotAllowed
from bot.feedback.desk import Doing
from bot.routes.access import Caller, CallerDep, PersonDep, ServiceDep
from bot.routes.bodies import ConversationOut, Download, Erased
from bot.routes.parts import Service
from bot.routes.watch import tell_erased
from bot.staff import SERVICE
from bot.wire import MessageOut, newest_value, votes_in_force

router = APIRouter(tags=["conversations"])


async def _owned(service: Service, who: Caller, conversation_id: str) -> Conversation:
    """Raises NotFound, NotAllowed."""
    conversation = await asyncio.to_thread(service.parts.store.conversation, conversation_id)
    if not who.is_operator and conversation.person_id != who.person_id:
        raise NotAllowed("conversation: expected one of yours, got somebody else's")
    return conversation


@router.get("/v1/conversations/{conversation_id}/download")
async def download(service: ServiceDep, person_id: PersonDep, conversation_id: str, response: Response) -> Download:
    """A person's own conversation with their own votes, as a file."""
    conversation = await _owned(service, Caller(person_id), conversation_id)
    response.headers["Content-Disposition"] = f'attachment; filename="conversation-{conversation.id}.json"'
    parts = service.parts
    return await asyncio.to_thread(_download, service, conversation, parts.clock())


def _download(service: Service, conversation: Conversation, now: float) -> Download:
    store, domain, shown_name = service.parts.store, service.parts.domain, service.staff.shown_name
    messages, signals = store.messages(conversation.id), store.signals(conversation.id)
    votes = votes_in_force(signals, messages, conversation.person_id)
    solved = newest_value(signals, SignalKind.OUTCOME, conversation.person_id)
    csat = newest_value(signals, SignalKind.CSAT, conversation.person_id)
    return Download(
        conversation=ConversationOut.of(conversation),
        messages=[MessageOut.of(message, domain, shown_name) for message in messages],
        votes={message_id: vote for message_id, vote in votes.items() if vote.thumb},
        solved=None if solved is None else solved > 0,
        csat=None if csat is None else int(csat),
        downloaded_at=now,
    )


@router.delete("/v1/conversations/{conversation_id}")
async def erase(service: ServiceDep, who: CallerDep, conversation_id: str) -> Erased:
    """Forget a conversation: its person's right, and an operator's on their behalf. There is no way back."""
    await _owned(service, who, conversation_id)
    if who.member is not None and who.member.role not in SERVICE:
        raise NotAllowed(f"expected the role {' or '.join(sorted(SERVICE))}, got {who.member.role}")
    author = "operator" if who.is_operator else "person"
    room = service.hub.rooms.get(conversation_id)
    if room is not None:
        room.stop()
    async with service.hub.turn(conversation_id):
        erased = await asyncio.to_thread(
            lambda: service.parts.store.erase_conversation(conversation_id, author=author, at=service.parts.clock())
        )
    tell_erased(service, conversation_id)
    # Cases of the conversation went with it: they must speak no more.
    await service.parts.teacher.load_cases()
    if who.member is not None:
        doing = Doing(who.member.author, service.parts.clock())
        await asyncio.to_thread(service.parts.store.desk.note, doing, "erase", conversation_id)
    return Erased(
        conversation_id=conversation_id,
        messages=erased.num_messages,
        decisions=erased.num_decisions,
        versions=list(erased.versions),
    )
