"""One abuser at 50 times the normal rate, and what the others notice of it. Part of `rejoinder bench idle`.

People ask at the rate that `limits.messages_per_min` allows one person. The abuser sits at another address of this
machine (all of 127/8 is), holds several conversations and sends without waiting for replies. Quiet and abused rounds
take turns. The control is the same server with the limits and the turns switched off.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from typing import Any

import websockets

from bot.settings import LimitSettings, Settings
from online_learning.bench.product import UNLIMITED, percentiles, supervised, throw_away
from online_learning.simulate.client import ChatClient

TIMES = 50
"""The normal rate."""
PEOPLE = 24
PAUSE_S = 60 / LimitSettings().messages_per_min
"""Between two questions of one person, at the normal rate."""
ABUSER_CHATS = 10
ADDRESS = "127.0.0.2"
PROTECTED = {name: str(getattr(LimitSettings(), name.partition(".")[2])) for name in UNLIMITED}
UNPROTECTED: Mapping[str, str] = {"limits.max_replies": "1000000", "limits.max_waiting": "1000000"}


def run(
    settings: Settings, asked: Sequence[str], options: Mapping[str, str], *, tiny: bool, rounds: int, round_s: float
) -> dict[str, Any]:
    """With the limits, and without."""
    found = {}
    for name, given in (("protected", PROTECTED), ("unprotected", UNPROTECTED)):
        with throw_away(settings, tiny=tiny) as home, supervised(home, {**options, **given}, learn=False):
            found[name] = asyncio.run(measure(home.port, asked, rounds, round_s))
    return {"times": TIMES, "people": PEOPLE, **found["protected"], "unprotected": found["unprotected"]}


async def measure(port: int, asked: Sequence[str], rounds: int, round_s: float) -> dict[str, Any]:
    """Quiet and abused rounds in turn; the first of each warms up and does not count."""
    replies_s: dict[str, list[float]] = {"quiet": [], "abused": []}
    heard: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        people = [await ChatClient.open(port) for _ in range(PEOPLE)]
        for client in people:
            stack.push_async_callback(client.close)
        for number in range(rounds + 1):
            quiet = await _round(people, asked, round_s)
            async with abuser(port, asked[0], TIMES / PAUSE_S, heard):
                abused = await _round(people, asked, round_s)
            if number:
                replies_s["quiet"] += quiet
                replies_s["abused"] += abused
    return report(replies_s["quiet"], replies_s["abused"], heard)


def report(quiet_s: Sequence[float], abused_s: Sequence[float], heard: Mapping[str, int]) -> dict[str, Any]:
    """Times over all rounds together, and the change of the 95th percentile."""
    quiet, abused = percentiles(quiet_s, 1000), percentiles(abused_s, 1000)
    change = None if not quiet["p95"] or abused["p95"] is None else round(abused["p95"] / quiet["p95"] - 1, 3)
    return {
        "replies": len(quiet_s) + len(abused_s),
        "reply_ms_quiet": quiet,
        "reply_ms_abused": abused,
        "p95_change": change,
        "abuser_sent": heard["sent"],
        "abuser_refused": heard["error"],
    }


async def _round(people: Sequence[ChatClient], asked: Sequence[str], round_s: float) -> list[float]:
    """Everybody asks at the normal rate, evenly spread; seconds to each reply."""
    until, found = time.monotonic() + round_s, list[float]()

    async def one(number: int, client: ChatClient) -> None:
        await asyncio.sleep(PAUSE_S * number / len(people))
        while (started := time.monotonic()) < until:
            found.append((await client.ask(asked[(number + len(found)) % len(asked)])).total_s)
            await asyncio.sleep(max(0.0, PAUSE_S - (time.monotonic() - started)))

    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(people):
            group.create_task(one(number, client))
    return found


@asynccontextmanager
async def abuser(port: int, text: str, per_s: float, heard: Counter[str]) -> AsyncIterator[None]:
    """Sends for the length of the block, whatever comes back; frames by type, and `sent`, are counted in `heard`."""
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(_connected(port)) for _ in range(ABUSER_CHATS)]
        tasks = [asyncio.create_task(_listen(socket, heard)) for socket in sockets]
        tasks.append(asyncio.create_task(_send(sockets, text, per_s, heard)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _connected(port: int) -> websockets.connect:
    return websockets.connect(f"ws://127.0.0.1:{port}/ws/chat", compression=None, local_addr=(ADDRESS, 0))


async def _listen(socket: websockets.ClientConnection, heard: Counter[str]) -> None:
    with suppress(websockets.ConnectionClosed):
        async for raw in socket:
            heard[json.loads(raw)["type"]] += 1


async def _send(sockets: Sequence[websockets.ClientConnection], text: str, per_s: float, heard: Counter[str]) -> None:
    started = time.monotonic()
    for socket in sockets:
        await socket.send(json.dumps({"type": "hello", "protocol": 1}))
    for number in count():
        frame = {"type": "message", "client_id": f"x{time.monotonic_ns()}", "text": text}
        with suppress(websockets.ConnectionClosed):
            await sockets[number % len(sockets)].send(json.dumps(frame))
            heard["sent"] += 1
        await asyncio.sleep(max(0.0, started + (number + 1) / per_s - time.monotonic()))
