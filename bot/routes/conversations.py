"""`/v1/conversations*` and articles: starting a conversation, one transcript. (The list of all is the inbox.)"""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request

from bot.conversation import Conversation, Message, is_operator
from bot.errors import NotAllowed, NotFound
from bot.feedback.store import Store
from bot.routes.access import CallerDep, ServiceDep, address_of
from bot.routes.bodies import (
    ArticleOut,
    ConversationOut,
    NewConversation,
    StartedConversation,
    Transcript,
)
from bot.routes.parts import Service
from bot.wire import MessageOut
from bot.wire_errors import Unavailable

router = APIRouter(tags=["conversations"])

_NO_WISHES = NewConversation()


async def start_conversation(service: Service, person_id: str, reply: str | None, address: str) -> Conversation:
    """A stored conversation whose first message is the greeting. Raises Unavailable, TooMuch, StoreError."""
    if service.hub.draining:
        raise Unavailable("the server is restarting: try again in a few seconds")
    check_reply_mode(service, reply)
    service.conversations.take(address)
    parts, now = service.parts, service.parts.clock()
    conversation = Conversation(parts.ids.conversation(), person_id, now, parts.domain.name, reply or "approved")
    greeting = Message(parts.ids.message(), conversation.id, 0, "bot", parts.replier.greeting(), now)
    await asyncio.to_thread(_store_start, parts.store, conversation, greeting)
    return conversation


def _store_start(store: Store, conversation: Conversation, greeting: Message) -> None:
    store.add_conversation(conversation)
    store.add_reply(greeting, None)


def check_reply_mode(service: Service, reply: str | None) -> None:
    """Raises Unavailable when generated replies are asked for and nothing that writes is configured. A server that is gone may
    be back with the next reply, and `can_write` says that it is not there; until then replies are approved ones."""
    parts = service.parts
    may_write = parts.policy.can_write or parts.settings.engine.backend == "vllm"
    if reply == "generated" and not may_write:
        raise Unavailable("reply: expected approved, since no model that writes is loaded; got generated")


@router.post("/v1/conversations", status_code=201)
async def start(service: ServiceDep, request: Request, body: NewConversation = _NO_WISHES) -> StartedConversation:
    """Start a conversation as a person nobody knows yet. Talk in it over `/ws/chat`."""
    person_id = service.parts.ids.person()
    conversation = await start_conversation(service, person_id, body.reply, address_of(request))
    token = service.parts.identity.person_token(person_id)
    return StartedConversation(conversation_id=conversation.id, token=token)


@router.get("/v1/conversations/{conversation_id}", response_model_exclude_none=True)
async def read_conversation(service: ServiceDep, who: CallerDep, conversation_id: str) -> Transcript:
    """A whole conversation, for its person and for operators."""
    conversation = await asyncio.to_thread(service.parts.store.conversation, conversation_id)
    if not who.is_operator and conversation.person_id != who.person_id:
        raise NotAllowed("conversation: expected one of yours, got somebody else's")
    return await asyncio.to_thread(_transcript, service, conversation, who.is_operator)


def _transcript(service: Service, conversation: Conversation, for_operator: bool) -> Transcript:
    store, now = service.parts.store, service.parts.clock()
    stored, shown_name = store.messages(conversation.id), str if for_operator else service.staff.shown_name
    messages = [MessageOut.of(message, service.parts.domain, shown_name) for message in stored]
    shown = ConversationOut.of(conversation)
    if not for_operator:
        return Transcript(conversation=shown, messages=messages)
    desk = store.desk
    return Transcript(
        conversation=shown,
        messages=messages,
        desk=asdict(desk.line(conversation.id, now)) if not is_operator(conversation.person_id) else None,
        decision_of={line.id: line.decision_id for line in stored if line.decision_id},
        notes=[asdict(note) for note in desk.notes(conversation.id)],
        cases=[asdict(case) for case in desk.followed(desk.cases(conversation.id))],
        case_uses=[asdict(use) for use in desk.case_uses(conversation.id)],
        action_events=store.action_events(conversation.id),
        signals=[asdict(signal) for signal in store.signals(conversation.id)],
        decisions=[asdict(decision) for decision in store.conversation_decisions(conversation.id)],
        rewards=[asdict(reward) for reward in store.rewards_of(conversation.id)],
    )


@router.get("/v1/articles/{article_id}", tags=["articles"])
async def read_article(service: ServiceDep, article_id: str) -> ArticleOut:
    """A help article: what a source chip opens."""
    article = service.parts.domain.articles.get(article_id)
    if article is None:
        raise NotFound(f"article: expected a known id, got {article_id[:64]!r}")
    return ArticleOut(id=article.id, title=article.title, answer=article.answer)
