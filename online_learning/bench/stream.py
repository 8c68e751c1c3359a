"""A stream of questions and thumbs through the real policy, store, rules, learner and gate, without a server.

The policy that serves is the learner's own, under the adapter it trains: between two updates that is the champion. Who
asks what, and who rates, is `simulate.users`; labels decide thumbs here and are seen by nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from bot import render
from bot.conversation import Conversation, Decision, Message, Signal, SignalKind, State, is_holdout
from bot.conversation import Turn as Said
from bot.domain import Domain
from bot.feedback.store import Store
from bot.identity import holdout_key
from bot.policy.model import BASE, ActRow, EncoderPart, draw
from bot.settings import Settings
from online_learning.config import LearnerConfig
from online_learning.evaluate import Question, Scores, scores_of
from online_learning.loop import Loop, build_loop
from online_learning.offline import OfflinePolicy
from online_learning.simulate.users import NOISES, TURNS_PER_USER, Turn, thumb, turns
from online_learning.statistics import Floats, Ints, seeded
from online_learning.update import CURRENT

BLOCK_TURNS = 32
"""Turns scored in one batch; the policy changes only between blocks."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who asks, who rates, and until when."""

    noise: str
    rate: float
    num_turns: int
    num_thumbs: int
    """The stream ends at this many thumbs, or at `num_turns`, whichever comes first."""
    seed: int


@dataclass(frozen=True, slots=True)
class Point:
    """The policy after so many turns."""

    num_turns: int
    num_thumbs: int
    scores: Scores


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one stream led to."""

    points: tuple[Point, ...]
    """At the start, at the checkpoints, at the end."""
    rights: tuple[bool, ...]
    """Whether each served reply was the right one."""
    num_thumbs: int
    updates: tuple[str, ...]
    """Outcome of each."""
    learner_s: float
    total_s: float


class Stream:
    """One home, filled turn by turn."""

    def __init__(
        self,
        settings: Settings,
        domain: Domain,
        store: Store,
        questions: Sequence[Question],
        judged: Sequence[Question],
        config: LearnerConfig | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._loop: Loop = build_loop(settings, store, config, replace(domain, tests=()))
        self._model = self._loop.learner.model
        self._policy = OfflinePolicy(self._model, domain, settings)
        texts = list(dict.fromkeys(question.text for question in (*questions, *judged)))
        self._rows = dict(zip(texts, map(_answers_only, self._policy.rows(texts)), strict=True))
        self._questions = questions
        self._judged = judged
        self._key = holdout_key(settings.home, settings.seed)
        self._num_thumbs = 0
        self._opened: set[str] = set()

    @property
    def embeddings(self) -> Embeddings:
        """What the peers see of the same questions and candidates."""
        return embeddings(self._model.encoder, self._rows)

    def run(self, plan: Plan, checkpoints: Sequence[int], progress: Callable[[int, int], None]) -> Outcome:
        """Ask, answer, rate and learn until the plan's end. `progress` is called with turns and thumbs."""
        self._loop.resume()
        started, learner_s = time.perf_counter(), 0.0
        points = [Point(0, 0, self.scores())]
        rights: list[bool] = []
        due = [mark for mark in sorted(checkpoints) if mark < plan.num_thumbs]
        asked = turns(self._questions, plan.num_turns, plan.rate, plan.seed)
        while self._num_thumbs < plan.num_thumbs and (block := list(islice(asked, BLOCK_TURNS))):
            rights += self._serve(block, plan)
            began = time.perf_counter()
            while self._loop.step():
                pass
            learner_s += time.perf_counter() - began
            if due and self._num_thumbs >= due[0]:
                points.append(Point(len(rights), self._num_thumbs, self.scores()))
                due = [mark for mark in due if mark > self._num_thumbs]
            progress(len(rights), self._num_thumbs)
        points.append(Point(len(rights), self._num_thumbs, self.scores()))
        updates = tuple(update.outcome for update in self._store.updates())
        total_s = time.perf_counter() - started
        return Outcome(tuple(points), tuple(rights), self._num_thumbs, updates, learner_s, total_s)

    def scores(self) -> Scores:
        """What the policy makes of the questions nobody asks."""
        rows = [self._rows[question.text] for question in self._judged]
        return scores_of(self._judged, self._policy.outlooks(rows, CURRENT), CURRENT)

    @torch.no_grad()
    def _serve(self, block: Sequence[Turn], plan: Plan) -> Iterator[bool]:
        rows = [self._rows[turn.question.text] for turn in block]
        logprobs_B_A = self._model.score(rows, [CURRENT] * len(rows)).logprobs_B_A.double().cpu()
        for turn, row, logprobs_A in zip(block, rows, logprobs_B_A, strict=True):
            seed = int(seeded(plan.seed, f"act {turn.number}").integers(2**62))
            decision = self._decide(turn, row, logprobs_A[: len(row.legal)], seed)
            is_right = decision.act == f"answer:{turn.question.answer}"
            if turn.rates and self._num_thumbs < plan.num_thumbs:
                self._vote(decision, thumb(NOISES[plan.noise], is_right=is_right, uniform=turn.uniform))
            yield is_right

    def _decide(self, turn: Turn, row: ActRow, logprobs_A: torch.Tensor, seed: int) -> Decision:
        """Draw an act and store it with its reply, as the server does."""
        conversation, now = f"c{turn.user}", time.time()
        if conversation not in self._opened:
            self._store.add_conversation(Conversation(conversation, f"p{turn.user}", now, self._settings.domain))
            self._opened.add(conversation)
        state = State(conversation, (Said("user", turn.question.text),))
        decision = Decision(
            id=f"d{turn.number}",
            conversation_id=conversation,
            person_id=f"p{turn.user}",
            turn=turn.number % TURNS_PER_USER + 1,
            created_at=now,
            query=render.query_text(state),
            query_ids=row.query_ids,
            prompt=row.prompt,
            legal=row.legal,
            logprobs=tuple(logprobs_A.tolist()),
            chosen=draw(logprobs_A, seed),
            mode=int(logprobs_A.argmax()),
            value=0.0,
            version=self._loop.adapters.champion().version,
            parts=self._model.parts,
            temperature=row.temperature,
            knowledge_revision="bench",
            generated=None,
            train_ok=True,
            holdout=is_holdout(conversation, self._key, self._settings.learn.holdout_share),
            timings_ms={},
        )
        reply = Message(f"m{turn.number}", conversation, 0, "bot", "", now, decision_id=decision.id, act=decision.act)
        self._store.add_reply(reply, decision)
        return decision

    def _vote(self, decision: Decision, value: int) -> None:
        self._num_thumbs += 1
        self._store.add_signal(
            Signal(
                key=f"k-{decision.id}",
                conversation_id=decision.conversation_id,
                kind=SignalKind.THUMB,
                value=float(value),
                author=decision.person_id,
                created_at=time.time(),
                decision_id=decision.id,
            )
        )


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Questions and candidates as the base encoder sees them: all that the peers are given."""

    acts: tuple[str, ...]
    """Every act that is ever a candidate."""
    states: Mapping[str, Floats]
    """Unit vector [D] by question."""
    candidates: Mapping[str, Ints]
    """Indices into `acts`, by question."""
    similarity: Mapping[str, Floats]
    """Cosine of question and candidate, in the order of `candidates`."""


def embeddings(encoder: EncoderPart, rows: Mapping[str, ActRow]) -> Embeddings:
    """The base encoder's view of prepared questions."""
    acts = tuple(sorted({act.act for row in rows.values() for act in row.legal}))
    place = {act: i for i, act in enumerate(acts)}
    states, candidates, similarity = {}, {}, {}
    for text, row in rows.items():
        state_D = encoder.embed_ids([row.query_ids], [BASE])[0]
        similarity[text] = (encoder.act_vectors(row.legal) @ state_D).cpu().numpy()
        states[text] = state_D.cpu().numpy()
        candidates[text] = np.array([place[act.act] for act in row.legal])
    return Embeddings(acts, states, candidates, similarity)


def _answers_only(row: ActRow) -> ActRow:
    return replace(row, legal=tuple(act for act in row.legal if act.act.startswith("answer:")))


def bench_settings(settings: Settings, home: Path, seed: int) -> Settings:
    """A home of the bench's own, in which every thumb settles at once and one person's word counts."""
    learn = replace(
        settings.learn, quorum=1, settle_s=0.0, cap_per_person_topic=1000, keep_versions=10**6, holdout_share=0.15
    )
    return replace(settings, home=home, seed=seed, learn=learn)
