"""What the studio page's numbers are made of: quantiles out of histograms, counters out of the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from bot.metrics import Metrics, quantile
from bot.policy.tally import SECONDS, SIZES, Tally
from bot.service import create_app
from tests.service_rig import OPERATOR_KEY, live, open_rig


def test_quantiles_are_linear_within_a_bucket() -> None:
    """Buckets end at 100, 200 and 300 ms: of ten values between 100 and 200 the fifth is told as 150."""
    metrics = Metrics()
    for _ in range(10):
        metrics.reply_s.observe(0.11)
    metrics.queue_s.observe(99.0)
    now = metrics.read()

    assert quantile(now.samples("reply_seconds"), 0.5) == pytest.approx(0.15)
    assert quantile(now.samples("reply_seconds"), 0.95) == pytest.approx(0.195)
    assert quantile(now.samples("queue_seconds"), 0.5) == 30.0  # beyond the last bucket that ends
    assert quantile(now.samples("first_text_seconds"), 0.5) is None


def test_a_tally_counts_values_up_to_the_end_of_their_bucket() -> None:
    """Two choices are in the bucket that ends at 2, three in the next; a hundred are beyond all."""
    tally = Tally(SIZES)
    for size in (1, 2, 2, 3, 100):
        tally.add(size)

    assert tally.counts == [1, 2, 1, 0, 0, 0, 0, 1]
    assert tally.total == 108


def test_what_the_engine_keeps_is_scraped_under_prometheus_names() -> None:
    """Counters end in `_total`, a tally is a histogram with cumulative buckets; what it does not count is 0."""
    tally = Tally(SIZES)
    tally.add(3)
    scraped = Metrics(lambda: {"swaps": 2, "writer_running": 4, "batch_choices": tally}).render().decode().splitlines()

    assert {"rejoinder_swaps_total 2.0", "rejoinder_writer_running 4.0"} <= set(scraped)
    assert {'rejoinder_batch_choices_bucket{le="2.0"} 0.0', 'rejoinder_batch_choices_bucket{le="4.0"} 1.0'} <= set(
        scraped
    )
    assert {"rejoinder_batch_choices_sum 3.0", "rejoinder_swap_seconds_count 0.0"} <= set(scraped)
    assert "rejoinder_writer_tokens_total 0.0" in scraped


async def test_the_studio_reads_how_replies_are_made(tmp_path: Path) -> None:
    """One reply by the base version; the engine's own counts give batches, swaps, reuse and what the writer did."""
    sizes, queue_s, swap_s = Tally(SIZES), Tally(SECONDS), Tally(SECONDS)
    for size in (3, 4):
        sizes.add(size)
    queue_s.add(0.01)
    swap_s.add(1.0)
    counts: dict[str, float | Tally] = {
        "batches": 2.0,
        "batched_choices": 7.0,
        "encoder_texts_asked": 10.0,
        "encoder_texts_read": 1.0,
        "batch_choices": sizes,
        "swaps": 1,
        "swaps_refused": 2,
        "swap_seconds": swap_s,
        "versions_loaded": 1,
        "writer_replies": 3,
        "writer_tokens": 90,
        "writer_step_seconds": 1.5,
        "writer_running": 1,
        "prefix_tokens_reused": 75,
        "prefix_tokens_read": 25,
        "writer_queue_seconds": queue_s,
    }
    collected: list[str] = []

    def count() -> dict[str, float | Tally]:
        collected.append("once")
        return counts

    with open_rig(tmp_path) as rig:
        app = create_app(replace(rig.parts, engine_counts=count))
        async with live(app) as server, server.tab() as tab, httpx.AsyncClient(base_url=server.http) as http:
            await tab.send(type="message", client_id="a1", text="Where is my card?")
            await tab.next_reply()
            collected.clear()
            got = (await http.get("/v1/serving", headers={"Authorization": f"Bearer {OPERATOR_KEY}"})).json()

    assert collected == ["once"]  # Not for each figure: a poll takes the event loop's time.
    assert (got["mean_batch"], got["known_texts"]) == (3.5, 0.9)
    assert [bar for bar in got["batches"] if bar["batches"]] == [{"up_to": 4.0, "batches": 2}]
    assert (got["swaps"], got["swaps_refused"], got["versions_loaded"]) == (1, 2, 1)
    assert got["swap_ms"]["p50"] == 750.0  # the middle of the bucket from 0.5 to 1 s
    assert got["replies_by_version"] == {"v000000": 1}
    assert (got["sockets"], got["replies_waiting"], got["errors_by_code"]) == (1, 0, {})
    assert got["first_text_ms"]["p50"] is not None
    writer = got["writer"]
    assert (writer["replies"], writer["running"], writer["tokens_per_s"], writer["prompt_reuse"]) == (3, 1, 60.0, 0.75)
    assert writer["queue_ms"]["p50"] == 7.5


async def test_only_generated_replies_have_first_tokens_and_pieces(tmp_path: Path) -> None:
    """Three pieces make two waits between pieces and one first token. The control: a reply of one piece, which nobody
    generated, makes neither, and both replies have a first text."""
    with open_rig(tmp_path, tokens=("In", " five", " days.")) as rig:
        async with live(rig.app) as server, server.tab() as tab:
            await tab.send(type="message", client_id="a1", text="Where is my card?")
            await tab.next_reply()
        metrics = rig.app.state.service.metrics.read()
        assert metrics.value("first_text_seconds_count") == 1
        assert metrics.value("piece_seconds_count") == 2
        assert metrics.value("first_token_seconds_count") == 1
    with open_rig(tmp_path / "approved", tokens=("In five days.",)) as rig:
        rig.replier.stop_reason = ""
        async with live(rig.app) as server, server.tab() as tab:
            await tab.send(type="message", client_id="a1", text="Where is my card?")
            await tab.next_reply()
        metrics = rig.app.state.service.metrics.read()
        assert metrics.value("first_text_seconds_count") == 1
        assert metrics.value("piece_seconds_count") == metrics.value("first_token_seconds_count") == 0
