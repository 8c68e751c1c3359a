"""`/v1/learner`: how learning goes, as the studio page plots it. For operators."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from bot.routes.access import OperatorDep, ServiceDep
from bot.routes.health import learner_health
from bot.routes.parts import AppParts, LearnerHealth

router = APIRouter(tags=["learner"])


class UpdateLine(BaseModel):
    """One finished update."""

    seq: int
    at: float
    metrics: dict[str, Any]
    outcome: str
    version: str


class LearnerState(BaseModel):
    """The learner's heartbeat, its updates, and what people said, by version and over time."""

    learner: LearnerHealth
    status: dict[str, Any] | None
    updates: list[UpdateLine]
    by_version: list[dict[str, Any]]
    over_time: list[dict[str, Any]]


@router.get("/v1/learner")
async def read_learner(service: ServiceDep, _: OperatorDep) -> LearnerState:
    """Everything the studio page shows."""
    return await asyncio.to_thread(_state, service.parts)


def _state(parts: AppParts) -> LearnerState:
    store = parts.store
    updates = [
        UpdateLine(seq=row.seq, at=row.at, metrics=dict(row.metrics), outcome=row.outcome, version=row.version)
        for row in store.updates()
    ]
    return LearnerState(
        learner=learner_health(parts),
        status=store.status("learner"),
        updates=updates,
        by_version=store.stats_by_version(),
        over_time=store.stats_over_time(),
    )


class ArticleLine(BaseModel):
    """How people took one article. `by_version`: the same figures for each version that answered with it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "article": "card_arrival",
                    "title": "When your card comes",
                    "replies": 40,
                    "up": 11,
                    "down": 2,
                    "mean_reward": 0.41,
                    "by_version": [{"version": "v000001", "replies": 40, "up": 11, "down": 2, "mean_reward": 0.41}],
                }
            ]
        }
    )

    article: str
    title: str
    replies: int
    up: int
    down: int
    mean_reward: float | None
    by_version: list[dict[str, Any]]


class ArticleProgress(BaseModel):
    """Articles that were answered with, most replies first."""

    articles: list[ArticleLine]


@router.get("/v1/learner/articles")
async def read_articles(service: ServiceDep, _: OperatorDep) -> ArticleProgress:
    """Article by article: replies, votes and rewards, by version."""
    parts = service.parts
    rows = await asyncio.to_thread(parts.store.stats_by_article)
    titles = {name: article.title for name, article in parts.domain.articles.items()}
    lines = [ArticleLine(title=titles.get(row["article"], row["article"]), **row) for row in rows]
    return ArticleProgress(articles=sorted(lines, key=lambda line: -line.replies))
