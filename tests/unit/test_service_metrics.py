"""What the studio page's numbers are made of: quantiles out of histograms, counters out of the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from bot.metrics import Metrics
from bot.service import create_app
from tests.service_rig import OPERATOR_KEY, live, open_rig


def test_quantiles_are_linear_within_a_bucket() -> None:
    """Buckets end at 100, 200 and 300 ms: of ten values between 100 and 200 the fifth is told as 150."""
    metrics = Metrics()
    for _ in range(10):
        metrics.reply_s.observe(0.11)
    metrics.queue_s.observe(99.0)

    assert metrics.quantile_ms(metrics.reply_s, 0.5) == 150.0
    assert metrics.quantile_ms(metrics.reply_s, 0.95) == pytest.approx(195.0)
    assert metrics.quantile_ms(metrics.queue_s, 0.5) == 30_000.0  # beyond the last bucket that ends
    assert metrics.quantile_ms(metrics.first_text_s, 0.5) is None


async def test_the_studio_reads_how_replies_are_made(tmp_path: Path) -> None:
    """One reply by the base version; the engine's own counts give the mean batch and what was known."""
    counts = {"batches": 2.0, "batched_choices": 7.0, "encoder_texts_asked": 10.0, "encoder_texts_read": 1.0}
    with open_rig(tmp_path) as rig:
        app = create_app(replace(rig.parts, engine_counts=lambda: counts))
        async with live(app) as server, server.tab() as tab, httpx.AsyncClient(base_url=server.http) as http:
            await tab.send(type="message", client_id="a1", text="Where is my card?")
            await tab.next_reply()
            got = (await http.get("/v1/serving", headers={"Authorization": f"Bearer {OPERATOR_KEY}"})).json()

    assert (got["mean_batch"], got["known_texts"]) == (3.5, 0.9)
    assert got["replies_by_version"] == {"v000000": 1}
    assert (got["sockets"], got["replies_waiting"]) == (1, 0)
    assert got["first_text_ms"]["p50"] is not None
