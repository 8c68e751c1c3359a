"""Legal acts: what the bot may do in this state. Pure; retrieval and forms have already spoken.

The policy chooses only among these, so it cannot invent an action or an article. Scores are in cosine units until
divided by the policy's temperature; `prior_logit` is the share that no gradient reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bot.conversation import Act, ActKind, LegalAct
from bot.domain import Article, Domain, Trigger

NEAREST_SHARE = 1 / 3
"""Share of the nearest text in how well a question fits an act; the rest is the act's mean text. Chosen on bankdesk
`warmstart`: R@1 .755 with the mean alone, .732 with the nearest alone, .781 with both."""
CLARIFY_GAP = 0.02
"""Clarifying is legal when the two best articles are this close (cosine)."""
CLARIFY_PRIOR = -4.0
"""In nats: asking back must be learned, since every question it asks is an answer it does not give."""
FORM_PRIOR = 1.0
"""A form that got what it asked for goes on: above any cosine."""
REASK_PRIOR = 0.5
"""A form that did not may lose to a clearly fitting article (cosine)."""
CANCELLED = "utter_cancelled"
"""Response that leaves the active form: legal in one only, and only when the domain gives examples of asking for it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something retrieval found: an article id or a trigger name, with the base model's cosine."""

    name: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Precedent:
    """A trusted correction of (nearly) the same question: the act that is right, and how much it speaks for it."""

    case_id: str
    act: str
    texts: tuple[str, ...]
    """Of the act, where nothing else makes it legal."""
    similarity: float
    weight: float
    """What it adds to the act's score, as a cosine."""
    text: str = ""
    """The right words; empty: the act's own."""


@dataclass(frozen=True, slots=True)
class FormStep:
    """Where an active form stands after the user's message."""

    next_act: str
    """`ask:slot`, or `run:action` when it is filled."""
    progressed: bool
    """Whether the message gave what was asked."""
    action: str
    """What the form is filled for: not legal a second time while it is."""


def legal_acts(
    domain: Domain,
    articles: Sequence[Candidate],
    triggers: Sequence[Candidate],
    temperature: float,
    form: FormStep | None,
    precedent: Precedent | None = None,
) -> tuple[LegalAct, ...]:
    """Answers to the candidates, then whatever else the domain and the active form allow; hand-over always.

    A precedent raises the prior of its act, which is legal even where retrieval did not find it. As a part of the prior it
    stands in the row, so the choice re-scores after the case is gone. A form that is being filled hears none.
    """
    weakest = articles[-1].similarity if articles else -1.0
    acts = [LegalAct(f"answer:{found.name}", domain.articles[found.name].texts) for found in articles]
    if form is None:
        fitting = [found for found in triggers if found.similarity >= weakest and found.name != CANCELLED]
        acts += [act for found in fitting for act in _triggered(domain, found.name)]
        acts += _clarify(domain.articles, articles)
    else:
        score = FORM_PRIOR if form.progressed else REASK_PRIOR
        acts.append(LegalAct(form.next_act, (), score / temperature))
        others = [found for found in triggers if found.name in domain.actions and found.name != form.action]
        acts += [act for found in others for act in _triggered(domain, found.name)]
        acts += _triggered(domain, CANCELLED) if CANCELLED in domain.triggers else []
    acts += _floors(domain.triggers, temperature)
    acts.append(_handoff(domain))
    if precedent is not None and form is None:
        acts = _with_precedent(acts, precedent, temperature)
    return tuple(acts)


def _with_precedent(acts: Sequence[LegalAct], precedent: Precedent, temperature: float) -> list[LegalAct]:
    extra = precedent.weight / temperature
    if all(act.act != precedent.act for act in acts):
        return [*acts, LegalAct(precedent.act, precedent.texts, extra)]
    return [replace(a, prior_logit=a.prior_logit + extra) if a.act == precedent.act else a for a in acts]


def _triggered(domain: Domain, name: str) -> list[LegalAct]:
    """A response's wordings, each an act with its own text, or an action."""
    examples = domain.triggers[name].examples
    if name in domain.responses:
        variants = enumerate(domain.responses[name])
        return [LegalAct(Act(ActKind.RESPOND, name, i).id, (*examples, variant.text)) for i, variant in variants]
    if name in domain.actions:
        return [LegalAct(Act(ActKind.RUN, name).id, examples)]
    return []


def _clarify(articles: Mapping[str, Article], found: Sequence[Candidate]) -> list[LegalAct]:
    if len(found) < 2 or found[0].similarity - found[1].similarity > CLARIFY_GAP:
        return []
    first, second = articles[found[0].name], articles[found[1].name]
    act = Act(ActKind.CLARIFY, f"{first.id}|{second.id}")
    return [LegalAct(act.id, (first.title, second.title), CLARIFY_PRIOR)]


def _floors(triggers: Mapping[str, Trigger], temperature: float) -> list[LegalAct]:
    """Responses that win where nothing else fits: a fixed score, no texts."""
    return [
        LegalAct(Act(ActKind.RESPOND, name).id, (), trigger.floor / temperature)
        for name, trigger in triggers.items()
        if trigger.floor is not None and name != CANCELLED
    ]


def _handoff(domain: Domain) -> LegalAct:
    trigger = domain.triggers.get("handoff", Trigger())
    return LegalAct(Act(ActKind.HANDOFF).id, trigger.examples, 0.0 if trigger.examples else -1.0)
