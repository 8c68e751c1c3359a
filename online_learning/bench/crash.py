"""`rejoinder bench crash`: kill -9 of server and learner at random points, while people talk and vote.

Afterwards the store is read: every acknowledged vote must be there once, every message answered once, and every reward
in exactly one update. The supervisor alone brings the processes back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from bot.domain import load_domain
from bot.errors import RejoinderError
from bot.feedback.store import ConversationFilter, Store
from bot.feedback.store_connection import open_reader
from bot.identity import home_secret
from bot.policy.adapters import AdapterStore
from bot.settings import Settings
from bot.supervisor import Supervisor
from bot.up import is_ready
from online_learning.bench.product import options_of, percentiles, questions_of, supervised, throw_away
from online_learning.bench.steadfast import Steadfast
from online_learning.evaluate import Question

NUM_PEOPLE = 6
TURNS_A_CONVERSATION = 5
MAX_THINK_S = 0.2
"""Longest pause before a question: without any, the people alone would keep a processor from the restarts."""
LEARN = {"learn.settle_s": "0", "learn.update_every": "8", "learn.poll_s": "0.05"}
BACK_TIMEOUT_S = 120.0
MAX_CALM_S = 1.5
"""Longest time from being back to the next kill."""
EARLY = 0.3
"""Share of kills that hit a process on its way back."""
POLL_S = 0.02


@dataclass
class Crashes:
    """What happened."""

    kills: Counter[str] = field(default_factory=Counter)
    recovered_s: dict[str, list[float]] = field(default_factory=lambda: {"serve": [], "learn": []})


@dataclass(frozen=True, slots=True)
class Audit:
    """What the store and the adapter folder say afterwards; all numbers are 0 and all facts true when all is well."""

    lost: int
    """Acknowledged votes and messages that are not there, or say something else."""
    doubled: int
    """Votes, messages and replies that are there more than once."""
    miscounted: int
    """Updates that did not take in exactly the rewards between their cursors."""
    is_intact: bool
    """SQLite's own integrity check."""
    champion_is_last: bool
    """The version that serves is the one published last, and there is none that nobody committed."""


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`--kills N` of each process; exit 1 when anything was lost or counted twice."""
    with throw_away(settings, tiny=args.tiny) as home:
        questions = questions_of(args, load_domain(settings.domain))
        report = run(home, questions, args.kills, settings.seed or 0, options_of(args))
    print(json.dumps(report))
    return 0 if is_well(report) else 1


def is_well(report: Mapping[str, Any]) -> bool:
    """Whether nothing was lost, doubled or miscounted."""
    bad = report["lost"] + report["doubled"] + report["miscounted"]
    return bad == 0 and bool(report["integrity_ok"]) and bool(report["champion_is_last"])


def run(
    settings: Settings,
    questions: Sequence[Question],
    num_kills: int,
    seed: int,
    options: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Kill each process `num_kills` times under traffic in an empty home; the report."""
    with supervised(settings, LEARN | dict(options)) as supervisor, Store(settings.database) as store:
        people = [Steadfast(settings.port, f"person{i}") for i in range(NUM_PEOPLE)]
        crashes = asyncio.run(_storm(settings, supervisor, store, people, questions, num_kills, seed))
    found = audit(settings, people)
    return {
        "server_kills": crashes.kills["serve"],
        "learner_kills": crashes.kills["learn"],
        "acked": sum(len(person.acked) for person in people),
        "lost": found.lost,
        "doubled": found.doubled,
        "miscounted": found.miscounted,
        "integrity_ok": found.is_intact,
        "champion_is_last": found.champion_is_last,
        "recovered_s": percentiles(crashes.recovered_s["serve"]),
        "learner_recovered_s": percentiles(crashes.recovered_s["learn"]),
        "reconnects": sum(person.num_reconnects for person in people),
        **_progress(settings),
    }


# --- the storm --------------------------------------------------------------------------------------------------------
async def _storm(
    settings: Settings,
    supervisor: Supervisor,
    store: Store,
    people: Sequence[Steadfast],
    questions: Sequence[Question],
    num_kills: int,
    seed: int,
) -> Crashes:
    crashes, over = Crashes(), asyncio.Event()
    bar = tqdm(total=2 * num_kills, unit="kill", file=sys.stderr, disable=None)
    talking = [
        asyncio.create_task(_talk(person, questions, over, random.Random(f"{seed}:{person.name}"))) for person in people
    ]
    killing = [
        _kill(name, num_kills, settings, supervisor, store, crashes, bar, random.Random(f"{seed}:{name}"))
        for name in ("serve", "learn")
    ]
    ended = asyncio.gather(*killing)
    # Whoever talks ends only by a fault, which must not wait for the last kill.
    first: set[asyncio.Future[Any]] = {ended, *talking}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    for task in talking:
        if task.done():
            task.result()
    await ended
    over.set()
    await asyncio.gather(*talking)
    await _until(lambda: _has_learned(store), "the learner with everything taken in")
    bar.close()
    return crashes


async def _talk(person: Steadfast, questions: Sequence[Question], over: asyncio.Event, rng: random.Random) -> None:
    """Ask and vote on every reply, in conversations of five turns."""
    while not over.is_set():
        for _ in range(TURNS_A_CONVERSATION):
            question = rng.choice(questions)
            await asyncio.sleep(rng.uniform(0.0, MAX_THINK_S))
            reply = await person.ask(question.text)
            if reply["can_vote"]:
                await person.vote(reply["id"], 1 if reply["act"] == f"answer:{question.answer}" else -1)
            if reply["act"] == "handoff":
                break
        await person.leave()


async def _kill(
    name: str,
    num_kills: int,
    settings: Settings,
    supervisor: Supervisor,
    store: Store,
    crashes: Crashes,
    bar: Any,
    rng: random.Random,
) -> None:
    """kill -9 one child again and again."""
    while crashes.kills[name] < num_kills:
        await asyncio.sleep(rng.uniform(0.0, MAX_CALM_S))
        pid = supervisor.pids().get(name)
        if pid is None:
            await asyncio.sleep(POLL_S)
            continue
        killed_at, wall_at = time.monotonic(), time.time()
        os.kill(pid, signal.SIGKILL)
        crashes.kills[name] += 1
        bar.update()
        if rng.random() < EARLY and crashes.kills[name] < num_kills:
            continue
        if name == "serve":
            await _until(lambda pid=pid: supervisor.pids().get("serve") not in (None, pid), "a new server")
            await _until(lambda: is_ready(settings), "the server")
        else:
            await _until(lambda at=wall_at: _heartbeat(store) > at, "the learner")
        crashes.recovered_s[name].append(time.monotonic() - killed_at)


async def _until(holds: Any, what: str) -> None:
    deadline = time.monotonic() + BACK_TIMEOUT_S
    while not await asyncio.to_thread(holds):
        if time.monotonic() > deadline:
            raise RejoinderError(f"expected {what} to be back within {BACK_TIMEOUT_S:.0f} s")
        await asyncio.sleep(POLL_S)


def _heartbeat(store: Store) -> float:
    return float((store.status("learner") or {}).get("at", 0.0))


def _has_learned(store: Store) -> bool:
    """Everything is settled and fewer rewards are left than start an update."""
    last = store.last_update()
    left = store.last_reward_seq() - (last.cursor if last else 0)
    said = store.status("learner") or {}
    waits = said.get("state") == "waiting" and said.get("fresh") == left
    return waits and left < int(LEARN["learn.update_every"]) and _all_settled(store)


def _all_settled(store: Store) -> bool:
    return store.conversations_to_settle(store.settled_seq(), time.time())[1] == store.settled_seq()


# --- afterwards -------------------------------------------------------------------------------------------------------
def audit(settings: Settings, people: Sequence[Steadfast]) -> Audit:
    """Compare what was acknowledged with what is stored."""
    adapters = AdapterStore(settings.adapters, home_secret(settings.home))
    with Store(settings.database, readonly=True) as store:
        stored = _stored(store)
        updates = store.updates(1_000_000)
        published = [update.version for update in updates if update.outcome == "published"]
        cursors = [0, *(update.cursor for update in updates)]
        miscounted = sum(
            update.metrics.get("fresh", 0) != _fresh_between(store, settings, before, after)
            for update, (before, after) in zip(updates, pairwise(cursors), strict=True)
        )
    acked = {key: vote for person in people for key, vote in person.acked.items()}
    sent = {client_id for person in people for client_id in person.sent}
    lost = sum(stored.votes.get(key) != [vote] for key, vote in acked.items() if len(stored.votes.get(key, [])) < 2)
    lost += len(sent - set(stored.asked))
    return Audit(
        lost=lost,
        doubled=stored.num_doubled,
        miscounted=miscounted,
        is_intact=_integrity(settings),
        champion_is_last=adapters.versions() == published
        and adapters.champion().version == max(published, default=adapters.champion().version),
    )


@dataclass
class _Stored:
    votes: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def num_doubled(self) -> int:
        counts = [*map(len, self.votes.values()), *self.asked.values(), *self.answered.values()]
        return sum(count - 1 for count in counts)


def _stored(store: Store) -> _Stored:
    found = _Stored()
    for row in store.list_conversations(ConversationFilter(limit=1_000_000)):
        name = row.conversation.id
        messages = store.messages(name)
        replies = {message.decision_id: message.id for message in messages if message.decision_id}
        found.asked.update(message.client_id for message in messages if message.client_id)
        found.answered.update((name, decision.turn) for decision in store.conversation_decisions(name))
        for said in store.signals(name):
            if said.kind == "thumb":
                found.votes.setdefault(said.key, []).append((replies[said.decision_id], int(said.value)))
    return found


def _fresh_between(store: Store, settings: Settings, before: int, after: int) -> int:
    """Rows in force at `after` that were not there at `before`."""
    return sum(row.reward.seq > before for row in store.window(after, settings.learn.window))


def _integrity(settings: Settings) -> bool:
    with closing(open_reader(settings.database)) as conn:
        return [row[0] for row in conn.execute("PRAGMA integrity_check")] == ["ok"]


def _progress(settings: Settings) -> dict[str, int]:
    with Store(settings.database, readonly=True) as store:
        updates, counts = store.updates(1_000_000), store.counts()
    published = sum(update.outcome == "published" for update in updates)
    return {"updates": len(updates), "versions": published, "replies": counts["decisions"]}
