"""`rejoinder bench latency`: how long a person waits while the learner works, and how long a thumb takes to be served.

One chat on the real service. It votes on 32 replies, which starts an update; then it goes on asking, without voting,
until the new version serves. Replies are timed throughout; generated ones in a chat of their own, while the learner
has another 32 thumbs to learn from.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from tqdm import tqdm

from bot.domain import load_domain
from bot.feedback.store import Store
from bot.settings import Settings
from online_learning.bench.product import options_of, percentiles, questions_of, supervised, throw_away
from online_learning.evaluate import Question
from online_learning.simulate.client import ChatClient, Reply
from online_learning.statistics import seeded

THINK_S = 0.2
"""Between a reply and the next question: a chat without any pause would be a load test."""
NUM_GENERATED = 20
"""Generated replies that are timed."""


@dataclass
class Measured:
    """Seconds of one run."""

    replies_s: list[float] = field(default_factory=list)
    while_updating_s: list[float] = field(default_factory=list)
    """The share of `replies_s` that ended while an update ran."""
    first_tokens_s: list[float] = field(default_factory=list)
    thumb_to_version_s: list[float] = field(default_factory=list)
    """From the acknowledgement of the thumb that made an update due to the page hearing of the version."""
    num_refused: int = 0


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`--messages N` approved replies (at least) and a few generated ones."""
    with throw_away(settings, tiny=args.tiny) as home:
        questions = questions_of(args, load_domain(settings.domain))
        report = run(home, questions, args.messages, settings.seed or 0, options_of(args))
    print(json.dumps(report))
    return 0


def run(
    settings: Settings, questions: Sequence[Question], num_messages: int, seed: int, options: Mapping[str, str]
) -> dict[str, Any]:
    """Measure in an empty home; the report."""
    order = seeded(seed, "latency").permutation(len(questions))
    with supervised(settings, options) as _, Store(settings.database) as store:
        measured = asyncio.run(_measure(settings, store, cycle([questions[i] for i in order]), num_messages))
    return {
        "n": len(measured.replies_s),
        "reply_ms": percentiles(measured.replies_s, 1000),
        "reply_ms_while_updating": percentiles(measured.while_updating_s, 1000),
        "n_while_updating": len(measured.while_updating_s),
        "ttft_ms": percentiles(measured.first_tokens_s, 1000),
        "n_generated": len(measured.first_tokens_s),
        "thumb_to_version_s": {"encoder": percentiles(measured.thumb_to_version_s)["p50"]},
        "thumb_to_version_max_s": max(measured.thumb_to_version_s, default=None),
        "versions": len(measured.thumb_to_version_s),
        "refused_by_gate": measured.num_refused,
        "settle_s": settings.learn.settle_s,
    }


async def _measure(settings: Settings, store: Store, asked: Iterator[Question], num_messages: int) -> Measured:
    measured, bar = Measured(), tqdm(total=num_messages, unit="reply", file=sys.stderr, disable=None)
    chat = _Chat(settings, store, asked, measured, bar)
    await chat.ask()
    measured.replies_s.clear()  # the first one warms caches
    while len(measured.replies_s) < num_messages:
        await chat.vote_until_due()
        await chat.ask_until_learned()
    await chat.vote_until_due()
    await _generate(settings, asked, measured)
    bar.close()
    return measured


class _Chat:
    """One person's chat, in conversations of five turns."""

    def __init__(
        self, settings: Settings, store: Store, asked: Iterator[Question], measured: Measured, bar: Any
    ) -> None:
        self._settings = settings
        self._store = store
        self._asked = asked
        self._measured = measured
        self._bar = bar
        self._client: ChatClient | None = None
        self._num_asked = 0

    async def ask(self) -> tuple[ChatClient, Question, Reply]:
        """One timed reply."""
        if self._client is not None and self._num_asked % 5 == 0:
            await self._client.close()
            self._client = None
        self._client = self._client or await ChatClient.open(self._settings.port)
        self._num_asked += 1
        question = next(self._asked)
        await asyncio.sleep(THINK_S)
        reply = await self._client.ask(question.text)
        self._measured.replies_s.append(reply.total_s)
        if self._said().get("state") == "updating":
            self._measured.while_updating_s.append(reply.total_s)
        self._bar.update()
        return self._client, question, reply

    async def vote_until_due(self) -> None:
        """As many true thumbs as start an update."""
        for _ in range(self._settings.learn.update_every):
            client, question, reply = await self.ask()
            await client.vote(reply.message_id, 1 if reply.act == f"answer:{question.answer}" else -1)

    async def ask_until_learned(self) -> None:
        """Go on without voting until the update has ended and, if it published, its version serves."""
        voted_at, before = time.monotonic(), self._store.last_update()
        while (update := self._store.last_update()) is None or (before is not None and update.seq == before.seq):
            await self.ask()
        if update.outcome != "published":
            self._measured.num_refused += 1
            return
        while (await self.ask())[0].version < update.version:
            pass
        self._measured.thumb_to_version_s.append(round(time.monotonic() - voted_at, 2))

    def _said(self) -> dict[str, Any]:
        return self._store.status("learner") or {}


async def _generate(settings: Settings, asked: Iterator[Question], measured: Measured) -> None:
    """First tokens of generated replies; the first reply of all loads the model and does not count."""
    client, is_warm = await ChatClient.open(settings.port, "generated"), False
    while len(measured.first_tokens_s) < NUM_GENERATED:
        reply = await client.ask(next(asked).text)
        if reply.num_deltas > 1 and is_warm:
            measured.first_tokens_s.append(reply.first_delta_s)
        is_warm = is_warm or reply.num_deltas > 1
    await client.close()
