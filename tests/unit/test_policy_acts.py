"""Legal acts: what retrieval, the domain and an active form allow, and what no gradient can move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bot.conversation import LegalAct
from bot.domain import Article, Domain, Trigger, Variant
from bot.policy.acts import CLARIFY_PRIOR, Candidate, FormStep, legal_acts

TEMPERATURE = 0.02
DOMAIN = Domain(
    name="bank",
    folder=Path("bank"),
    assistant="Lark",
    persona="",
    languages=("en",),
    ai_notice="",
    human_offer="",
    articles={name: Article(name, name.title(), "Answer.", (f"How about {name}?",)) for name in ("a", "b", "c")},
    responses={
        "utter_greet": (Variant("Hello"), Variant("Hi")),
        "utter_out_of_scope": (Variant("Not that"),),
    },
    slots={},
    forms={"freeze_form": ("card",)},
    actions=("action_freeze", "action_look_up", "validate_freeze_form"),
    triggers={
        "utter_greet": Trigger(("hello", "hi")),
        "utter_out_of_scope": Trigger((), 0.38),
        "handoff": Trigger(("human please",)),
        "action_freeze": Trigger(("freeze my card",)),
        "action_look_up": Trigger(("look it up",)),
    },
    action_forms={"action_freeze": "freeze_form"},
    tests=(),
)
ARTICLES = (Candidate("a", 0.8), Candidate("b", 0.6), Candidate("c", 0.4))
TRIGGERS = tuple(Candidate(name, 0.9) for name in ("utter_greet", "action_freeze", "action_look_up", "handoff"))


def ids(acts: tuple[LegalAct, ...]) -> list[str]:
    return [act.act for act in acts]


def prior(acts: tuple[LegalAct, ...], act_id: str) -> float:
    return next(act.prior_logit for act in acts if act.act == act_id)


def legal(
    articles: tuple[Candidate, ...] = ARTICLES,
    triggers: tuple[Candidate, ...] = (),
    form: FormStep | None = None,
    domain: Domain = DOMAIN,
) -> tuple[LegalAct, ...]:
    return legal_acts(domain, articles, triggers, TEMPERATURE, form)


def test_candidates_the_floor_and_a_person_are_always_legal() -> None:
    """In retrieval's order; each candidate with the texts that retrieval embedded."""
    acts = legal()
    assert ids(acts) == ["answer:a", "answer:b", "answer:c", "respond:utter_out_of_scope", "handoff"]
    assert acts[0] == LegalAct("answer:a", ("How about a?", "A"), 0.0)


def test_an_act_is_never_legal_twice() -> None:
    """Its probability would be counted twice."""
    everything = legal(triggers=TRIGGERS)
    in_form = legal(triggers=TRIGGERS, form=FormStep("ask:card", progressed=True, action="action_freeze"))
    for acts in (everything, in_form):
        assert len(set(ids(acts))) == len(acts)


def test_a_floor_is_a_cosine_over_the_temperature() -> None:
    """0.38 / 0.02: it wins where nothing fits better than 0.38, and has no texts that could be trained."""
    floor = next(act for act in legal() if act.act == "respond:utter_out_of_scope")
    assert floor.prior_logit == pytest.approx(19.0)
    assert floor.texts == ()


def test_nothing_found_leaves_the_floor_and_a_person() -> None:
    """Zero candidates are no error."""
    assert ids(legal(articles=())) == ["respond:utter_out_of_scope", "handoff"]


def test_a_domain_with_one_article_and_no_triggers_can_answer_and_hand_over() -> None:
    """Without examples a person is called by a fixed score below every answer's."""
    small = replace(DOMAIN, articles={"a": DOMAIN.articles["a"]}, triggers={})
    acts = legal(articles=(Candidate("a", 0.1),), domain=small)
    assert ids(acts) == ["answer:a", "handoff"]
    assert prior(acts, "handoff") == -1.0


def test_every_wording_of_a_response_is_an_act() -> None:
    """So wording is learned: the shared examples, then its own text."""
    greetings = [act for act in legal(triggers=TRIGGERS) if act.act.startswith("respond:utter_greet")]
    assert greetings == [
        LegalAct("respond:utter_greet", ("hello", "hi", "Hello")),
        LegalAct("respond:utter_greet#1", ("hello", "hi", "Hi")),
    ]


def test_a_trigger_less_fitting_than_the_weakest_candidate_is_not_legal() -> None:
    """It would only be noise to explore; equal is enough."""
    assert "run:action_freeze" in ids(legal(triggers=(Candidate("action_freeze", 0.4),)))
    assert "run:action_freeze" not in ids(legal(triggers=(Candidate("action_freeze", 0.39),)))


def test_clarifying_is_legal_only_when_the_best_two_are_close() -> None:
    """Within 0.02; and it starts unlikely."""
    close = legal(articles=(Candidate("a", 0.80), Candidate("b", 0.79)))
    assert "clarify:a|b" in ids(close)
    assert prior(close, "clarify:a|b") == CLARIFY_PRIOR
    assert next(act.texts for act in close if act.act == "clarify:a|b") == ("A", "B")
    assert not any(
        act.startswith("clarify") for act in ids(legal(articles=(Candidate("a", 0.80), Candidate("b", 0.77))))
    )
    assert not any(act.startswith("clarify") for act in ids(legal(articles=(Candidate("a", 0.80),))))


def test_a_form_that_got_what_it_asked_for_goes_on() -> None:
    """Its score is above any cosine: 1.0 / 0.02 = 50."""
    acts = legal(form=FormStep("run:action_freeze", progressed=True, action="action_freeze"))
    assert prior(acts, "run:action_freeze") == pytest.approx(50.0)
    assert max(act.prior_logit for act in acts) == pytest.approx(50.0)


def test_a_form_that_did_not_may_lose_to_a_fitting_article() -> None:
    """0.5 / 0.02 = 25 is beaten by a cosine of 0.8 (40), and beats the floor (19)."""
    acts = legal(form=FormStep("ask:card", progressed=False, action="action_freeze"))
    asking = prior(acts, "ask:card")
    assert prior(acts, "respond:utter_out_of_scope") < asking < ARTICLES[0].similarity / TEMPERATURE
    assert {"answer:a", "handoff"} <= set(ids(acts))


def test_a_form_never_runs_its_own_action_a_second_time() -> None:
    """Other actions stay reachable, however well retrieval thinks of this one."""
    acts = ids(legal(triggers=TRIGGERS, form=FormStep("ask:card", progressed=False, action="action_freeze")))
    assert "run:action_freeze" not in acts
    assert "run:action_look_up" in acts


@pytest.mark.parametrize("floor", [None, 0.9])
def test_cancelling_is_legal_in_a_form_and_nowhere_else(floor: float | None) -> None:
    """Once, with its examples and wording, whatever retrieval or a floor says of it."""
    words = {"utter_cancelled": (Variant("Stopped."),)}
    domain = replace(
        DOMAIN,
        responses=DOMAIN.responses | words,
        triggers=DOMAIN.triggers | {"utter_cancelled": Trigger(("stop",), floor)},
    )
    found = (*TRIGGERS, Candidate("utter_cancelled", 0.99))
    in_form = legal(triggers=found, form=FormStep("ask:card", progressed=False, action="action_freeze"), domain=domain)
    assert [act for act in in_form if "cancelled" in act.act] == [
        LegalAct("respond:utter_cancelled", ("stop", "Stopped."), 0.0)
    ]
    assert "respond:utter_cancelled" not in ids(legal(triggers=found, domain=domain))


def test_a_domain_without_words_for_cancelling_has_no_such_act() -> None:
    """As before: the form goes on, or a person helps."""
    acts = ids(legal(triggers=TRIGGERS, form=FormStep("ask:card", progressed=False, action="action_freeze")))
    assert not any("cancelled" in act for act in acts)


def test_small_talk_and_clarifying_wait_until_the_form_is_over() -> None:
    """`yes` and `4412` are answers there, not greetings."""
    close = (Candidate("a", 0.80), Candidate("b", 0.80))
    acts = ids(legal(close, TRIGGERS, FormStep("ask:card", progressed=False, action="action_freeze")))
    assert not any(act.startswith(("respond:utter_greet", "clarify")) for act in acts)
