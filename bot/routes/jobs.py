"""`/v1/jobs/*`: how long work is getting on, its result, and ending it early. Operators read, developers start and end it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from bot.jobs import Job
from bot.routes.access import DeveloperDep, OperatorDep, ServiceDep

router = APIRouter(tags=["jobs"])


class JobOut(BaseModel):
    """A job. `done` of `total` are what its kind counts (decisions, questions); `result` comes with state `done`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "a41f0c2b9d3e5f60",
                    "kind": "backtest",
                    "state": "running",
                    "done": 4000,
                    "total": 100000,
                    "seconds": 0.0,
                    "result": None,
                    "error": "",
                }
            ]
        }
    )

    id: str
    kind: str
    state: str
    done: int
    total: int
    seconds: float
    result: dict[str, Any] | None
    error: str

    @classmethod
    def of(cls, job: Job) -> JobOut:
        """As the page shows it."""
        return cls(
            id=job.id,
            kind=job.kind,
            state=job.state.value,
            done=job.done,
            total=job.total,
            seconds=round(job.seconds, 3),
            result=dict(job.result) if job.result is not None else None,
            error=job.error,
        )


@router.get("/v1/jobs/{job_id}")
async def read_job(
    service: ServiceDep, _: OperatorDep, job_id: str, wait_s: Annotated[float, Query(ge=0, le=30)] = 0.0
) -> JobOut:
    """How far it is, or what it found; `wait_s`: answer then at the latest, sooner if it has ended."""
    return JobOut.of(await service.jobs.wait(job_id, wait_s))


@router.delete("/v1/jobs/{job_id}")
async def stop_job(service: ServiceDep, _: DeveloperDep, job_id: str) -> JobOut:
    """End it early; what it found until then is its result."""
    return JobOut.of(await service.jobs.stop(job_id))
