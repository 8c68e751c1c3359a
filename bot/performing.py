"""What an act says and does: articles, wordings, forms and the domain's actions. Knows no policy, store or stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from bot.actions.responses import fill_response
from bot.conversation import Act, ActKind
from bot.domain import Domain
from bot.happenings import action_ran
from bot.policy.acts import CANCELLED
from bot.session_types import Actions, Situation, Spoken, Tracker


class Performer:
    """Performs the acts of one domain; holds no conversation."""

    def __init__(self, domain: Domain, actions: Actions) -> None:
        self._domain = domain
        self._actions = actions
        self._performers: dict[ActKind, Callable[[Act, Situation], Awaitable[Spoken]]] = {
            ActKind.ANSWER: self._answer,
            ActKind.RESPOND: self._respond,
            ActKind.RUN: self._run,
            ActKind.ASK: self._ask,
            ActKind.CLARIFY: self._clarify,
            ActKind.HANDOFF: self._handoff,
        }

    async def perform(self, act: Act, situation: Situation) -> Spoken:
        """What the bot says for this act. What an action raises is raised."""
        return await self._performers[act.kind](act, situation)

    async def _answer(self, act: Act, situation: Situation) -> Spoken:
        if situation.precedent is not None and situation.precedent.act == act.id and situation.precedent.text:
            # An operator's own words: shown as they are, and resting on no article.
            return Spoken(situation.precedent.text, situation.tracker)
        article = self._domain.articles[act.target]
        return Spoken(article.answer, situation.tracker, sources=(article.id,))

    async def _respond(self, act: Act, situation: Situation) -> Spoken:
        variant, tracker = self._domain.responses[act.target][act.variant], situation.tracker
        if act.target == CANCELLED:
            tracker = Tracker(slots=tracker.slots)
        return Spoken(variant.text, tracker, quick_replies=variant.buttons)

    async def _clarify(self, act: Act, situation: Situation) -> Spoken:
        titles = tuple(self._domain.articles[name].title for name in act.target.split("|"))
        return Spoken(self._wording("utter_clarify"), situation.tracker, quick_replies=titles)

    async def _handoff(self, _: Act, situation: Situation) -> Spoken:
        return Spoken(self._wording("utter_handoff"), situation.tracker, status="waiting")

    async def _ask(self, act: Act, situation: Situation) -> Spoken:
        form, tracker = situation.tracker.active_form, replace(situation.tracker, requested_slot=act.target)
        names = (f"utter_ask_{form}_{act.target}", f"utter_ask_{act.target}")
        name = next((name for name in names if name in self._domain.responses), names[1])
        variant = fill_response(self._domain.responses[name][0], tracker.slots)
        text = "\n\n".join((*situation.form_texts, variant.text))
        return Spoken(text, tracker, quick_replies=variant.buttons)

    async def _run(self, act: Act, situation: Situation) -> Spoken:
        """Run an action; one that needs a form starts it, and runs at once when the message already filled it."""
        form, tracker = self._domain.action_forms.get(act.target), situation.tracker
        if form and tracker.active_form != form:
            situation = await self._start_form(form, situation)
            tracker = situation.tracker
            if tracker.requested_slot:
                return await self._ask(Act(ActKind.ASK, tracker.requested_slot), situation)
        state = replace(situation.state, slots=tracker.slots)
        person_id = situation.conversation.person_id
        # At least once: what it does outside cannot be part of the transaction that stores the reply. A crash (or a
        # stop) in between leaves the message unanswered and the form as it was, so the action runs again when the
        # message is answered again. Actions must bear that (the README tells developers).
        done = await self._actions.run(act.target, state=state, person_id=person_id, domain=self._domain)
        text = "\n\n".join((*situation.form_texts, *done.texts))
        after, ran = Tracker(slots=tracker.slots | done.slots), action_ran(act.target, done)
        return Spoken(text, after, quick_replies=tuple(done.buttons), ran=ran)

    async def _start_form(self, form: str, situation: Situation) -> Situation:
        """Empty the form's slots, then let it take what the message already says."""
        slots = situation.tracker.slots | dict.fromkeys(self._domain.forms[form])
        state = replace(situation.state, slots=slots, active_form=form, requested_slot="")
        person_id = situation.conversation.person_id
        filled = await self._actions.fill(form, state=state, person_id=person_id, domain=self._domain)
        tracker = Tracker(slots | filled.slots, form, filled.next_slot or "")
        return replace(situation, tracker=tracker, form_texts=tuple(filled.texts))

    def _wording(self, name: str) -> str:
        return self._domain.responses[name][0].text
