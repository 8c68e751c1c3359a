"""`/v1/versions/{version}/lessons`: who taught a version, by replies that were rated and by words of their own."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from bot.feedback.desk_records import Case
from bot.routes.access import OperatorDep, ServiceDep

router = APIRouter(tags=["versions"])


class TaughtLine(BaseModel):
    """A conversation that a version learned from; `mean_reward` of the replies that taught, as it stands today."""

    conversation_id: str
    text: str
    at: float
    num_decisions: int
    mean_reward: float | None


class WordsLine(BaseModel):
    """An operator's words that a version's causal part learned to say; `removed_at` (0: in force) is when they were taken back."""

    case_id: str
    conversation_id: str
    author: str
    question: str
    text: str
    at: float
    removed_at: float


class Lessons(BaseModel):
    """Who taught a version: newest conversations, and newest words of operators, first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "version": "v000007",
                    "num_decisions": 412,
                    "conversations": [
                        {
                            "conversation_id": "c_01",
                            "text": "Where is my card?",
                            "at": 1.78e9,
                            "num_decisions": 2,
                            "mean_reward": 0.5,
                        }
                    ],
                    "words": [
                        {
                            "case_id": "case_0123456789ab",
                            "conversation_id": "c_02",
                            "author": "operator:ana",
                            "question": "My card never came",
                            "text": "I am sorry to hear that. It takes five days.",
                            "at": 1.78e9,
                            "removed_at": 0,
                        }
                    ],
                }
            ]
        }
    )

    version: str
    num_decisions: int
    conversations: list[TaughtLine]
    words: list[WordsLine]


@router.get("/v1/versions/{version}/lessons")
async def read_lessons(
    service: ServiceDep, _: OperatorDep, version: str, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> Lessons:
    """Which conversations, and which words of operators, taught a version."""
    store = service.parts.store
    num_decisions, found = await asyncio.to_thread(store.lessons, version, limit)
    words = [_words_line(case) for case in await asyncio.to_thread(store.words_taught, version, limit)]
    lines = [TaughtLine(**asdict(line)) for line in found]
    return Lessons(version=version, num_decisions=num_decisions, conversations=lines, words=words)


def _words_line(case: Case) -> WordsLine:
    return WordsLine(
        case_id=case.id, **{name: getattr(case, name) for name in WordsLine.model_fields if name != "case_id"}
    )
