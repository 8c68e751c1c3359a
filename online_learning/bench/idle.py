"""`rejoinder bench idle`: what open chats cost that nobody types in, and what one abuser costs the others (`abuse`).

The server's memory is read before and after the chats open. It is the real server in a process of its own, without a
learner; every socket has said hello and holds its own conversation. Replies are made before the first measure, so that
models and pools have their size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bot.domain import load_domain
from bot.errors import ConfigError, RejoinderError
from bot.settings import Settings
from online_learning.bench import abuse
from online_learning.bench.product import options_of, questions_of, supervised, throw_away
from online_learning.simulate.client import ChatClient

SPARE_FILES = 256
"""What a process has open besides sockets."""
AT_ONCE = 50
"""Handshakes at the same time."""
WARM_CHATS = 20
WARM_TURNS = 3
SETTLE_S = 2.0
"""For the garbage of handshakes to be collected."""


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`--sockets N`."""
    allow_files(args.sockets + SPARE_FILES)
    options = options_of(args) | {
        "limits.max_sockets": str(args.sockets + SPARE_FILES),
        "limits.address_sockets": str(args.sockets + SPARE_FILES),
    }
    asked = [question.text for question in questions_of(args, load_domain(settings.domain))]
    with throw_away(settings, tiny=args.tiny) as home, supervised(home, options, learn=False) as supervisor:
        report = asyncio.run(measure(home.port, supervisor.pids()["serve"], args.sockets, asked))
    given = options_of(args)
    found = abuse.run(settings, asked, given, tiny=args.tiny, rounds=args.repeats, round_s=args.round_s)
    print(json.dumps(report | {"abuser": found}))
    return 0


def allow_files(wanted: int) -> None:
    """Raise this process's limit of open files, which children inherit. Raises ConfigError when it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(f"open files: expected a limit of at least {wanted}, got {hard} (`ulimit -Hn`, as root)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def measure(port: int, pid: int, num_sockets: int, asked: list[str]) -> dict[str, Any]:
    """Open the sockets, look, and close them again."""
    await _warm(port, asked)
    await asyncio.sleep(SETTLE_S)
    before = resident_mib(pid)
    gate, bar = asyncio.Semaphore(AT_ONCE), tqdm(total=num_sockets, unit="chat", file=sys.stderr, disable=None)

    async def one() -> ChatClient:
        async with gate:
            client = await ChatClient.open(port)
            bar.update()
            return client

    clients = await asyncio.gather(*(one() for _ in range(num_sockets)))
    bar.close()
    await asyncio.sleep(SETTLE_S)
    after = resident_mib(pid)
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.close())
    await asyncio.sleep(SETTLE_S)
    return {
        "sockets": num_sockets,
        "mib": round(after - before, 1),
        "kib_each": round(1024 * (after - before) / num_sockets, 1),
        "mib_before": round(before, 1),
        "mib_after_closing": round(resident_mib(pid) - before, 1),
    }


async def _warm(port: int, asked: list[str]) -> None:
    clients = await asyncio.gather(*(ChatClient.open(port) for _ in range(WARM_CHATS)))
    for turn in range(WARM_TURNS):
        await asyncio.gather(*(client.ask(asked[(turn + i) % len(asked)]) for i, client in enumerate(clients)))
    for client in clients:
        await client.close()


def resident_mib(pid: int) -> float:
    """What the kernel holds in memory of a process. Raises RejoinderError where there is no /proc."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        raise RejoinderError(f"bench idle: expected {status} to read memory from (Linux), got none")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
