"""`rejoinder bench swap`: new versions while replies are being written, each compared with what its version writes alone.

The engine itself, without the service around it (`bench swap-service` has that). A handful of versions of random weights,
sealed and probed as the learner does it, take turns as champion. Before, every version writes every reply with no other
version about; under the swaps each reply must be the same, token by token. What a swap adds is told against the same
streams before the first swap: the 99th percentile of the waits from one token to the next, and from asking to the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bot.compose import build_engine
from bot.conversation import BASE_VERSION, Generated
from bot.domain import Domain, load_domain
from bot.identity import home_secret
from bot.policy.adapters import AdapterStore
from bot.policy.download import find_or_fetch
from bot.policy.engine import Engine
from bot.policy.threads import use_threads
from bot.policy.types import Lease, TextRequest
from bot.settings import Settings
from online_learning.bench.product import percentiles, throw_away
from online_learning.bench.serve_text import prompts_of
from online_learning.bench.swap import learner_of, random_version

NUM_VERSIONS = 6
NUM_REQUESTS = 4
LENGTHS = range(9, 25)
"""Tokens of replies, a length for each stream in turn. Short, since a new champion waits while older ones end theirs and two
hundred swaps are to end within minutes; and unequal, so that prompts are read at all times: streams in step would read them
all at once before the swaps, and a few in every step once swaps have put them out of step."""
WARMING_REPLIES, QUIET_REPLIES = 2, 4
"""Of each stream, before the first swap: while they get out of step, and what waits are compared with."""
TIMEOUT_S = 300.0
"""For a new version to be heard."""


@dataclass
class Heard:
    """What the streams got."""

    replies: int = 0
    dropped: int = 0
    garbled: int = 0
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of each wait between two pieces of a reply, seconds."""
    firsts: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of each wait from the request to the first piece, seconds."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def add_reply(self, *, dropped: bool, garbled: bool) -> None:
        """One ended."""
        async with self._changed:
            self.replies += 1
            self.dropped += dropped
            self.garbled += garbled
            self._changed.notify_all()

    def forget_before(self, at: float) -> None:
        """Waits that began earlier do not count."""
        self.gaps = [wait for wait in self.gaps if wait[0] >= at]
        self.firsts = [wait for wait in self.firsts if wait[0] >= at]

    async def count_to(self, replies: int) -> None:
        """Wait until so many have ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.replies >= replies)


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`--swaps N --streams M`; exit 1 when a reply was dropped or is not its version's."""
    with throw_away(settings, tiny=args.tiny) as home:
        report = run(home, args.swaps, args.streams)
    print(json.dumps(report))
    return int(bool(report["dropped"] or report["garbled"]))


def run(settings: Settings, num_swaps: int, num_streams: int) -> dict[str, Any]:
    """Swap `num_swaps` times under `num_streams` streams; the report."""
    use_threads(1)  # Before anything computes: the versions are made here, and this thread must not keep helpers.
    domain, adapters = load_domain(settings.domain), AdapterStore(settings.adapters, home_secret(settings.home))
    learner = learner_of(settings)
    versions = [
        random_version(adapters, learner, domain, settings, seed) for seed in range(min(num_swaps, NUM_VERSIONS))
    ]
    del learner
    return asyncio.run(_measure(settings, domain, adapters, versions, num_swaps, num_streams))


async def _measure(
    settings: Settings,
    domain: Domain,
    adapters: AdapterStore,
    versions: Sequence[str],
    num_swaps: int,
    num_streams: int,
) -> dict[str, Any]:
    find_or_fetch("causal", settings)
    engine = build_engine(_with_places(settings, num_streams), adapters)
    requests = [
        TextRequest(prompt, (source,), number, LENGTHS[-1], chat=str(number))
        for number, (prompt, source) in enumerate(prompts_of(domain, NUM_REQUESTS))
    ]
    reference = {version: await _written(engine, version, requests) for version in (BASE_VERSION, *versions)}
    heard, over = Heard(), asyncio.Event()
    begun: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
    streams = [
        asyncio.create_task(_stream(engine, requests, i, reference, heard, begun, over)) for i in range(num_streams)
    ]
    following = asyncio.create_task(engine.follow_champion(poll_s=0.01))
    await heard.count_to(WARMING_REPLIES * num_streams)
    quiet_from = time.monotonic()
    await heard.count_to((WARMING_REPLIES + QUIET_REPLIES) * num_streams)
    swaps, rss = [], [_rss_mib()]
    for number in tqdm(range(num_swaps), unit="swap", file=sys.stderr, disable=None):
        version, started = versions[number % len(versions)], time.monotonic()
        begun[version].clear()
        adapters.set_champion(version, "benchmark", "bench")
        async with asyncio.timeout(TIMEOUT_S):
            await begun[version].wait()
        swaps.append((started, time.monotonic()))
        rss.append(_rss_mib())
    over.set()
    await asyncio.gather(*streams)
    following.cancel()
    stats = engine.writer_stats
    await engine.close()
    heard.forget_before(quiet_from)
    return _report(heard, swaps, rss, num_streams, 1000 * stats.step_s / max(1, stats.num_steps))


def _report(
    heard: Heard, swaps: Sequence[tuple[float, float]], rss: Sequence[float], num_streams: int, step_ms: float
) -> dict[str, Any]:
    settled = rss[min(len(rss) - 1, NUM_VERSIONS)]
    gaps = _waits("gap", "added_ms_p99", heard.gaps, swaps)
    added = gaps["added_ms_p99"]
    return {
        "swaps": len(swaps),
        "streams": num_streams,
        "replies": heard.replies,
        "dropped": heard.dropped,
        "garbled": heard.garbled,
        "step_ms": round(step_ms, 1),
        **gaps,
        **_waits("first", "added_first_ms_p99", heard.firsts, swaps),
        "within_a_step": None if added is None else added <= step_ms,
        "swap_s": percentiles([done - at for at, done in swaps]),
        "rss_mib": {"settled": round(settled), "end": round(rss[-1])},
        "rss_growth": round(rss[-1] / settled - 1, 4),
    }


def _waits(
    kind: str, added: str, waits: Sequence[tuple[float, float]], swaps: Sequence[tuple[float, float]]
) -> dict[str, Any]:
    """Milliseconds of the waits that ended before the first swap and of those that touch one, and by how much the latter
    are longer."""
    before = [end - begin for begin, end in waits if end < swaps[0][0]]
    near = [end - begin for begin, end in waits if any(begin <= done and end >= at for at, done in swaps)]
    quiet, at_swap = (percentiles(some, 1000, (50, 99)) for some in (before, near))
    both = at_swap["p99"] is not None and quiet["p99"] is not None
    return {
        f"{kind}_ms": quiet,
        f"{kind}_ms_at_swap": at_swap,
        added: round(float(at_swap["p99"] or 0) - float(quiet["p99"] or 0), 2) if both else None,
    }


def _with_places(settings: Settings, num_streams: int) -> Settings:
    """All streams are written at once."""
    return replace(
        settings,
        engine=replace(settings.engine, replies_at_once=num_streams),
        policy=replace(settings.policy, max_reply_tokens=LENGTHS[-1]),
    )


async def _written(engine: Engine, version: str, requests: Sequence[TextRequest]) -> list[Generated]:
    """What a version writes with no other about."""
    async with engine.lease(version) as lease:
        return list(await asyncio.gather(*(_reply(lease, request) for request in requests)))


async def _reply(lease: Lease, request: TextRequest) -> Generated:
    generated = [piece async for piece in lease.write(request)][-1].generated
    assert generated is not None, "the last piece carries the record"
    return generated


async def _stream(
    engine: Engine,
    requests: Sequence[TextRequest],
    number: int,
    reference: dict[str, list[Generated]],
    heard: Heard,
    begun: dict[str, asyncio.Event],
    over: asyncio.Event,
) -> None:
    """One reply after the other, of this stream's length, under whatever version is champion when it begins."""
    length = LENGTHS[number % len(LENGTHS)]
    while not over.is_set():
        place = number % len(requests)
        number += 1
        asked_at = time.monotonic()
        async with engine.lease() as lease:
            last, generated = 0.0, None
            async for piece in lease.write(replace(requests[place], max_tokens=length)):
                now = time.monotonic()
                waits, since = (heard.gaps, last) if last else (heard.firsts, asked_at)
                waits.append((since, now))
                last, generated = now, piece.generated
                begun[lease.version].set()
            expected = reference[lease.version][place]
            await heard.add_reply(
                dropped=generated is None, garbled=generated is not None and not _is_cut(generated, expected, length)
            )


def _is_cut(generated: Generated, expected: Generated, length: int) -> bool:
    """Whether it is the first `length` tokens of what was expected, and their text."""
    return generated.token_ids == expected.token_ids[:length] and expected.text.startswith(generated.text)


def _rss_mib() -> float:
    """Memory of this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))
