"""Votes and outcomes. A vote is acknowledged only when it is on disk, and only its own person may give it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from fastapi import APIRouter

from bot.conversation import Message, Signal, SignalKind
from bot.errors import NotAllowed
from bot.feedback.desk import Doing
from bot.feedback.store import Store
from bot.routes.access import OperatorDep, PersonDep, ServiceDep
from bot.routes.bodies import CsatReport, OutcomeReport, StoredSignal
from bot.routes.parts import Service
from bot.wire import FeedbackOut, OutcomeOut, ServerFrame, VoteOut, can_vote, votes_in_force
from bot.wire_client import Vote
from bot.wire_errors import BadFrame

router = APIRouter(tags=["feedback"])

_THUMB_NAMES = {1: "up", -1: "down", 0: "withdrawn"}


async def record_vote(service: Service, person_id: str, vote: Vote) -> Signal:
    """Store a vote and tell every tab. Returns it as stored.

    Raises TooMuch, NotFound, NotAllowed, BadFrame, ConflictError, StoreError.
    """
    service.feedback.take(person_id)
    store = service.parts.store
    message = await asyncio.to_thread(_voted_message, store, person_id, vote.message_id)
    signal = Signal(
        key=vote.key,
        conversation_id=message.conversation_id,
        kind=SignalKind.THUMB,
        value=float(vote.thumb),
        author=person_id,
        created_at=service.parts.clock(),
        decision_id=message.decision_id,
        label="|".join(vote.reasons),
        comment=vote.comment,
    )

    def in_force(signals: Sequence[Signal]) -> FeedbackOut:
        return feedback_frame(message.id, votes_in_force(signals, [message], person_id)[message.id])

    stored = await keep_and_tell(service, signal, in_force)
    service.metrics.votes.labels(_THUMB_NAMES[vote.thumb]).inc()
    return stored


async def keep_and_tell(service: Service, signal: Signal, frame: Callable[[Sequence[Signal]], ServerFrame]) -> Signal:
    """Store what a person said of their chat, and tell its tabs the frame of what holds now: a key that is sent again may be
    older than the newest signal. Returns it as stored. Raises ConflictError, StoreError.
    """
    store = service.parts.store
    async with service.hub.turn(signal.conversation_id):
        stored = await asyncio.to_thread(store.add_signal, signal)
        signals = await asyncio.to_thread(store.signals, signal.conversation_id)
        service.hub.tell(signal.conversation_id, frame(signals))
    return stored


def feedback_frame(message_id: str, vote: VoteOut) -> FeedbackOut:
    """A vote as tabs are told it."""
    return FeedbackOut(message_id=message_id, thumb=vote.thumb, reasons=vote.reasons, comment=vote.comment)


def _voted_message(store: Store, person_id: str, message_id: str) -> Message:
    message = store.message(message_id)
    if store.conversation(message.conversation_id).person_id != person_id:
        raise NotAllowed("message_id: expected a reply to you, got somebody else's")
    if not can_vote(message):
        raise BadFrame(
            f"message_id: expected a reply that the bot chose, got a {message.role} message without a choice"
        )
    return message


@router.post("/v1/feedback")
async def vote(service: ServiceDep, person_id: PersonDep, body: Vote) -> StoredSignal:
    """Vote on a reply; thumb 0 withdraws. The same key twice is one vote, with another body a conflict."""
    return StoredSignal(seq=(await record_vote(service, person_id, body)).seq)


@router.post("/v1/csat")
async def rate_chat(service: ServiceDep, person_id: PersonDep, body: CsatReport) -> StoredSignal:
    """Rate a whole chat of one's own; the newest counts. The same key twice is one rating, with another body a conflict."""
    service.feedback.take(person_id)
    store = service.parts.store
    conversation = await asyncio.to_thread(store.conversation, body.conversation_id)
    if conversation.person_id != person_id:
        raise NotAllowed("conversation_id: expected one of yours, got somebody else's")
    signal = Signal(
        key=body.key,
        conversation_id=conversation.id,
        kind=SignalKind.CSAT,
        value=float(body.value),
        author=person_id,
        created_at=service.parts.clock(),
        comment=body.comment,
    )
    stored = await keep_and_tell(service, signal, lambda signals: OutcomeOut.of(signals, person_id))
    service.metrics.signals.labels(signal.kind.value).inc()
    return StoredSignal(seq=stored.seq)


@router.post("/v1/outcomes")
async def report_outcome(service: ServiceDep, operator: OperatorDep, body: OutcomeReport) -> StoredSignal:
    """Whether a conversation solved the problem, from a person or program of the back office."""
    store = service.parts.store
    await asyncio.to_thread(store.conversation, body.conversation_id)
    signal = Signal(
        key=body.key,
        conversation_id=body.conversation_id,
        kind=SignalKind.OUTCOME,
        value=float(body.solved),
        author=operator,
        created_at=service.parts.clock(),
        source="backoffice",
        comment=body.comment,
    )
    stored = await asyncio.to_thread(store.add_signal, signal)
    doing, said = Doing(operator, signal.created_at), {"solved": body.solved}
    await asyncio.to_thread(store.desk.note, doing, "report outcome", body.conversation_id, {}, said)
    service.metrics.signals.labels(signal.kind.value).inc()
    return StoredSignal(seq=stored.seq)
