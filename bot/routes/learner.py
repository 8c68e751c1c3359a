"""`/v1/learner`: how learning goes, as the studio page plots it. For operators."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from bot.feedback.store import Store
from bot.routes.access import OperatorDep, ServiceDep

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

    status: dict[str, Any] | None
    updates: list[UpdateLine]
    by_version: list[dict[str, Any]]
    over_time: list[dict[str, Any]]


@router.get("/v1/learner")
async def read_learner(service: ServiceDep, _: OperatorDep) -> LearnerState:
    """Everything the studio page shows."""
    return await asyncio.to_thread(_state, service.parts.store)


def _state(store: Store) -> LearnerState:
    updates = [
        UpdateLine(seq=row.seq, at=row.at, metrics=dict(row.metrics), outcome=row.outcome, version=row.version)
        for row in store.updates()
    ]
    return LearnerState(
        status=store.status("learner"),
        updates=updates,
        by_version=store.stats_by_version(),
        over_time=store.stats_over_time(),
    )
