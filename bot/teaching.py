"""What operators teach the bot, and what it suggests to them. No web. (Why it chose: `bot.explaining`.)

A correction does three things: it is kept as a signal; it becomes a case, which speaks in the next choice already; and, where
the right act is one of the domain's, it becomes a lesson, a decision of the operator's own that the learner trains on. The words
of a case teach those who write generated replies (`online_learning.demonstrations`); nothing more is kept for that.
What was chosen in a lesson was not drawn, so lessons are never held out for the gate, which weighs by propensities.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from bot import render
from bot.conversation import (
    Act,
    ActKind,
    Conversation,
    Decision,
    LegalAct,
    Message,
    Signal,
    SignalKind,
    State,
    Turn,
)
from bot.domain import Domain
from bot.errors import NotAllowed, NotFound
from bot.explaining import without_case
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Case, Pair, case_of_reply
from bot.feedback.store import Store
from bot.knowledge.cases import CaseRow
from bot.policy.acts import legal_acts
from bot.policy.types import ActRequest, Choice, Policy
from bot.session_types import Found
from bot.settings import Settings
from bot.wire_errors import BadFrame

LOOKED_AT = 60
"""Newest choices among which a question is looked for that two versions answer differently."""


class Knowledge(Protocol):
    """Retrieval that remembers cases."""

    async def find(self, query: str, num_articles: int) -> Found:
        """Candidates for a question."""

    @property
    def cases(self) -> Cases:
        """Those in force."""


class Cases(Protocol):
    """Where cases speak from."""

    async def load(self, rows: Sequence[CaseRow]) -> None:
        """Take these, oldest first, in place of all before."""


class Ids(Protocol):
    """Fresh ids."""

    def conversation(self) -> str:
        """Of a conversation."""

    def message(self) -> str:
        """Of a message."""

    def decision(self) -> str:
        """Of a decision."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What the bot would say; `text` is empty where the act has no words of its own."""

    act: str
    text: str
    probability: float


class Teacher:
    """Corrections, suggestions and pairs."""

    def __init__(
        self, *, settings: Settings, domain: Domain, store: Store, policy: Policy, knowledge: Knowledge, ids: Ids
    ) -> None:
        self._settings = settings
        self._domain = domain
        self._store = store
        self._policy = policy
        self._knowledge = knowledge
        self._ids = ids
        self._loading = asyncio.Lock()
        self._correcting = asyncio.Lock()

    async def load_cases(self) -> None:
        """Let the stored cases speak; after every change of them or of the articles they name, and at the start."""
        async with self._loading:  # Else an older reading may be loaded last.
            rows = await asyncio.to_thread(self._store.desk.cases, in_force=True)
            await self._knowledge.cases.load(rows[::-1])

    # --- corrections ----------------------------------------------------------------------------------------------------
    async def correct(self, doing: Doing, message_id: str, act: str, text: str) -> Case:
        """Say what would have been right: an act, words, or both. Returns the case, which speaks from now on; said again, the
        same. Words speak as they are; an act is a lesson, too.

        Raises NotFound, BadFrame (nothing was changed, or no such act), NotAllowed (its person does not want it).
        """
        message, decision, conversation = await asyncio.to_thread(self._corrected, message_id)
        if not conversation.learn_ok:
            raise NotAllowed("its person does not want this conversation to be learned from")
        text = text.strip()
        if " ".join(text.split()) == " ".join(message.text.split()):
            text = ""  # The bot's own words, unedited, are no correction.
        if not text and act in ("", decision.act):
            raise BadFrame("correction: expected another act or other words than the bot's, got the same")
        if act not in ("", decision.act) and act not in self.acts():
            raise BadFrame(f"act: expected one of this domain's, got {act[:64]!r}")
        async with self._correcting:
            again = await asyncio.to_thread(self._said_already, doing, decision, act, text)
            return again or await self._taught(doing, message, decision, act, text)

    def _said_already(self, doing: Doing, decision: Decision, act: str, text: str) -> Case | None:
        """The newest correction in force of this choice, if the same one said the same: a request that was sent again."""
        of_all = self._store.desk.cases(decision.conversation_id, in_force=True)
        newest = next((case for case in of_all if case.decision_id == decision.id), None)
        same = newest and (newest.author, newest.text, newest.text or newest.act) == (doing.actor, text, text or act)
        return newest if same else None

    async def _taught(self, doing: Doing, message: Message, decision: Decision, act: str, text: str) -> Case:
        case_id = f"case_{secrets.token_hex(6)}"
        is_lesson = act not in ("", decision.act) and not decision.holdout
        lesson = await self._lesson(doing, decision, act) if is_lesson else ""
        case = Case(
            id=case_id,
            at=doing.at,
            author=doing.actor,
            question=decision.query,
            act=f"answer:{case_id}" if text else act,
            text=text,
            draft=message.text,
            draft_act=decision.act,
            conversation_id=message.conversation_id,
            decision_id=decision.id,
            lesson_id=lesson,
        )
        await asyncio.to_thread(self._keep, doing, case)
        await self.load_cases()
        return case

    async def teach_words(self, doing: Doing, said: Message, question: str, draft: str, draft_act: str = "") -> Case:
        """Make an operator's own reply to a question a case, once: sent again it is the same. `draft`, `draft_act`: what the
        bot had suggested. Raises NotAllowed, NotFound."""
        conversation = await asyncio.to_thread(self._store.conversation, said.conversation_id)
        if not conversation.learn_ok:
            raise NotAllowed("its person does not want this conversation to be learned from")
        found = await self._knowledge.find(question, 1)
        case_id, at, author = case_of_reply(said.id), doing.at, doing.actor
        act = f"answer:{case_id}"
        case = Case(case_id, at, author, found.query, act, said.text, draft, draft_act, conversation.id)
        async with self._correcting:
            with suppress(NotFound):
                return await asyncio.to_thread(self._store.desk.case, case_id)
            await asyncio.to_thread(self._store.desk.add_case, doing, case)
        await self.load_cases()
        return case

    async def forget(self, doing: Doing, case_id: str) -> Case:
        """Take a case out of force. Raises NotFound."""
        case = await asyncio.to_thread(self._store.desk.remove_case, doing, case_id)
        await self.load_cases()
        return case

    def acts(self) -> dict[str, str]:
        """Act id -> what people read, of everything an operator may call right."""
        answers = {f"answer:{article.id}": article.title for article in self._domain.articles.values()}
        said = {
            Act(ActKind.RESPOND, name, i).id: variant.text
            for name in self._domain.triggers
            for i, variant in enumerate(self._domain.responses.get(name, ()))
        }
        actions = {Act(ActKind.RUN, name).id: name for name in self._domain.actions if name in self._domain.triggers}
        return answers | said | actions | {Act(ActKind.HANDOFF).id: "A person takes over"}

    def _corrected(self, message_id: str) -> tuple[Message, Decision, Conversation]:
        message = self._store.message(message_id)
        if not message.decision_id:
            raise BadFrame("message_id: expected a reply that the bot chose, got another message")
        conversation = self._store.conversation(message.conversation_id)
        return message, self._store.decision(message.decision_id), conversation

    def _keep(self, doing: Doing, case: Case) -> None:
        self._store.add_signal(
            Signal(
                key=f"correction:{case.id}",
                conversation_id=case.conversation_id,
                kind=SignalKind.CORRECTION,
                value=1.0,
                author=doing.actor,
                created_at=doing.at,
                decision_id=case.decision_id,
                source="operator",
                label="" if case.text else case.act,
                comment=case.text,
            )
        )
        self._store.desk.add_case(doing, case)

    async def _lesson(self, doing: Doing, decision: Decision, act: str) -> str:
        """Store the choice as the operator would have made it; returns its decision's id."""
        legal = await asyncio.to_thread(without_case, self._store, decision)
        if act not in [known.act for known in legal]:
            legal = (*legal, LegalAct(act, self._texts(act)))
        async with self._policy.lease() as lease:
            choice = await lease.choose(ActRequest(decision.query, decision.prompt, legal, 0))
            lesson = self._as_operator(doing, decision, legal, choice, lease.version)
        lesson = replace(lesson, chosen=[known.act for known in legal].index(act))
        await asyncio.to_thread(self._store_lesson, doing, lesson)
        return lesson.id

    def _as_operator(
        self, doing: Doing, decision: Decision, legal: tuple[LegalAct, ...], choice: Choice, version: str
    ) -> Decision:
        return replace(
            decision,
            id=self._ids.decision(),
            conversation_id=self._ids.conversation(),
            person_id=doing.actor,
            turn=1,
            created_at=doing.at,
            query_ids=choice.query_ids,
            legal=legal,
            logprobs=choice.logprobs,
            mode=choice.mode,
            value=choice.value,
            version=version,
            parts=choice.parts,
            temperature=choice.temperature,
            generated=None,
            train_ok=True,
            holdout=False,
            timings_ms={},
        )

    def _store_lesson(self, doing: Doing, lesson: Decision) -> None:
        store, where = self._store, lesson.conversation_id
        store.add_conversation(Conversation(where, doing.actor, doing.at, self._domain.name, status="resolved"))
        store.add_user_message(Message(self._ids.message(), where, 0, "user", lesson.query, doing.at, "lesson"))
        reply = Message(
            self._ids.message(),
            where,
            0,
            "bot",
            self._words(lesson.act) or lesson.act,
            doing.at,
            decision_id=lesson.id,
            act=lesson.act,
            version=lesson.version,
        )
        store.add_reply(reply, lesson)
        store.add_signal(
            Signal(f"lesson:{lesson.id}", where, SignalKind.THUMB, 1.0, doing.actor, doing.at, lesson.id, "operator")
        )

    def _texts(self, act: str) -> tuple[str, ...]:
        parsed = Act.parse(act)
        article = self._domain.articles.get(parsed.target)
        if article is not None and parsed.kind is ActKind.ANSWER:
            return article.texts
        trigger = self._domain.triggers.get(parsed.target or parsed.kind.value)
        return trigger.examples if trigger else ()

    def _words(self, act: str) -> str:
        """What an act says; empty for one that asks or does, and for a case that was erased."""
        parsed = Act.parse(act)
        if parsed.kind is ActKind.ANSWER and parsed.target in self._domain.articles:
            return self._domain.articles[parsed.target].answer
        if parsed.kind is ActKind.RESPOND and parsed.target in self._domain.responses:
            return self._domain.responses[parsed.target][parsed.variant].text
        try:
            return self._store.desk.case(parsed.target).text if parsed.target.startswith("case_") else ""
        except NotFound:
            return ""

    # --- what the bot would say -----------------------------------------------------------------------------------------
    async def suggest(self, conversation_id: str) -> Suggestion:
        """A draft for the operator: the most probable act for what the person asked last. Nothing is stored."""
        messages = await asyncio.to_thread(self._store.messages, conversation_id)
        turns = tuple(Turn(line.role, line.text, line.act) for line in messages if line.role != "system")
        if not any(turn.role == "user" for turn in turns):
            raise NotFound("nobody asked anything here yet")
        policy = self._settings.policy
        found = await self._knowledge.find(render.query_text(State(conversation_id, turns)), policy.num_candidates)
        legal = legal_acts(self._domain, found.articles, found.triggers, policy.temperature, None, found.precedent)
        async with self._policy.lease() as lease:
            choice = await lease.choose(ActRequest(found.query, "", legal, 0))
        act = legal[choice.mode].act
        text = await asyncio.to_thread(self._words, act)
        return Suggestion(act, text, math.exp(choice.logprobs[choice.mode]))

    # --- pairs ----------------------------------------------------------------------------------------------------------
    async def next_pair(self, doing: Doing, left: str, right: str) -> Pair | None:
        """A question that two versions answer differently, stored as a pair in a random order; None: none was found.

        Raises NotFound, AdapterError for a version that cannot be loaded.
        """
        while (waiting := await asyncio.to_thread(self._store.desk.open_pair, left, right)) is not None:
            if await asyncio.to_thread(self._is_whole, waiting):
                return waiting
            await asyncio.to_thread(self._store.desk.drop_pair, doing, waiting.id)
        done = await asyncio.to_thread(self._store.desk.paired_decisions, left, right)
        for decision in await asyncio.to_thread(self._newest_choices, done):
            acts = [await self._mode(version, decision) for version in (left, right)]
            if acts[0] != acts[1] and all(self._words(act) for act in acts):
                sides = [(left, acts[0]), (right, acts[1])]
                secrets.SystemRandom().shuffle(sides)
                pair = Pair(f"pair_{secrets.token_hex(6)}", doing.at, decision.id, *sides[0], *sides[1])
                await asyncio.to_thread(self._store.desk.add_pair, doing, pair)
                return pair
        return None

    async def _mode(self, version: str, decision: Decision) -> str:
        async with self._policy.lease(version) as lease:
            choice = await lease.choose(ActRequest(decision.query, decision.prompt, decision.legal, 0))
        return decision.legal[choice.mode].act

    def _newest_choices(self, but: set[str]) -> list[Decision]:
        replies = self._store.newest_replies(LOOKED_AT)
        wanted = [reply.decision_id for reply in reversed(replies) if reply.decision_id not in but]
        found: Mapping[str, Decision] = self._store.decisions(wanted)
        return [found[id_] for id_ in wanted if id_ in found]

    def _is_whole(self, pair: Pair) -> bool:
        try:
            return all(self.pair_texts(pair))
        except NotFound:  # The question was erased.
            return False

    def pair_texts(self, pair: Pair) -> tuple[str, str, str]:
        """(question, left answer, right answer) of a pair."""
        question = self._store.decision(pair.decision_id).query
        return question, self._words(pair.left_act), self._words(pair.right_act)
