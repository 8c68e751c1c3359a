"""`rejoinder bench serve`: what is made of the rounds, and a round on a real server."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from bot.service import create_app
from online_learning.bench.serve import Round, Server, measure_round, report, tokens_read
from tests.service_rig import live, open_rig


def make_round(**overrides: Any) -> Round:
    """Two replies in one second, 10 tokens read."""
    fields: dict[str, Any] = {"replies_s": [0.1, 0.3], "first_s": [0.1, 0.2], "words": 20, "took_s": 1.0}
    return Round(**fields | {"tokens_read": 10.0, "cpu_s": 0.5} | overrides)


def test_a_report_holds_medians_over_rounds_beside_the_peers() -> None:
    """Ours: 2, 4 and 6 replies a second; the peer: 1. Ours read 5 tokens a turn, the peer 50."""
    ours = [make_round(took_s=took) for took in (1.0, 0.5, 1 / 3)]
    peer = [make_round(replies_s=[1.0], first_s=[1.0], took_s=1.0, tokens_read=50.0)]

    found = report(8, {"ours": ours, "batch_1": peer, "peer": peer})

    assert (found["chats"], found["replies"], found["replies_per_s"]) == (8, 6, 4.0)
    assert found["reply_ms"]["p50"] == 200.0
    assert found["ttft_ms"]["p50"] == 150.0
    assert (found["tokens_read_per_turn"], found["peer"]["tokens_read_per_turn"]) == (5.0, 50.0)
    assert (found["speedup"], found["tokens_read_cut"]) == (4.0, 0.9)
    assert (found["cpu_ms_per_reply"], found["peer"]["cpu_ms_per_reply"]) == (250.0, 500.0)
    assert found["batch_1"]["replies_per_s"] == 1.0


def test_a_peer_that_never_replied_has_no_ratio() -> None:
    """A server too slow for one reply in a round is no division by zero."""
    silent = [make_round(replies_s=[], first_s=[], tokens_read=0.0)]

    found = report(1, {"ours": [make_round()], "peer": silent})

    assert (found["speedup"], found["tokens_read_cut"], found["peer"]["reply_ms"]["p50"]) == (None, None, None)


async def test_a_round_has_every_chat_ask_and_vote(tmp_path: Path) -> None:
    """Three people on a real server: each gets at least one reply and casts a vote on the first."""
    with open_rig(tmp_path, messages_per_min=1e6) as rig:
        async with live(rig.app) as server:
            found = await measure_round(
                Server(server.port, os.getpid()), cycle(["Where is my card?"]), num_chats=3, length_s=0.01
            )

    assert len(found.replies_s) >= 3
    assert found.cpu_s >= 0
    assert found.words == 3 * len(found.replies_s)  # "In five days."
    assert 'rejoinder_votes_total{thumb="up"}' in rig.app.state.service.metrics.render().decode()


async def test_tokens_read_come_from_the_engines_own_count(tmp_path: Path) -> None:
    """/metrics shows what the engine counts; an engine that counts nothing shows 0."""
    with open_rig(tmp_path) as rig:
        counting = create_app(replace(rig.parts, engine_counts=lambda: {"encoder_tokens_read": 17.0}))
        async with live(counting) as one, live(rig.app) as other:
            found = [await asyncio.to_thread(tokens_read, server.port) for server in (one, other)]

    assert found == [17.0, 0.0]
