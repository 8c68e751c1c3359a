"""The abuser of `rejoinder bench idle`: it sends at its rate whatever it hears, and the change is of the others' p95."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

from online_learning.bench.abuse import ADDRESS, Rounds, abuser, report
from tests.service_rig import live, open_rig


def test_the_change_is_the_median_over_the_rounds_of_that_of_the_95th_percentile() -> None:
    """From 100 ms to 115, 90 and 900 ms: + 15 %, whatever one bad round did."""
    rounds = Rounds([[0.1] * 20] * 3, [[0.115] * 20, [0.09] * 20, [0.9] * 20], [], [], {"sent": 40, "error": 30}, 0)
    found = report(rounds)

    assert (found["p95_change"], found["p95_changes"]) == (0.15, [0.15, -0.1, 8.0])
    assert (found["replies"], found["abuser_sent"], found["abuser_refused"]) == (120, 40, 30)
    assert "office" not in found
    assert report(replace(rounds, abused=[[]] * 3))["p95_change"] is None


def test_an_office_says_what_it_got_and_what_the_others_noticed() -> None:
    """From 100 ms to 110 ms for the others: + 10 %; one of its own was refused."""
    quiet = [[0.1] * 20] * 2
    found = report(Rounds(quiet, quiet, [[0.11] * 20] * 2, [[0.2] * 20] * 2, {"sent": 0, "error": 0}, 1))["office"]

    assert (found["refused"], found["replies"], found["p95_change"]) == (1, 40, 0.1)
    assert found["reply_ms"] == {"p50": 200.0, "p95": 200.0}


async def test_the_abuser_comes_from_elsewhere_and_is_refused_most_of_what_it_asks(tmp_path: Path) -> None:
    """One message a minute is allowed: the others are refused, and it goes on."""
    heard: Counter[str] = Counter()
    with open_rig(tmp_path, messages_per_min=1.0, address_sockets=10) as rig:
        async with live(rig.app) as server, abuser(server.port, "Where is my card?", 1e4, heard):
            async with asyncio.timeout(60):
                while heard["error"] < 30:  # noqa: ASYNC110  the abuser counts and tells nobody
                    await asyncio.sleep(0.005)
            assert set(rig.app.state.service.sockets._taken) == {ADDRESS}

    assert heard["sent"] > heard["error"]
