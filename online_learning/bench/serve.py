"""`rejoinder bench serve`: many chats at once on the real service, beside the same service without what makes it fast.

All are servers in processes of their own, each with a learner; the chats are websockets. A person asks, waits for the
reply, votes on every fifth one, and asks again at once; after six turns another conversation begins. The servers take
turns, a round each, so that a noisy machine is as noisy for all; figures are medians over the rounds.

Replies are approved answers; the peer makes one choice at a time and reads every text anew. With `--text` they are
generated; the peer writes one reply at a time and reads every prompt anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bot.domain import load_domain
from bot.policy.download import find_or_fetch
from bot.settings import Settings
from online_learning.bench.product import median_percentiles, options_of, questions_of, supervised, throw_away
from online_learning.evaluate import Question
from online_learning.simulate.client import ChatClient
from online_learning.statistics import seeded

CHATS = (1, 8, 32)
"""Measured when `--chats` does not say otherwise."""
TEXT_CHATS = (1, 8)
"""The same with `--text`: a peer that writes one reply at a time would need minutes for 32."""
TURNS = 6
"""Of a conversation."""
VOTE_EVERY = 5


@dataclass(frozen=True, slots=True)
class Kind:
    """What is measured: how people want their replies, which servers take part, what reuse is measured by."""

    reply: str
    chats: tuple[int, ...]
    servers: Mapping[str, Mapping[str, str]]
    """Name -> settings: ours, and ours without something."""
    read: str
    """The server's counter of tokens that it had to read."""


ACTS = Kind(
    "approved",
    CHATS,
    {"ours": {}, "batch_1": {"engine.max_batch": "1"}, "peer": {"engine.max_batch": "1", "engine.reuse": "false"}},
    "encoder_tokens_read",
)
CHOICES = replace(ACTS, read="choice_prefix_tokens_read")
"""Acts that the causal part chooses too: what of its prompts had to be read."""
TEXT = Kind(
    "generated",
    TEXT_CHATS,
    {"ours": {}, "peer": {"engine.replies_at_once": "1", "engine.prefix_tokens": "0"}},
    "prefix_tokens_read",
)


@dataclass
class Round:
    """What one round on one server measured."""

    replies_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    tokens: int = 0
    """Of the replies shown."""
    took_s: float = 0.0
    tokens_read: float = 0.0
    """Tokens that the server had to read, by its own count."""
    cpu_s: float = 0.0
    """Processor time of the server; it says how much is done where a busy machine makes wall time say little."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where to talk to it, and its process."""

    port: int
    pid: int


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`--chats N` prints one object, without it `runs: [...]`."""
    questions = questions_of(args, load_domain(settings.domain))
    kind = TEXT if args.text else CHOICES if "causal" in settings.policy.parts else ACTS
    runs = measure(settings, questions, [args.chats] if args.chats else kind.chats, kind, args)
    print(json.dumps(runs[0] if args.chats else {"runs": runs}))
    return 0


def measure(
    settings: Settings, questions: Sequence[Question], wanted: Sequence[int], kind: Kind, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """One report for each number of chats."""
    with ExitStack() as stack:
        servers, count = {}, None
        for name, options in kind.servers.items():
            home = stack.enter_context(throw_away(settings, tiny=args.tiny))
            count = count or tokens_of(home)
            supervisor = stack.enter_context(supervised(home, options_of(args) | dict(options)))
            servers[name] = Server(home.port, supervisor.pids()["serve"])
        assert count is not None, "a kind has servers"
        people = People(kind, count)
        return [asyncio.run(_run(servers, questions, chats, people, args)) for chats in wanted]


def tokens_of(settings: Settings) -> Callable[[str], int]:
    """Counts a text's tokens, by the tokenizer of the model that writes."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(find_or_fetch("causal", settings) / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


async def _run(
    servers: Mapping[str, Server],
    questions: Sequence[Question],
    num_chats: int,
    people: People,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Rounds on each server in turn; the first of each warms up and does not count."""
    rounds: dict[str, list[Round]] = {name: [] for name in servers}
    order = seeded(args.seed or 0, f"serve/{num_chats}").permutation(len(questions))
    asked = {name: cycle([questions[i].text for i in order]) for name in servers}
    bar = tqdm(total=(args.repeats + 1) * len(servers), unit="round", file=sys.stderr, disable=None)
    for _ in range(args.repeats + 1):
        for name, server in servers.items():
            rounds[name].append(await people.round(server, asked[name], num_chats, args.round_s))
            bar.update()
    bar.close()
    return report(num_chats, {name: found[1:] for name, found in rounds.items()})


def report(num_chats: int, rounds: Mapping[str, Sequence[Round]]) -> dict[str, Any]:
    """Medians over the rounds, ours and the peers', and how far apart they are."""
    found = {name: _figures(some) for name, some in rounds.items()}
    ours, peer = found["ours"], found["peer"]
    others = {name: figures for name, figures in found.items() if name not in ("ours", "peer")}
    return {
        "chats": num_chats,
        **ours,
        "peer": peer,
        **others,
        "speedup": _ratio(ours["replies_per_s"], peer["replies_per_s"]),
        "tokens_read_cut": _cut(ours["tokens_read_per_turn"], peer["tokens_read_per_turn"]),
    }


def _figures(rounds: Sequence[Round]) -> dict[str, Any]:
    return {
        "replies": sum(len(one.replies_s) for one in rounds),
        "replies_per_s": _median([len(one.replies_s) / one.took_s for one in rounds]),
        "reply_ms": median_percentiles([one.replies_s for one in rounds]),
        "ttft_ms": median_percentiles([one.first_s for one in rounds]),
        "tokens_per_s": _median([one.tokens / one.took_s for one in rounds]),
        "cpu_ms_per_reply": _median([1000 * one.cpu_s / max(1, len(one.replies_s)) for one in rounds]),
        "tokens_read_per_turn": _median([one.tokens_read / max(1, len(one.replies_s)) for one in rounds]),
    }


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 2) if values else None


def _ratio(ours: float | None, peers: float | None) -> float | None:
    return round(ours / peers, 2) if ours is not None and peers else None


def _cut(ours: float | None, peers: float | None) -> float | None:
    return round(1 - ours / peers, 4) if ours is not None and peers else None


@dataclass(frozen=True, slots=True)
class People:
    """Who asks, how they want their replies, and how these are counted."""

    kind: Kind
    count_tokens: Callable[[str], int]

    async def round(self, server: Server, asked: Iterator[str], num_chats: int, length_s: float) -> Round:
        """Everybody asks until the time is up, and hears the last reply out."""
        found, counter = Round(), self.kind.read
        read_before, cpu_before = await asyncio.to_thread(counted, server.port, counter), cpu_s(server.pid)
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(num_chats):
                group.create_task(self._chat(server.port, asked, started + length_s, found))
        found.took_s = time.monotonic() - started
        found.cpu_s = cpu_s(server.pid) - cpu_before
        found.tokens_read = await asyncio.to_thread(counted, server.port, counter) - read_before
        return found

    async def _chat(self, port: int, asked: Iterator[str], until: float, found: Round) -> None:
        """One person after another, asking without a pause until the round is over; everybody asks once."""
        while True:
            client = await ChatClient.open(port, self.kind.reply)
            for turn in range(TURNS):
                reply = await client.ask(next(asked))
                found.replies_s.append(reply.total_s)
                found.first_s.append(reply.first_delta_s)
                found.tokens += self.count_tokens(reply.text)
                if turn % VOTE_EVERY == 0:
                    await client.vote(reply.message_id, 1)
                if time.monotonic() >= until:
                    break
            await client.close()
            if time.monotonic() >= until:
                return


def counted(port: int, counter: str) -> float:
    """One of the server's counters; 0 where there is none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    with suppress(StopIteration):
        return float(next(line for line in lines if line.startswith(f"rejoinder_{counter}_total ")).split()[1])
    return 0.0


def cpu_s(pid: int) -> float:
    """Processor time a process has taken so far; 0 where there is no /proc."""
    path = Path(f"/proc/{pid}/stat")
    if not path.exists():
        return 0.0
    fields = path.read_text().rpartition(")")[2].split()  # The name before it may hold spaces.
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
