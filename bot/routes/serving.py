"""`/v1/serving`: how replies are made now, as the studio page shows it. For operators. The same numbers as `/metrics`."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from prometheus_client.samples import Sample
from pydantic import BaseModel

from bot.metrics import Reading, quantile
from bot.routes.access import OperatorDep, ServiceDep

router = APIRouter(tags=["serving"])


class Spread(BaseModel):
    """Since the start of the server, estimated from a histogram; null before the first value."""

    p50: float | None
    p95: float | None

    @classmethod
    def of(cls, samples: Sequence[Sample], scale: float = 1.0) -> Spread:
        """Median and 95th percentile of a histogram, times `scale`."""
        p50, p95 = (quantile(samples, share) for share in (0.5, 0.95))
        return cls(p50=_scaled(p50, scale), p95=_scaled(p95, scale))


class Bar(BaseModel):
    """A bucket of batches."""

    up_to: float | None
    """Members at most; null: more than all others."""
    batches: int


class WriterState(BaseModel):
    """Of generated replies, where our own engine writes them."""

    replies: int
    running: int
    waiting: int
    tokens: int
    tokens_per_s: float | None
    """Written in a second of work, all replies together."""
    queue_ms: Spread
    batches: list[Bar]
    """Passes by how many replies were in them."""
    prompt_reuse: float | None
    """Share of prompt tokens that had been read before."""


class ServingState(BaseModel):
    """The server since its start. Times in ms."""

    sockets: int
    replies_running: int
    replies_waiting: int
    queue_ms: Spread
    first_text_ms: Spread
    first_token_ms: Spread
    """Of generated replies."""
    piece_ms: Spread
    """From one piece of a generated reply to the next: per token."""
    reply_ms: Spread
    mean_batch: float | None
    """Choices made together."""
    batches: list[Bar]
    """Batches of choices by their size."""
    known_texts: float | None
    """Share of texts whose embedding was known when it was wanted."""
    swaps: int
    swaps_refused: int
    swap_ms: Spread
    versions_loaded: int
    replies_by_version: dict[str, int]
    errors_by_code: dict[str, int]
    writer: WriterState | None
    """Null before the first generated reply."""


@router.get("/v1/serving")
async def read_serving(service: ServiceDep, _: OperatorDep) -> ServingState:
    """Waiting, batches, reuse, swaps and versions."""
    metrics = service.metrics
    now = metrics.read()
    asked, read = (now.value(f"encoder_texts_{what}_total") for what in ("asked", "read"))
    batches, choices = now.value("batches_total"), now.value("batched_choices_total")
    return ServingState(
        sockets=service.num_sockets,
        replies_running=service.hub.turns.num_running,
        replies_waiting=service.hub.turns.num_waiting,
        queue_ms=_ms(now, "queue_seconds"),
        first_text_ms=_ms(now, "first_text_seconds"),
        first_token_ms=_ms(now, "first_token_seconds"),
        piece_ms=_ms(now, "piece_seconds"),
        reply_ms=_ms(now, "reply_seconds"),
        mean_batch=round(choices / batches, 2) if batches else None,
        batches=_bars(now, "batch_choices"),
        known_texts=round(1 - read / asked, 4) if asked else None,
        swaps=int(now.value("swaps_total")),
        swaps_refused=int(now.value("swaps_refused_total")),
        swap_ms=_ms(now, "swap_seconds"),
        versions_loaded=int(now.value("versions_loaded")),
        replies_by_version={name: int(count) for name, count in metrics.by_label(metrics.version_replies).items()},
        errors_by_code={name: int(count) for name, count in metrics.by_label(metrics.errors).items()},
        writer=_writer(now),
    )


def _writer(now: Reading) -> WriterState | None:
    replies, tokens = now.value("writer_replies_total"), now.value("writer_tokens_total")
    if not replies:
        return None
    spent_s = now.value("writer_step_seconds_total")
    reused, read = (now.value(f"prefix_tokens_{what}_total") for what in ("reused", "read"))
    return WriterState(
        replies=int(replies),
        running=int(now.value("writer_running")),
        waiting=int(now.value("writer_waiting")),
        tokens=int(tokens),
        tokens_per_s=round(tokens / spent_s, 1) if spent_s else None,
        queue_ms=_ms(now, "writer_queue_seconds"),
        batches=_bars(now, "writer_batch_replies"),
        prompt_reuse=round(reused / (reused + read), 4) if reused + read else None,
    )


def _ms(now: Reading, name: str) -> Spread:
    return Spread.of(now.samples(name), 1000)


def _bars(now: Reading, name: str) -> list[Bar]:
    bars, below = [], 0.0
    for sample in now.samples(name):
        if "le" in sample.labels:
            end = float(sample.labels["le"])
            bars.append(Bar(up_to=None if end == float("inf") else end, batches=int(sample.value - below)))
            below = sample.value
    return bars


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else round(scale * value, 1)
