"""`/v1/serving`: how replies are made now, as the studio page shows it. For operators. The same numbers as `/metrics`."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import Histogram
from pydantic import BaseModel

from bot.metrics import Metrics
from bot.routes.access import OperatorDep, ServiceDep

router = APIRouter(tags=["serving"])


class Spread(BaseModel):
    """Milliseconds since the start of the server, estimated from a histogram; null before the first."""

    p50: float | None
    p95: float | None

    @classmethod
    def of(cls, metrics: Metrics, histogram: Histogram) -> Spread:
        """Median and 95th percentile."""
        return cls(p50=metrics.quantile_ms(histogram, 0.5), p95=metrics.quantile_ms(histogram, 0.95))


class ServingState(BaseModel):
    """The server since its start."""

    sockets: int
    replies_running: int
    replies_waiting: int
    queue_ms: Spread
    first_text_ms: Spread
    piece_ms: Spread
    reply_ms: Spread
    mean_batch: float | None
    """Choices made together."""
    known_texts: float | None
    """Share of texts whose embedding was known when it was wanted."""
    replies_by_version: dict[str, int]


@router.get("/v1/serving")
async def read_serving(service: ServiceDep, _: OperatorDep) -> ServingState:
    """Waiting, batches, reuse and versions."""
    metrics = service.metrics
    asked, read = (metrics.value(f"encoder_texts_{what}_total") for what in ("asked", "read"))
    batches, choices = metrics.value("batches_total"), metrics.value("batched_choices_total")
    return ServingState(
        sockets=service.num_sockets,
        replies_running=service.hub.turns.num_running,
        replies_waiting=service.hub.turns.num_waiting,
        queue_ms=Spread.of(metrics, metrics.queue_s),
        first_text_ms=Spread.of(metrics, metrics.first_text_s),
        piece_ms=Spread.of(metrics, metrics.piece_s),
        reply_ms=Spread.of(metrics, metrics.reply_s),
        mean_batch=round(choices / batches, 2) if batches else None,
        known_texts=round(1 - read / asked, 4) if asked else None,
        replies_by_version={name: int(count) for name, count in metrics.by_label(metrics.version_replies).items()},
    )
