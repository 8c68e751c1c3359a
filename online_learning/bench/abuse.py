"""One abuser at 50 times the normal rate, and what the others notice of it. Part of `rejoinder bench idle`.

People ask at the rate that `limits.messages_per_min` allows one person. The abuser sits at another address of this
machine (all of 127/8 is), holds several conversations and sends without waiting for replies. Quiet and abused rounds
take turns; figures are medians over the rounds. The control is the same server with the limits and the turns switched off.

A third round is an office: as many people again, at the normal rate, all behind one address of their own. None of them
may be refused, and what the others notice of it is what so many more people cost.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import websockets

from bot.errors import RejoinderError
from bot.settings import LimitSettings, Settings
from online_learning.bench.product import UNLIMITED, median_percentiles, percentiles, supervised, throw_away
from online_learning.simulate.client import ChatClient

TIMES = 50
"""The normal rate."""
PEOPLE = 24
PAUSE_S = 60 / LimitSettings().messages_per_min
"""Between two questions of one person, at the normal rate."""
ABUSER_CHATS = 10
ADDRESS = "127.0.0.2"
OFFICE_ADDRESS = "127.0.0.3"
PROTECTED = {name: str(getattr(LimitSettings(), name.partition(".")[2])) for name in UNLIMITED}
UNPROTECTED: Mapping[str, str] = {"limits.max_replies": "1000000", "limits.max_waiting": "1000000"}


@dataclass(frozen=True, slots=True)
class Rounds:
    """Seconds to each reply of the people, a list for each round, and what happened meanwhile."""

    quiet: Sequence[Sequence[float]]
    abused: Sequence[Sequence[float]]
    beside_office: Sequence[Sequence[float]]
    office: Sequence[Sequence[float]]
    """Seconds to the office's own replies."""
    heard: Mapping[str, int]
    """What the abuser sent, and the frames it heard, by type."""
    office_refused: int


def run(
    settings: Settings, asked: Sequence[str], options: Mapping[str, str], *, tiny: bool, rounds: int, round_s: float
) -> dict[str, Any]:
    """With the limits, and without."""
    found = {}
    for name, given in (("protected", PROTECTED), ("unprotected", UNPROTECTED)):
        with throw_away(settings, tiny=tiny) as home, supervised(home, {**options, **given}, learn=False):
            measured = measure(home.port, asked, rounds, round_s, with_office=name == "protected")
            found[name] = report(asyncio.run(measured))
    return {"times": TIMES, "people": PEOPLE, **found["protected"], "unprotected": found["unprotected"]}


async def measure(port: int, asked: Sequence[str], rounds: int, round_s: float, *, with_office: bool) -> Rounds:
    """Quiet, abused and office rounds in turn; the first of each warms up and does not count."""
    found: dict[str, list[list[float]]] = {"quiet": [], "abused": [], "beside_office": [], "office": []}
    heard, refused = Counter[str](), Counter[str]()
    async with AsyncExitStack() as stack:
        people, office = await _people(port, stack, ""), await _people(port, stack, OFFICE_ADDRESS)
        for _ in range(rounds + 1):
            found["quiet"].append(await _round(people, asked, round_s))
            async with abuser(port, asked[0], TIMES / PAUSE_S, heard):
                found["abused"].append(await _round(people, asked, round_s))
            if with_office:
                both = _round(people, asked, round_s), _round(office, asked, round_s, refused)
                for name, replies_s in zip(("beside_office", "office"), await asyncio.gather(*both), strict=True):
                    found[name].append(replies_s)
    kept = {name: replies_s[1:] for name, replies_s in found.items()}
    return Rounds(**kept, heard=heard, office_refused=refused["refused"])


async def _people(port: int, stack: AsyncExitStack, address: str) -> list[ChatClient]:
    people = [await ChatClient.open(port, address=address) for _ in range(PEOPLE)]
    for client in people:
        stack.push_async_callback(client.close)
    return people


def report(rounds: Rounds) -> dict[str, Any]:
    """Medians over the rounds, of the change of the 95th percentile too."""
    changes = _changes(rounds.quiet, rounds.abused)
    found = {
        "replies": sum(map(len, [*rounds.quiet, *rounds.abused])),
        "reply_ms_quiet": median_percentiles(rounds.quiet),
        "reply_ms_abused": median_percentiles(rounds.abused),
        "p95_change": _median(changes),
        "p95_changes": changes,
        "abuser_sent": rounds.heard["sent"],
        "abuser_refused": rounds.heard["error"],
    }
    if rounds.office:
        found["office"] = {
            "people": PEOPLE,
            "replies": sum(map(len, rounds.office)),
            "refused": rounds.office_refused,
            "reply_ms": median_percentiles(rounds.office),
            "p95_change": _median(_changes(rounds.quiet, rounds.beside_office)),
        }
    return found


def _changes(quiet: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    pairs = ((percentiles(a, 1000)["p95"], percentiles(b, 1000)["p95"]) for a, b in zip(quiet, other, strict=True))
    return [round(later / before - 1, 3) for before, later in pairs if before and later is not None]


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 3) if values else None


async def _round(
    people: Sequence[ChatClient], asked: Sequence[str], round_s: float, refused: Counter[str] | None = None
) -> list[float]:
    """Everybody asks at the normal rate, evenly spread; seconds to each reply. Refusals are counted in `refused`; without
    it one is an error."""
    until, found = time.monotonic() + round_s, list[float]()

    async def one(number: int, client: ChatClient) -> None:
        await asyncio.sleep(PAUSE_S * number / len(people))
        while (started := time.monotonic()) < until:
            try:
                found.append((await client.ask(asked[(number + len(found)) % len(asked)])).total_s)
            except RejoinderError:
                if refused is None:
                    raise
                refused["refused"] += 1
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
