"""`/health/live`, `/health/ready`, `/metrics`: for whoever runs the server."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from bot.errors import RejoinderError
from bot.routes.access import ServiceDep
from bot.routes.parts import AppParts, LearnerHealth, Readiness, Service

router = APIRouter(tags=["health"])

CHECK_S = 5.0
"""How long policy and store may take to answer."""
KEEP_S = 1.0
"""How long one check's answer is good for."""
STALE_S = 120.0
"""A learner beats twice a second while it waits, but within an update it scores whole windows between two beats."""


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """The event loop runs; nothing else is looked at."""
    return {"live": True}


@router.get("/health/ready")
async def ready(service: ServiceDep) -> JSONResponse:
    """200 when the policy serves and the store writes; 503 with the reason otherwise, and while draining.

    `learner` is `ok`, `stale` or `stopped` and changes neither: chat does without it.
    """
    problem = await find_problem(service)
    service.metrics.ready.set(0 if problem else 1)
    answer: dict[str, Any] = {"ready": not problem, "learner": service.ready.learner}
    return JSONResponse(answer | ({"reason": problem} if problem else {}), 503 if problem else 200)


@router.get("/metrics")
async def metrics(service: ServiceDep) -> Response:
    """Prometheus text. Anybody may ask, so rows are counted once a second at most."""
    now = service.parts.monotonic()
    if now - service.rows_counted_at >= KEEP_S:
        service.rows_counted_at = now
        await _count_rows(service)
    service.metrics.replies_waiting.set(service.hub.turns.num_waiting)
    return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _count_rows(service: Service) -> None:
    try:
        for table, count in (await asyncio.to_thread(service.parts.store.counts)).items():
            service.metrics.rows.labels(table).set(count)
    except RejoinderError:
        service.metrics.errors.labels("unavailable").inc()


async def find_problem(service: Service) -> str:
    """Why the service is not ready; empty when it is."""
    if service.hub.draining:
        return "draining"
    now = service.parts.monotonic()
    if now - service.ready.checked_at >= KEEP_S:
        service.ready = await _check(service, now)
    return service.ready.problem


def learner_health(parts: AppParts) -> LearnerHealth:
    """By the learner's heartbeat in the store and the supervisor's marker; the newer one is right."""
    beat_at = float((parts.store.status("learner") or {}).get("at", 0.0))
    marker = parts.settings.learner_given_up
    if not beat_at or (marker.exists() and marker.stat().st_mtime >= beat_at):
        return "stopped"
    return "ok" if parts.clock() - beat_at <= STALE_S else "stale"


async def _check(service: Service, now: float) -> Readiness:
    parts, learner = service.parts, service.ready.learner
    try:
        async with asyncio.timeout(CHECK_S):
            async with parts.policy.lease() as lease:
                version = lease.version
            await asyncio.to_thread(parts.store.put_status, "server", {"at": parts.clock(), "version": version})
            learner = await asyncio.to_thread(learner_health, parts)
    except RejoinderError as error:
        return Readiness(now, str(error), learner)
    except TimeoutError:
        return Readiness(now, f"policy and store: expected an answer within {CHECK_S:g} s, got none", learner)
    return Readiness(now, "", learner)
