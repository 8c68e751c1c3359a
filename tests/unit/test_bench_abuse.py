"""The abuser of `rejoinder bench idle`: it sends at its rate whatever it hears, and the change is of the others' p95."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from online_learning.bench.abuse import ADDRESS, abuser, report
from tests.service_rig import live, open_rig


def test_the_change_is_that_of_the_95th_percentile() -> None:
    """From 100 ms to 115 ms: + 15 %."""
    found = report([0.1] * 20, [0.115] * 20, {"sent": 40, "error": 30})

    assert found["p95_change"] == 0.15
    assert (found["replies"], found["abuser_sent"], found["abuser_refused"]) == (40, 40, 30)
    assert report([], [0.1], {"sent": 0, "error": 0})["p95_change"] is None


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
