"""One user message in, one reply out, and the Decision that made it.

    message -> state -> retrieval -> legal acts -> lease a version -> choose -> act -> text -> (message, decision) stored

Everything costly or outside comes in by a narrow Protocol: policy, retrieval, actions, store. No web, torch or rasa_sdk.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace

from bot import render
from bot.conversation import (
    Act,
    ActKind,
    Conversation,
    Decision,
    Delta,
    Generated,
    Message,
    State,
    Turn,
    digest,
    is_holdout,
)
from bot.domain import Domain
from bot.errors import ModelError
from bot.feedback.desk_records import CaseUse
from bot.feedback.signals import rephrase_signal
from bot.feedback.store import Store
from bot.happenings import happened
from bot.language import known_language, likely_language
from bot.performing import Performer
from bot.policy.acts import FormStep, legal_acts
from bot.policy.asking import Asker
from bot.policy.grounding import ungrounded
from bot.policy.requests import reply_request
from bot.policy.types import ActRequest, Choice, Lease, Policy
from bot.session_types import Actions, Ids, Knowledge, Situation, Spoken, Tracker
from bot.settings import Settings
from bot.tracing import Span, no_span

log = logging.getLogger(__name__)

TALK_TO_A_PERSON = "Talk to a person"


class Session:
    """Makes replies for every conversation; holds no conversation itself."""

    def __init__(
        self,
        *,
        settings: Settings,
        domain: Domain,
        store: Store,
        policy: Policy,
        knowledge: Knowledge,
        actions: Actions,
        ids: Ids,
        asker: Asker,
        holdout_key: bytes,
        clock: Callable[[], float] = time.time,
        version_for: Callable[[str], str | None] = lambda _: None,
        span: Span = no_span,
    ) -> None:
        self._span = span
        self._settings = settings
        self._domain = domain
        self._store = store
        self._policy = policy
        self._knowledge = knowledge
        self._actions = actions
        self._ids = ids
        self._asker = asker
        self._holdout_key = holdout_key
        self._clock = clock
        self._version_for = version_for
        """Conversation id -> the version it is to get; None: the champion."""
        self._performer = Performer(domain, actions)

    # --- the road of a message --------------------------------------------------------------------------------------
    async def reply(self, conversation: Conversation, message: Message) -> AsyncIterator[Delta | Message]:
        """Yield the reply's pieces, then the stored message. Closing the iterator stores what was written so far."""
        if not known_language(message.text, self._domain.languages):
            language = likely_language(message.text)
            wording = self._wording("utter_unknown_language")
            yield await self._say(conversation, wording, (TALK_TO_A_PERSON,), language=language)
            return
        with self._span("retrieve"):
            situation = await self._situation(conversation, message)
        async with self._policy.lease(self._version_for(conversation.id)) as lease:
            started = time.perf_counter()
            with self._span("choose", version=lease.version, legal=len(situation.legal)):
                choice = await lease.choose(self._act_request(situation))
            choice_ms = (time.perf_counter() - started) * 1000
            decision = self._decision(situation, choice, lease.version, choice_ms)
            spoken = await self._performer.perform(Act.parse(decision.act), situation)
            async with aclosing(self._speak(lease, situation, decision, spoken)) as items:
                async for item in items:
                    yield item

    def greeting(self) -> str:
        """The bot's first words."""
        return self._wording("utter_greet")

    async def handover(self, conversation: Conversation) -> Message:
        """The person asked for a human: note it and say so."""
        return await self._say(conversation, self._wording("utter_handoff"), status="waiting")

    # --- before the choice ------------------------------------------------------------------------------------------
    async def _situation(self, conversation: Conversation, message: Message) -> Situation:
        started = time.perf_counter()
        messages = await asyncio.to_thread(self._store.messages, conversation.id)
        tried = await asyncio.to_thread(self._tried, messages, message)
        messages = [line for line in messages if line.seq <= message.seq]
        before = await asyncio.to_thread(self._tracker, conversation.id)
        state = _state(conversation.id, messages, before)
        await self._note_rephrase(messages)
        tracker, form, texts = await self._advance_form(conversation.person_id, state, before)
        found = await self._knowledge.find(render.query_text(state), self._settings.policy.num_candidates)
        temperature = self._settings.policy.temperature
        legal = legal_acts(self._domain, found.articles, found.triggers, temperature, form, found.precedent)
        legal = tuple(act for act in legal if act.act not in tried) or legal
        turn = _turn_of(messages, message)
        asked_before = tuple(line.ask_rating for line in messages if line.decision_id)
        took_ms = (time.perf_counter() - started) * 1000
        # Neither in a form, nor where its act was tried already.
        heard = found.precedent if form is None else None
        heard = heard if heard and heard.act in {act.act for act in legal} else None
        return Situation(
            conversation, state, found.query, tracker, legal, texts, turn, asked_before, took_ms, heard, before
        )

    def _tried(self, messages: Sequence[Message], message: Message) -> frozenset[str]:
        """Acts that answered this message before: asked for another answer, the policy must choose another act."""
        if not any(line.decision_id and line.seq > message.seq for line in messages):
            return frozenset()
        turn = _turn_of(messages, message)
        decided = self._store.conversation_decisions(message.conversation_id)
        return frozenset(decision.act for decision in decided if decision.turn == turn)

    async def _note_rephrase(self, messages: Sequence[Message]) -> None:
        """Asking the same again speaks against the answer in between."""
        said = [line for line in messages if line.role == "user"]
        answers = [line for line in messages if line.decision_id]
        if len(said) < 2 or not answers or answers[-1].seq < said[-2].seq:
            return
        previous = await asyncio.to_thread(self._store.decision, answers[-1].decision_id)
        signal = rephrase_signal(previous, said[-2].text, said[-1].text, self._clock())
        if signal is not None:
            await asyncio.to_thread(self._store.add_signal, signal)

    async def _advance_form(
        self, person_id: str, state: State, tracker: Tracker
    ) -> tuple[Tracker, FormStep | None, tuple[str, ...]]:
        """Let an active form take what it asked for."""
        form = tracker.active_form
        if not form:
            return tracker, None, ()
        filled = await self._actions.fill(form, state=state, person_id=person_id, domain=self._domain)
        action = next(name for name, needed in self._domain.action_forms.items() if needed == form)
        asked = Act(ActKind.ASK, filled.next_slot) if filled.next_slot else Act(ActKind.RUN, action)
        progressed = filled.next_slot != tracker.requested_slot
        after = replace(tracker, slots=tracker.slots | filled.slots, requested_slot=filled.next_slot or "")
        return after, FormStep(asked.id, progressed, action), tuple(filled.texts)

    def _act_request(self, situation: Situation) -> ActRequest:
        scores_text = "causal" in self._settings.policy.parts
        prompt = render.choice_prompt(situation.state, self._domain.persona) if scores_text else ""
        return ActRequest(situation.query, prompt, situation.legal, self._seed(situation, "act"))

    def _decision(self, situation: Situation, choice: Choice, version: str, choice_ms: float) -> Decision:
        conversation = situation.conversation
        request = self._act_request(situation)
        return Decision(
            id=self._ids.decision(),
            conversation_id=conversation.id,
            person_id=conversation.person_id,
            turn=situation.turn,
            created_at=self._clock(),
            query=request.query,
            query_ids=choice.query_ids,
            prompt=request.prompt,
            legal=situation.legal,
            logprobs=choice.logprobs,
            chosen=choice.chosen,
            mode=choice.mode,
            value=choice.value,
            version=version,
            parts=choice.parts,
            temperature=choice.temperature,
            knowledge_revision=self._knowledge.revision,
            train_ok=conversation.learn_ok,
            holdout=is_holdout(conversation.id, self._holdout_key, self._settings.learn.holdout_share),
            timings_ms={"retrieval": round(situation.retrieval_ms, 3), "choice": round(choice_ms, 3)},
        )

    # --- saying it --------------------------------------------------------------------------------------------------
    async def _speak(
        self, lease: Lease, situation: Situation, decision: Decision, spoken: Spoken
    ) -> AsyncGenerator[Delta | Message, None]:
        message = Message(
            id=self._ids.message(),
            conversation_id=decision.conversation_id,
            seq=0,
            role="bot",
            text=spoken.text,
            created_at=decision.created_at,
            decision_id=decision.id,
            act=decision.act,
            version=lease.version,
            sources=spoken.sources,
            quick_replies=spoken.quick_replies,
            ask_rating=self._asker.asks(decision, situation.asked_before),
        )
        if not self._generates(situation.conversation, spoken):
            stored = await self._store_reply(message, decision, situation, spoken)
            yield Delta(message.id, 0, message.text, lease.version)
            yield stored
            return
        async with aclosing(self._write(lease, situation, decision, spoken, message)) as items:
            async for item in items:
                yield item

    def _generates(self, conversation: Conversation, spoken: Spoken) -> bool:
        """Only answers that rest on articles are reworded: nothing else has a source to hold them to."""
        return conversation.reply_mode == "generated" and bool(spoken.sources) and self._policy.can_write

    async def _write(
        self, lease: Lease, situation: Situation, decision: Decision, spoken: Spoken, message: Message
    ) -> AsyncGenerator[Delta | Message, None]:
        settings, sources = self._settings, (spoken.text,)
        prompt = render.reply_prompt(situation.state, self._domain.persona, sources)
        seed, deadline_s = self._seed(situation, "text"), settings.engine.reply_deadline_s
        request = reply_request(settings.policy, prompt, sources, seed, situation.conversation.id, deadline_s)
        written, generated, index = "", None, 0
        try:
            async with aclosing(lease.write(request)) as pieces:
                async for piece in pieces:
                    generated = piece.generated
                    if piece.text:
                        written += piece.text
                        yield Delta(message.id, index, piece.text, lease.version)
                        index += 1
        except (asyncio.CancelledError, GeneratorExit):
            cut = replace(message, text=written.strip() or "…", stop_reason="cancelled", ask_rating=False)
            await asyncio.shield(self._store_reply(cut, decision, situation, spoken))
            raise
        except ModelError as error:
            # The approved answer is known: a broken writer must not leave the person without one.
            log.warning("generated reply: %s; the approved answer is shown", error)
            generated = None
        yield await self._store_reply(*_written(message, decision, generated, sources), situation, spoken)

    async def _store_reply(self, message: Message, decision: Decision, situation: Situation, spoken: Spoken) -> Message:
        """One transaction: a form that moved without its reply would take the answer to its last question twice."""
        with self._span("store"):
            return await asyncio.to_thread(
                self._store.add_reply,
                message,
                decision,
                tracker=asdict(spoken.tracker),
                status=spoken.status,
                language=likely_language(situation.state.turns[-1].text),
                case_use=_case_use(decision, situation),
                events=happened(situation.before, spoken.tracker, spoken.ran),
            )

    async def _say(
        self,
        conversation: Conversation,
        text: str,
        quick_replies: tuple[str, ...] = (),
        status: str = "",
        language: str = "",
    ) -> Message:
        """A message that no policy chose: it carries no decision and teaches nothing."""
        message = Message(
            id=self._ids.message(),
            conversation_id=conversation.id,
            seq=0,
            role="bot",
            text=text,
            created_at=self._clock(),
            quick_replies=quick_replies,
        )
        return await asyncio.to_thread(self._store.add_reply, message, None, status=status, language=language)

    # --- small things -----------------------------------------------------------------------------------------------
    def _wording(self, name: str) -> str:
        return self._domain.responses[name][0].text

    def _tracker(self, conversation_id: str) -> Tracker:
        record = self._store.tracker(conversation_id)
        initial = {name: slot.initial_value for name, slot in self._domain.slots.items()}
        if record is None:
            return Tracker(slots=initial)
        tracker = Tracker(**record)
        # A developer may have taken the form away since.
        is_known = tracker.active_form in self._domain.action_forms.values()
        return tracker if is_known else Tracker(slots=tracker.slots)

    def _seed(self, situation: Situation, purpose: str) -> int:
        """Of one choice's random stream: fresh, or a function of the run's seed, the conversation and the turn."""
        if self._settings.seed is None:
            return secrets.randbits(63)
        parts = (str(self._settings.seed), situation.conversation.id, str(situation.turn), purpose)
        return int(digest(*parts), 16) >> 1


def _turn_of(messages: Sequence[Message], message: Message) -> int:
    """A user message's number, from 1."""
    return sum(line.role == "user" and line.seq <= message.seq for line in messages)


def _state(conversation_id: str, messages: Sequence[Message], tracker: Tracker) -> State:
    turns = tuple(Turn(line.role, line.text, line.act) for line in messages if line.role != "system")
    return State(conversation_id, turns, dict(tracker.slots), tracker.active_form, tracker.requested_slot)


def _case_use(decision: Decision, situation: Situation) -> CaseUse | None:
    """The case that spoke in the choice."""
    heard = situation.precedent
    if heard is None:
        return None
    return CaseUse(decision.id, heard.case_id, heard.act, heard.similarity, heard.weight / decision.temperature)


def _written(
    message: Message, decision: Decision, generated: Generated | None, sources: tuple[str, ...]
) -> tuple[Message, Decision]:
    """The message and decision of a finished text; text that says what its sources do not is replaced by them."""
    if generated is None or not generated.text.strip() or ungrounded(generated.text, sources):
        return message, replace(decision, generated=None)
    written = replace(message, text=generated.text, stop_reason=generated.stop_reason)
    return written, replace(decision, generated=generated)
