"""Judging the bot's replies: corrections and the cases they become, ratings, article drafts, why, and pairs."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from bot.conversation import Signal, SignalKind
from bot.explaining import Why, explain
from bot.feedback.desk_records import Case, Draft
from bot.routes.access import DeskDep, OperatorDep, ServiceDep
from bot.routes.bodies import StoredSignal
from bot.wire_client import Comment, Id, Key
from bot.wire_errors import BadFrame

router = APIRouter(tags=["review"])

VersionName = Annotated[str, Field(pattern=r"^v\d{6}$", examples=["v000007"])]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Correction(_Asked):
    """What would have been right: an act of the domain's, or words."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"message_id": "m_1", "act": "answer:card_arrival"},
                {"message_id": "m_1", "text": "Within five days."},
            ]
        }
    )

    message_id: Id
    act: Annotated[str, Field(max_length=200)] = ""
    text: Annotated[str, Field(max_length=4000)] = ""


class Rating(_Asked):
    """An operator's judgement of a reply, -1 (bad) to 1 (good)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"key": "r1", "message_id": "m_1", "value": 1.0}]})

    key: Key
    message_id: Id
    value: Annotated[float, Field(ge=-1, le=1)]
    comment: Comment = ""


class NewDraft(_Asked):
    """The right article is missing."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"message_id": "m_1", "title": "Parcel lockers", "answer": "You can ..."}]}
    )

    message_id: Id
    title: Annotated[str, Field(min_length=1, max_length=120)]
    answer: Annotated[str, Field(max_length=8000)] = ""


class DraftChange(_Asked):
    """What to change; what is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"state": "dropped"}]})

    title: Annotated[str, Field(min_length=1, max_length=120)] | None = None
    question: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    answer: Annotated[str, Field(max_length=8000)] | None = None
    state: Literal["draft", "published", "dropped"] | None = None


class DraftOut(BaseModel):
    """An article that somebody missed."""

    id: str
    at: float
    author: str
    title: str
    question: str
    answer: str
    conversation_id: str
    decision_id: str
    state: str


class PairOut(BaseModel):
    """Two answers to a question, without a word on whose they are."""

    id: str
    question: str
    left: str
    right: str


class PairAnswer(BaseModel):
    """The next pair to judge; null: these versions answer the newest questions alike."""

    pair: PairOut | None


class NewPair(_Asked):
    """Which two versions; their order says nothing about what is shown where."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"versions": ["v000006", "v000007"]}]})

    versions: Annotated[list[VersionName], Field(min_length=2, max_length=2)]


class Verdict(_Asked):
    """Which answer is better."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"verdict": "left"}]})

    verdict: Literal["left", "right", "both", "neither"]


class Judged(BaseModel):
    """Whose the answers were."""

    left_version: str
    right_version: str


class Tally(BaseModel):
    """How often which of two versions was better, `a` the older one."""

    a: str
    b: str
    a_wins: int
    b_wins: int
    both: int
    neither: int


# --- corrections ------------------------------------------------------------------------------------------------------
@router.get("/v1/acts")
async def read_acts(service: ServiceDep, _: OperatorDep) -> dict[str, str]:
    """What an operator may call right: act -> what people read."""
    return service.parts.teacher.acts()


@router.post("/v1/corrections", status_code=201)
async def correct(service: ServiceDep, doing: DeskDep, body: Correction) -> Case:
    """Correct a reply: from the next question on, the same one is answered so. The bot's own words are no correction."""
    case = await service.parts.teacher.correct(doing, body.message_id, body.act, body.text)
    service.metrics.signals.labels(SignalKind.CORRECTION.value).inc()
    return case


@router.get("/v1/cases")
async def read_cases(
    service: ServiceDep, _: OperatorDep, conversation_id: str = "", in_force: bool = False
) -> list[Case]:
    """Cases, newest first, with where they come from, how often they spoke, and which version learned act or words first."""
    desk = service.parts.store.desk
    return await asyncio.to_thread(lambda: desk.followed(desk.cases(conversation_id, in_force=in_force, limit=1000)))


@router.delete("/v1/cases/{case_id}")
async def remove_case(service: ServiceDep, doing: DeskDep, case_id: Id) -> Case:
    """Let it speak no more."""
    return await service.parts.teacher.forget(doing, case_id)


@router.post("/v1/ratings")
async def rate(service: ServiceDep, doing: DeskDep, body: Rating) -> StoredSignal:
    """Rate a reply, apart from what its person said. The same key twice is one rating, with another body a conflict."""
    store = service.parts.store
    message = await asyncio.to_thread(store.message, body.message_id)
    if not message.decision_id:
        raise BadFrame("message_id: expected a reply that the bot chose, got another message")
    signal = Signal(
        key=body.key,
        conversation_id=message.conversation_id,
        kind=SignalKind.RATING,
        value=body.value,
        author=doing.actor,
        created_at=doing.at,
        decision_id=message.decision_id,
        source="operator",
        comment=body.comment,
    )
    stored = await asyncio.to_thread(store.add_signal, signal)
    await asyncio.to_thread(store.desk.note, doing, "rate", message.decision_id, {}, {"value": body.value})
    return StoredSignal(seq=stored.seq)


@router.get("/v1/decisions/{decision_id}/why")
async def why(service: ServiceDep, _: OperatorDep, decision_id: Id) -> Why:
    """What moved this choice away from what a fresh install would have done."""
    return await explain(service.parts.store, service.parts.policy, decision_id)


# --- articles that are missing ----------------------------------------------------------------------------------------
@router.post("/v1/drafts", status_code=201)
async def add_draft(service: ServiceDep, doing: DeskDep, body: NewDraft) -> DraftOut:
    """Note that an article is missing, with the question that missed it."""
    store = service.parts.store
    message = await asyncio.to_thread(store.message, body.message_id)
    messages = await asyncio.to_thread(store.messages, message.conversation_id)
    asked = [line.text for line in messages if line.role == "user" and line.seq <= message.seq]
    draft = Draft(
        id=f"draft_{secrets.token_hex(6)}",
        at=doing.at,
        author=doing.actor,
        title=body.title,
        question=asked[-1] if asked else "",
        answer=body.answer,
        conversation_id=message.conversation_id,
        decision_id=message.decision_id,
    )
    await asyncio.to_thread(store.desk.add_draft, doing, draft)
    return DraftOut(**asdict(draft))


@router.get("/v1/drafts")
async def read_drafts(
    service: ServiceDep, _: OperatorDep, state: Literal["draft", "published", "dropped"] = "draft"
) -> list[DraftOut]:
    """Articles to be written, newest first."""
    return [DraftOut(**asdict(draft)) for draft in await asyncio.to_thread(service.parts.store.desk.drafts, state)]


@router.patch("/v1/drafts/{draft_id}")
async def change_draft(service: ServiceDep, doing: DeskDep, draft_id: Id, body: DraftChange) -> DraftOut:
    """Write on, or say that it is published or dropped."""
    changes = body.model_dump(exclude_none=True)
    return DraftOut(**asdict(await asyncio.to_thread(service.parts.store.desk.set_draft, doing, draft_id, changes)))


# --- pairs ------------------------------------------------------------------------------------------------------------
@router.post("/v1/pairs")
async def next_pair(service: ServiceDep, doing: DeskDep, body: NewPair) -> PairAnswer:
    """A question that these two versions answer differently, in an order drawn by lot; kept until it is judged."""
    one, other = body.versions
    if one == other:
        raise BadFrame(f"versions: expected two, got {one} twice")
    teacher = service.parts.teacher
    pair = await teacher.next_pair(doing, one, other)
    if pair is None:
        return PairAnswer(pair=None)
    question, left_text, right_text = await asyncio.to_thread(teacher.pair_texts, pair)
    return PairAnswer(pair=PairOut(id=pair.id, question=question, left=left_text, right=right_text))


@router.post("/v1/pairs/{pair_id}")
async def judge(service: ServiceDep, doing: DeskDep, pair_id: Id, body: Verdict) -> Judged:
    """Say which is better; only then whose they were is told."""
    pair = await asyncio.to_thread(service.parts.store.desk.judge_pair, doing, pair_id, body.verdict)
    return Judged(left_version=pair.left_version, right_version=pair.right_version)


@router.get("/v1/pairs")
async def read_verdicts(service: ServiceDep, _: OperatorDep) -> list[Tally]:
    """Verdicts by pair of versions."""
    return [Tally(**row) for row in await asyncio.to_thread(service.parts.store.desk.verdicts)]
