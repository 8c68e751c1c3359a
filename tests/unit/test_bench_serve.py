"""`rejoinder bench serve`: what is made of the rounds, and a round on a real server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from bot.feedback.store import ConversationFilter
from bot.service import create_app
from bot.settings import Settings
from online_learning.bench.serve import ACTS, TEXT, Kind, People, Round, Server, counted, report, tokens_of
from tests.service_rig import live, open_rig
from tests.tiny_models import tiny_causal


def make_round(**overrides: Any) -> Round:
    """Two replies in one second, 10 tokens read."""
    fields: dict[str, Any] = {"replies_s": [0.1, 0.3], "first_s": [0.1, 0.2], "tokens": 20, "took_s": 1.0}
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
    assert (found["tokens_per_s"], found["peer"]["tokens_per_s"]) == (40.0, 20.0)
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
            people = People(ACTS, lambda text: len(text.split()))
            asked = cycle(["Where is my card?"])
            found = await people.round(Server(server.port, os.getpid()), asked, num_chats=3, length_s=0.0)

    assert len(found.replies_s) >= 3
    assert found.cpu_s >= 0
    assert found.tokens == 3 * len(found.replies_s)  # "In five days."
    assert 'rejoinder_votes_total{thumb="up"}' in rig.app.state.service.metrics.render().decode()


@pytest.mark.parametrize("kind", [ACTS, TEXT])
async def test_people_get_their_replies_as_the_kind_says(tmp_path: Path, kind: Kind) -> None:
    """Approved, or with `--text` generated: the conversation says so."""
    with open_rig(tmp_path, messages_per_min=1e6) as rig:
        async with live(rig.app) as server:
            asked = cycle(["Where is my card?"])
            await People(kind, len).round(Server(server.port, os.getpid()), asked, num_chats=1, length_s=0.0)
        [row] = rig.store.list_conversations(ConversationFilter())

    assert row.conversation.reply_mode == kind.reply


def test_tokens_are_those_of_the_model_that_writes(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    """A tokenizer of single digits: five tokens."""
    settings = make_settings(causal_model=str(tiny_causal(tmp_path / "tiny")))

    assert tokens_of(settings)("12345") == 5


async def test_what_was_read_comes_from_the_engines_own_count(tmp_path: Path) -> None:
    """/metrics shows what the engine counts; an engine that counts nothing shows 0, and so does an unknown name."""
    with open_rig(tmp_path) as rig:
        counting = create_app(replace(rig.parts, engine_counts=lambda: {"encoder_tokens_read": 17.0}))
        async with live(counting) as one, live(rig.app) as other:
            found = [await asyncio.to_thread(counted, server.port, ACTS.read) for server in (one, other)]
            found.append(await asyncio.to_thread(counted, one.port, "no_such_thing"))

    assert found == [17.0, 0.0, 0.0]
