"""What a benchmarked stream consists of: who asks what, what may be done, what pleases, what is measured. Pure.

A setting (`plain`, `drift`, `scope`, `second`, `wording`) makes a `Scenario` of the given files; `stream` plays it to the
real policy and learner, `peers` to the others. Right acts are known here and by the simulated people alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from bot.conversation import Act, ActKind, Decision, LegalAct, Signal
from bot.domain import Domain
from online_learning.evaluate import Question
from online_learning.offline import Outlook
from online_learning.simulate.users import TURNS_PER_USER, Noise, Turn, turns
from online_learning.statistics import Floats, seeded

BLOCK_TURNS = 32
"""Turns scored in one batch; the policy changes only between blocks."""
OUT_OF_SCOPE = Act(ActKind.RESPOND, "utter_out_of_scope").id
HANDOFF = Act(ActKind.HANDOFF).id

Talk = Generator[list[Turn], Sequence[bool], None]
"""Yields blocks of turns; is sent which replies of the block were right, since people go on from there."""
Marks = Mapping[str, Floats]
"""Name -> one number a judged question."""
Besides = Callable[[Turn, Decision, bool, Decision | None], list[Signal]]
"""(turn, reply, was it right, the conversation's reply before) -> signals besides the thumb."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Who rates, how well, and until when."""

    noise: str
    rate: float
    num_turns: int
    num_thumbs: int
    """The stream ends at this many thumbs, or at `num_turns`, whichever comes first."""
    seed: int
    asked: float = 0.0
    """Probability of a thumb by somebody who is asked for one (`bot.policy.asking`); 0: nobody is asked."""


@dataclass(frozen=True, slots=True)
class Material:
    """The files of a run, read."""

    domain: Domain
    questions: Sequence[Question]
    judged: Sequence[Question]
    warm: Sequence[Question] = ()
    """Labelled questions that are learned before the stream."""
    outside: Sequence[str] = ()
    """Questions that no article answers."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the stream in which the domain stays as it is."""

    domain: Domain
    questions: Sequence[Question]
    """All that `talk` may ask; a peer is told the label of each."""
    talk: Callable[[], Talk]
    told: bool = False
    """An operator goes through the replies: confirms the right ones, corrects the others. Such turns are no thumbs."""


def is_right(act: str, question: Question) -> bool:
    """Whether an act is what the question asks for, in whatever wording; without an answer: to hand over or to say so."""
    if not question.answer:
        return act in (HANDOFF, OUT_OF_SCOPE)
    return act.partition("#")[0] == f"answer:{question.answer}"


def label(question: Question) -> str:
    """The act that an operator would choose."""
    return f"answer:{question.answer}" if question.answer else OUT_OF_SCOPE


def answers_only(legal: Sequence[LegalAct]) -> tuple[LegalAct, ...]:
    """The candidates of retrieval."""
    return tuple(act for act in legal if act.act.startswith("answer:"))


def p_up(question: Question, act: str, noise: Noise) -> float:
    """Probability of a thumb up."""
    return noise.up_if_right if is_right(act, question) else noise.up_if_wrong


def no_signals(_turn: Turn, _reply: Decision, _is_right: bool, _before: Decision | None) -> list[Signal]:
    """People who do nothing but vote."""
    return []


def right_and_served(question: Question, outlook: Outlook) -> dict[str, float]:
    """`right`: whether the most probable act is right; `served`: the probability of right acts."""
    served = sum(outlook.probability(act) for act in outlook.acts if is_right(act, question))
    return {"right": float(is_right(outlook.mode, question)), "served": served}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One seed of one setting."""

    phases: tuple[Phase, ...]
    judged: Sequence[Question]
    groups: Sequence[str] = ()
    """Of each judged question, where a setting tells groups apart."""
    legal: Callable[[Sequence[LegalAct]], tuple[LegalAct, ...]] = answers_only
    """Which of the legal acts this setting is about."""
    p_up: Callable[[Question, str, Noise], float] = p_up
    besides: Besides = no_signals
    marks: Callable[[Question, Outlook], dict[str, float]] = right_and_served
    control: Scenario | None = None
    """The same with one thing left out, run beside it."""

    @property
    def domain(self) -> Domain:
        """As it is at the end."""
        return self.phases[-1].domain

    def judged_in(self, phase: Phase) -> list[int]:
        """Indices of the judged questions that the phase's articles can answer, or that none is meant to."""
        known = phase.domain.articles
        return [i for i, question in enumerate(self.judged) if not question.answer or question.answer in known]


def marks_of(scenario: Scenario, judged: Sequence[int], outlooks: Sequence[Outlook]) -> Marks:
    """What the outlooks on these judged questions are worth."""
    pairs = zip(judged, outlooks, strict=True)
    found = [scenario.marks(scenario.judged[i], outlook) for i, outlook in pairs]
    return {name: np.array([marks[name] for marks in found]) for name in found[0]}


# --- talk -------------------------------------------------------------------------------------------------------------
def in_blocks(asked: Iterator[Turn]) -> Talk:
    """People whose next question does not depend on the answer."""
    while block := list(islice(asked, BLOCK_TURNS)):
        yield block


def asking(domain: Domain, questions: Sequence[Question], plan: Plan, count: int, *, after: int = 0) -> Phase:
    """`count` turns over shuffled questions; `after`: turns of the phases before, a multiple of a user's."""
    seed = plan.seed if not after else int(seeded(plan.seed, f"after {after}").integers(2**31))
    first_user = -(-after // TURNS_PER_USER)

    def talk() -> Talk:
        asked = turns(questions, count, plan.rate, seed)
        return in_blocks(replace(turn, number=turn.number + after, user=turn.user + first_user) for turn in asked)

    return Phase(domain, questions, talk)


def plain(material: Material, plan: Plan) -> Scenario:
    """One phase of ordinary questions."""
    return Scenario((asking(material.domain, material.questions, plan, plan.num_turns),), material.judged)


def warm_started(scenario: Scenario, labelled: Sequence[Question]) -> Scenario:
    """The scenario after an operator has gone through labelled questions, as far as its first articles can answer."""
    first = scenario.phases[0]
    known = [question for question in labelled if question.answer in first.domain.articles]
    if not known:
        return scenario
    asked = [Turn(i, i, question, rates=True, uniform=0.0) for i, question in enumerate(known)]
    told = Phase(first.domain, known, lambda: in_blocks(iter(asked)), told=True)
    control = scenario.control and warm_started(scenario.control, labelled)
    return replace(scenario, phases=(told, *scenario.phases), control=control)


def rated_alone(scenario: Scenario, numbers: Collection[int]) -> Scenario:
    """The scenario in which these turns, by their number, get a thumb and no others; what operators say stays."""

    def talk_of(phase: Phase) -> Talk:
        talk = phase.talk()
        block = next(talk, None)
        while block:
            rights = yield [replace(turn, rates=turn.number in numbers) for turn in block]
            block = answered(talk, rights)

    phases = [phase if phase.told else replace(phase, talk=partial(talk_of, phase)) for phase in scenario.phases]
    return replace(scenario, phases=tuple(phases))


def answered(talk: Talk, rights: Sequence[bool]) -> list[Turn] | None:
    """The next block, after the last one's replies; None at the end."""
    try:
        return talk.send(rights)
    except StopIteration:
        return None
