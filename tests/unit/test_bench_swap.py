"""`rejoinder bench swap`: what its report makes of waits, swaps and memory, and a short run on tiny models."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.domain import load_domain
from bot.settings import Settings
from online_learning.bench import swap_engine
from online_learning.bench.swap_engine import Heard, _report
from online_learning.bench.tiny import texts_of, tiny_causal, tiny_encoder


def make_heard(at_swap_s: float) -> Heard:
    """Waits of 100 ms before the first swap at second 10, and of `at_swap_s` while it goes on; one long one after it."""
    heard = Heard(replies=3)
    heard.gaps = [(i * 0.1, i * 0.1 + 0.1) for i in range(50)]
    heard.gaps += [(10 + i * 0.01, 10 + i * 0.01 + at_swap_s) for i in range(50)]
    heard.gaps.append((30.0, 39.0))
    return heard


@pytest.mark.parametrize(("at_swap_s", "added_ms", "within"), [(0.13, 30.0, True), (0.16, 60.0, False)])
def test_what_a_swap_adds_is_told_against_the_time_before_the_first(
    at_swap_s: float, added_ms: float, within: bool
) -> None:
    """One step takes 50 ms. What comes after the last swap belongs to neither."""
    rss = [100.0] * 6 + [200.0, 206.0]
    report = _report(make_heard(at_swap_s), [(10.0, 11.0)], rss, num_streams=2, step_ms=50.0)

    assert (report["gap_ms"]["p99"], report["added_ms_p99"]) == (100.0, added_ms)
    assert report["within_a_step"] is within
    assert (report["swaps"], report["streams"], report["rss_growth"]) == (1, 2, 0.03)
    assert report["first_ms"]["p50"] is report["added_first_ms_p99"] is None


def test_swaps_under_streams_leave_every_reply_as_its_version_writes_it(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three swaps under three streams, on tiny models."""
    monkeypatch.setattr(swap_engine, "LENGTHS", range(6, 9))
    texts = texts_of(load_domain("bank"))
    folder = make_settings().home
    settings = make_settings(
        model=str(tiny_encoder(folder / "encoder", texts)), causal_model=str(tiny_causal(folder / "causal", texts))
    )
    report = swap_engine.run(settings, 3, 3)

    assert (report["swaps"], report["dropped"], report["garbled"]) == (3, 0, 0)
    assert report["replies"] >= 2 * 3
    assert report["gap_ms"]["p99"] > 0
