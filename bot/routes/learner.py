"""`/v1/learner`: how learning goes, as the studio page plots it. For operators."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

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
