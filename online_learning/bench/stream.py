"""A scenario played to the real policy, store, rules, learner and gate, without a server.

The policy that serves is the learner's own, under the adapter it trains: between two updates that is the champion.
Right acts decide thumbs here and are seen by nothing else. Each candidate is judged on the questions nobody asks after
the gate has spoken: what is found is noted, and neither gate nor learner is told.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bot import render
from bot.conversation import Conversation, Decision, Message, Signal, SignalKind, State, is_holdout
from bot.conversation import Turn as Said
from bot.domain import Domain
from bot.feedback.store import Store
from bot.identity import holdout_key
from bot.policy.asking import Asker
from bot.policy.model import ActRow, draw
from bot.settings import Settings
from online_learning.bench.scenario import Marks, Plan, Scenario, answered, is_right, label, marks_of
from online_learning.bench.verdicts import Judged
from online_learning.bench.views import Embeddings, embeddings
from online_learning.config import LearnerConfig
from online_learning.gate import Verdict
from online_learning.loop import Loop
from online_learning.offline import OfflinePolicy
from online_learning.process import build_loop
from online_learning.simulate.users import NOISES, Turn
from online_learning.statistics import seeded
from online_learning.update import CURRENT

OPERATOR = "operator:warmstart"


@dataclass(frozen=True, slots=True)
class Point:
    """The policy after so many turns."""

    phase: int
    num_turns: int
    num_thumbs: int
    marks: Marks
    """Of the judged questions that the phase's articles can answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one stream led to."""

    points: tuple[Point, ...]
    """At the beginning and the end of each phase, and at the checkpoints between."""
    rights: tuple[bool, ...]
    """Whether each served reply was right; an operator's turns are left out."""
    rated: frozenset[int]
    """Numbers of the turns that got a thumb."""
    num_besides: Mapping[str, int]
    """Signals besides thumbs, by kind; `asked_after_wrong`: turns that followed a wrong reply in a conversation."""
    updates: tuple[str, ...]
    """Outcome of each."""
    verdicts: tuple[Judged, ...]
    """The gate's, with what each candidate was truly worth."""
    learner_s: float
    """Of the stream; what an operator tells before it is left out."""
    total_s: float

    @property
    def num_thumbs(self) -> int:
        """Besides an operator's."""
        return len(self.rated)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A turn with what the policy makes of it."""

    turn: Turn
    row: ActRow
    logprobs_A: torch.Tensor


class Stream:
    """One home, filled turn by turn."""

    def __init__(
        self, settings: Settings, store: Store, scenario: Scenario, plan: Plan, config: LearnerConfig | None = None
    ) -> None:
        self._settings = settings
        self._store = store
        self._scenario = scenario
        self._plan = plan
        self._loop: Loop = build_loop(settings, store, config, replace(scenario.domain, tests=()), self._note)
        self._model = self._loop.learner.model
        self._policy = OfflinePolicy(self._model, scenario.domain, settings)
        self._rows = self._prepared()
        self._key = holdout_key(settings.home, settings.seed)
        self._asker = Asker(settings.learn.ask_share if plan.asked else 0.0)
        self._asked_before: defaultdict[str, list[bool]] = defaultdict(list)
        self._num_said: Counter[str] = Counter()
        self._last: dict[str, tuple[Decision, bool]] = {}
        self._besides: Counter[str] = Counter()
        self._phase = 0
        self._points: list[Point] = []
        self._verdicts: list[Judged] = []
        self._champion: Marks = {}
        self._rights: list[bool] = []
        self._rated: set[int] = set()
        self._learner_s = 0.0
        self._judging_s = 0.0

    def _prepared(self) -> list[dict[str, ActRow]]:
        """By phase, rows by question; neighbouring phases of one domain share them."""
        tables: list[dict[str, ActRow]] = []
        domain: Domain | None = None
        for phase in self._scenario.phases:
            table: dict[str, ActRow] = tables[-1] if phase.domain is domain else {}
            domain = phase.domain
            judged = [self._scenario.judged[i] for i in self._scenario.judged_in(phase)]
            asked = dict.fromkeys(question.text for question in (*phase.questions, *judged))
            table |= self._looked_up(domain, [text for text in asked if text not in table])
            tables.append(table)
        return tables

    def _looked_up(self, domain: Domain, texts: Sequence[str]) -> dict[str, ActRow]:
        same = domain is self._scenario.domain
        policy = self._policy if same else OfflinePolicy(self._model, domain, self._settings)
        rows = policy.rows(texts) if texts else []
        return {
            text: replace(row, legal=self._scenario.legal(row.legal)) for text, row in zip(texts, rows, strict=True)
        }

    @property
    def embeddings(self) -> Embeddings:
        """What the peers see of the same questions and candidates."""
        return embeddings(self._model.encoder, self._rows)

    def run(self, checkpoints: Sequence[int], progress: Callable[[int, int], None]) -> Outcome:
        """Ask, answer, rate and learn until the plan's end. `checkpoints`: thumbs, or turns where the plan ends by
        turns, after which the policy is judged. `progress` is called with turns and thumbs."""
        self._loop.resume()
        started = time.perf_counter()
        for number in range(len(self._scenario.phases)):
            self._play(number, checkpoints, progress)
        return Outcome(
            points=tuple(self._points),
            rights=tuple(self._rights),
            rated=frozenset(self._rated),
            num_besides=dict(self._besides),
            updates=tuple(update.outcome for update in self._store.updates(1_000_000)),
            verdicts=tuple(self._verdicts),
            learner_s=self._learner_s,
            total_s=time.perf_counter() - started,
        )

    def _play(self, number: int, checkpoints: Sequence[int], progress: Callable[[int, int], None]) -> None:
        """One phase."""
        self._phase = number
        self._judge()
        phase = self._scenario.phases[number]
        talk = phase.talk()
        block = next(talk, None)
        while block and not self._is_over:
            before = self._count
            rights = self._serve(number, block)
            took_s = self._learn()
            self._learner_s += 0.0 if phase.told else took_s
            block = answered(talk, rights)
            if block and any(before < mark <= self._count for mark in checkpoints) and not self._is_over:
                self._judge()
            progress(len(self._rights), len(self._rated))
        self._judge()

    @property
    def _is_over(self) -> bool:
        return len(self._rated) >= self._plan.num_thumbs

    @property
    def _count(self) -> int:
        """What checkpoints are counted in."""
        by_turns = self._plan.rate < 1 and self._plan.num_thumbs >= self._plan.num_turns
        return len(self._rights) if by_turns else len(self._rated)

    def _learn(self) -> float:
        """Seconds it took, without those of judging candidates."""
        began, judging_s = time.perf_counter(), self._judging_s
        while self._loop.step():
            pass
        return time.perf_counter() - began - (self._judging_s - judging_s)

    # --- judging ------------------------------------------------------------------------------------------------------
    def _judge(self) -> None:
        """Note what the policy that serves makes of the questions nobody asks."""
        self._champion = self._marks()
        self._points.append(Point(self._phase, len(self._rights), len(self._rated), self._champion))

    def _note(self, verdict: Verdict) -> None:
        """What a candidate was truly worth beside the champion, once the gate has spoken."""
        began, candidate = time.perf_counter(), self._marks()
        counts = len(self._rights), len(self._rated)
        self._verdicts.append(Judged(*counts, verdict.reasons, self._champion["right"], candidate["right"]))
        if verdict.passed:
            self._champion = candidate
        self._judging_s += time.perf_counter() - began

    def _marks(self) -> Marks:
        judged = self._scenario.judged_in(self._scenario.phases[self._phase])
        rows = [self._rows[self._phase][self._scenario.judged[i].text] for i in judged]
        return marks_of(self._scenario, judged, self._policy.outlooks(rows, CURRENT))

    # --- replies ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def _serve(self, number: int, block: Sequence[Turn]) -> list[bool]:
        """Answer and hear a block; whether each reply was right."""
        rows = [self._rows[number][turn.question.text] for turn in block]
        logprobs_B_A = self._model.score(rows, [CURRENT] * len(rows)).logprobs_B_A.double().cpu()
        triples = zip(block, rows, logprobs_B_A, strict=True)
        asked = [_Asked(turn, row, logprobs_A[: len(row.legal)]) for turn, row, logprobs_A in triples]
        if self._scenario.phases[number].told:
            return [self._tell(one) for one in asked]
        rights = [self._hear(one) for one in asked]
        self._rights += rights
        return rights

    def _hear(self, asked: _Asked) -> bool:
        """One person's turn: the reply, the thumb, and what else they do."""
        plan, turn, chat = self._plan, asked.turn, f"c{asked.turn.user}"
        before, was_right = self._last.get(chat, (None, True))
        reply = self._reply(chat, f"p{turn.user}", f"d{turn.number}", asked)
        right = is_right(reply.act, turn.question)
        if not self._is_over and (turn.rates or self._answers_when_asked(turn)):
            p_up = self._scenario.p_up(turn.question, reply.act, NOISES[plan.noise])
            self._vote(reply, 1 if turn.uniform < p_up else -1, reply.person_id)
            self._rated.add(turn.number)
        for signal in self._scenario.besides(turn, reply, right, before):
            self._store.add_signal(signal)
            self._besides[signal.kind.value] += 1
        self._besides["asked_after_wrong"] += not was_right
        self._last[chat] = reply, right
        return right

    def _answers_when_asked(self, turn: Turn) -> bool:
        """Whether the reply just given asked for a thumb and gets one."""
        was_asked = self._asked_before[f"c{turn.user}"][-1]
        return was_asked and bool(seeded(self._plan.seed, f"asked {turn.number}").random() < self._plan.asked)

    def _tell(self, asked: _Asked) -> bool:
        """An operator's turn: the drawn reply is confirmed or refused, and a refused one replaced by the right act.

        The replacement was not drawn, so its stored probability is no propensity. Such rows never go to the gate,
        which weighs by propensities; in the loss the weight is pi_prox / mu of a row scored under its own version.
        """
        chat, name, wanted = f"w{asked.turn.user}", f"wd{asked.turn.number}", label(asked.turn.question)
        reply = self._reply(chat, OPERATOR, name, asked)
        right = is_right(reply.act, asked.turn.question)
        self._vote(reply, 1 if right else -1, OPERATOR, source="operator")
        acts = [act.act for act in asked.row.legal]
        if not right and not reply.holdout and wanted in acts:
            shown = self._reply(chat, OPERATOR, f"{name}-right", asked, acts.index(wanted))
            self._vote(shown, 1, OPERATOR, source="operator")
        return right

    def _reply(self, conversation: str, person: str, name: str, asked: _Asked, chosen: int | None = None) -> Decision:
        """Draw an act, or take `chosen`, and store it with its reply, as the server does."""
        row, logprobs_A = asked.row, asked.logprobs_A
        now = time.time()
        if not self._num_said[conversation]:
            self._store.add_conversation(Conversation(conversation, person, now, self._settings.domain))
        self._num_said[conversation] += 1
        if chosen is None:
            chosen = draw(logprobs_A, int(seeded(self._plan.seed, f"act {name[1:]}").integers(2**62)))
        state = State(conversation, (Said("user", asked.turn.question.text),))
        decision = Decision(
            id=name,
            conversation_id=conversation,
            person_id=person,
            turn=self._num_said[conversation],
            created_at=now,
            query=render.query_text(state),
            query_ids=row.query_ids,
            prompt=row.prompt,
            legal=row.legal,
            logprobs=tuple(logprobs_A.tolist()),
            chosen=chosen,
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
        asks = person != OPERATOR and self._asker.asks(decision, self._asked_before[conversation])
        self._asked_before[conversation].append(asks)
        reply = Message(
            f"m-{name}", conversation, 0, "bot", "", now, decision_id=decision.id, act=decision.act, ask_rating=asks
        )
        self._store.add_reply(reply, decision)
        return decision

    def _vote(self, decision: Decision, value: int, author: str, source: str = "user") -> None:
        self._store.add_signal(
            Signal(
                key=f"k-{decision.id}",
                conversation_id=decision.conversation_id,
                kind=SignalKind.THUMB,
                value=float(value),
                author=author,
                created_at=time.time(),
                decision_id=decision.id,
                source=source,
            )
        )


def bench_settings(settings: Settings, home: Path, seed: int) -> Settings:
    """A home of the bench's own, in which every thumb settles at once and one person's word counts."""
    learn = replace(
        settings.learn, quorum=1, settle_s=0.0, cap_per_person_topic=1000, keep_versions=10**6, holdout_share=0.15
    )
    return replace(settings, home=home, seed=seed, learn=learn)
