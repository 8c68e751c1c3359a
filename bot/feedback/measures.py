"""The values that formulas of a rules file read, by name: of a signal, of a decision, of a reply's text, of a scorer.

Only what a formula names is measured. What cannot be known (a text that was not kept, a correction nobody made) is
`Unmeasured`: the rule then gives nothing, which is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeVar

from bot.conversation import Act, ActKind, Signal
from bot.feedback import text_metrics
from bot.feedback.expressions import Value
from bot.feedback.scorers import Scorers

T = TypeVar("T")


class Unmeasured(LookupError):
    """There is nothing to measure."""


class Step(Protocol):
    """What rewards need to know of a decision; `Decision` and `PastStep` are such."""

    @property
    def id(self) -> str: ...
    @property
    def conversation_id(self) -> str: ...
    @property
    def person_id(self) -> str: ...
    @property
    def turn(self) -> int: ...
    @property
    def created_at(self) -> float: ...
    @property
    def query(self) -> str: ...
    @property
    def act(self) -> str: ...
    @property
    def logprob(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside decisions and signals."""

    replies: Mapping[str, str] = field(default_factory=dict)
    """Decision id -> the text that was shown."""
    approved: Mapping[str, str] = field(default_factory=dict)
    """Decision id -> the approved text it is measured against."""
    trust: Mapping[str, float] = field(default_factory=dict)
    """Author -> 0..1; 1 where absent."""
    scorers: Scorers | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation, as rules see it."""

    steps: Sequence[Step]
    corrections: Mapping[str, str]
    """Decision id -> the text an operator put in its place."""
    facts: Facts

    def reply(self, step: Step) -> str:
        """The text shown. Raises Unmeasured."""
        return _known(self.facts.replies.get(step.id))


def measure(names: Iterable[str], chat: Chat, step: Step, signal: Signal | None) -> dict[str, Value]:
    """The values of `names`. Raises Unmeasured, ScorerError."""
    values: dict[str, Value] = {}
    for name in names:
        if name in _OF_SIGNAL:
            values[name] = _OF_SIGNAL[name](_known(signal), step)
        elif name in _OF_REPLY:
            values[name] = _OF_REPLY[name](chat, step)
        else:
            values[name] = _score(name, chat, step)
    return values


@lru_cache(maxsize=4096)
def parsed(act_id: str) -> Act:
    """The act of an id; the same few hundred are asked for again and again."""
    return Act.parse(act_id)


def approved_text(act_id: str, sources: Sequence[str] | None, reply: str | None) -> str | None:
    """What a reply is compared with: the sources of a generated one (None: it was not generated), or the approved answer,
    which is what was shown. Other acts have none."""
    if sources is not None:
        return "\n".join(sources) or None
    return reply if parsed(act_id).kind == ActKind.ANSWER else None


def shown_texts(messages: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Decision id -> what was shown, from (decision id, text) in order: several messages of one decision are one text."""
    replies: dict[str, str] = {}
    for decision_id, text in messages:
        replies[decision_id] = f"{replies[decision_id]}\n{text}" if decision_id in replies else text
    return replies


def articles_of(act: Act) -> list[str]:
    """The articles an act speaks of: the one answered with, or those offered."""
    return act.target.split("|") if act.kind in {ActKind.ANSWER, ActKind.CLARIFY} else []


def slots_of(act: Act) -> list[str]:
    """The slot an act asks for."""
    return [act.target] if act.kind == ActKind.ASK else []


def _known(value: T | None) -> T:
    if value is None:
        raise Unmeasured
    return value


def _score(name: str, chat: Chat, step: Step) -> float:
    reply = chat.reply(step)
    asked = {"id": step.id, "query": step.query, "act": step.act, "reply": reply, "turn": step.turn}
    asked |= {"approved": chat.facts.approved.get(step.id), "correction": chat.corrections.get(step.id)}
    return _known(chat.facts.scorers).score(name, asked)


def _first(found: Sequence[str]) -> str:
    return found[0] if found else ""


def _approved(chat: Chat, step: Step) -> str:
    return _known(chat.facts.approved.get(step.id))


def _correction(chat: Chat, step: Step) -> str:
    return _known(chat.corrections.get(step.id))


_OF_SIGNAL: Mapping[str, Callable[[Signal, Step], Value]] = {
    "signal": lambda signal, _: signal.kind.value,
    "value": lambda signal, _: signal.value,
    "label": lambda signal, _: signal.label,
    "role": lambda signal, _: signal.source,
    "age_s": lambda signal, step: max(0.0, signal.created_at - step.created_at),
}
_OF_REPLY: Mapping[str, Callable[[Chat, Step], Value]] = {
    "act": lambda _, step: step.act,
    "kind": lambda _, step: parsed(step.act).kind.value,
    "article": lambda _, step: _first(articles_of(parsed(step.act))),
    "slot": lambda _, step: _first(slots_of(parsed(step.act))),
    "turn": lambda _, step: step.turn,
    "turns": lambda chat, _: len(chat.steps),
    "probability": lambda _, step: math.exp(step.logprob),
    "num_words": lambda chat, step: text_metrics.num_words(chat.reply(step)),
    "num_questions": lambda chat, step: text_metrics.num_questions(chat.reply(step)),
    "repetition": lambda chat, step: text_metrics.repetition(chat.reply(step)),
    "bleu_approved": lambda chat, step: text_metrics.bleu(chat.reply(step), _approved(chat, step)),
    "bleu_correction": lambda chat, step: text_metrics.bleu(chat.reply(step), _correction(chat, step)),
    "rouge_l_approved": lambda chat, step: text_metrics.rouge_l(chat.reply(step), _approved(chat, step)),
    "rouge_l_correction": lambda chat, step: text_metrics.rouge_l(chat.reply(step), _correction(chat, step)),
}
