"""Cases as precedents: who speaks, how loudly, and that what was chosen with one re-scores without it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bot.conversation import Message
from bot.feedback.desk_records import Case
from bot.knowledge.cases import FROM, FULL, WEIGHT, CaseMemory
from bot.knowledge.index import KnowledgeIndex
from bot.policy.acts import Candidate, FormStep, Precedent, legal_acts
from tests.service_rig import make_domain
from tests.session_rig import Found, open_session

DOMAIN = make_domain()
CANDIDATES = (Candidate("card_arrival", 0.8),)


class Circle:
    """Embeds a text that is a number of degrees as the point at that angle."""

    name = "circle"

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def make_case(**overrides: Any) -> Case:
    """At zero degrees a person is right."""
    fields: dict[str, Any] = {
        "id": "case_a", "at": 1.0, "author": "operator:ana", "question": "0", "act": "handoff", "text": "",
        "draft": "In 5 days.", "draft_act": "answer:card_arrival", "conversation_id": "c1",
    }  # fmt: skip
    return Case(**fields | overrides)


async def asked(cosine: float, *cases: Case) -> Precedent | None:
    """What these cases say of a question at this cosine from zero degrees."""
    index = KnowledgeIndex()
    memory = CaseMemory(DOMAIN, index, Circle())
    await memory.load(cases)
    found = memory.precedent(np.array([cosine, math.sqrt(1 - cosine**2)]))
    index.close()
    return found


async def test_a_case_speaks_in_full_for_its_own_question_and_not_at_all_for_another() -> None:
    """Between FROM and FULL its weight grows evenly."""
    own, between, other = [await asked(cosine, make_case()) for cosine in (1.0, (FROM + FULL) / 2, FROM - 0.01)]
    assert own is not None
    assert (own.case_id, own.act, own.weight) == ("case_a", "handoff", WEIGHT)
    assert between is not None
    assert between.weight == pytest.approx(WEIGHT / 2, abs=1e-4)
    assert other is None
    assert await asked(1.0) is None


async def test_the_nearest_case_speaks_and_of_equals_the_newest() -> None:
    """Whoever corrects again is right."""
    far, old, new = (
        make_case(id="far", question="20"),
        make_case(id="old"),
        make_case(id="new", act="answer:card_arrival"),
    )
    found = await asked(1.0, far, old, new)
    assert found is not None
    assert (found.case_id, found.texts) == ("new", DOMAIN.articles["card_arrival"].texts)


@pytest.mark.parametrize("act", ["answer:gone", "respond:utter_gone", "run:action_gone", "clarify:a|b"])
async def test_a_case_whose_act_is_gone_is_silent(act: str) -> None:
    """A developer may have taken the article away since; an operator's own words need none."""
    assert await asked(1.0, make_case(act=act)) is None
    assert await asked(1.0, make_case(act="answer:case_a", text="Their own words")) is not None


async def test_no_words_of_a_person_enter_the_choice_of_another() -> None:
    """Own words have no text, and their prior makes up for it: similarity and weight over the temperature, as an act that
    is asked for in these very words would score. Triggers are told by the domain's examples."""
    written = await asked(1.0, make_case(act="answer:case_a", text="Their own words", question="0"))
    assert written is not None
    added = legal_acts(DOMAIN, CANDIDATES, (), 0.1, None, written)[-1]
    assert (added.act, added.texts) == ("answer:case_a", ())
    assert added.prior_logit == pytest.approx((1.0 + WEIGHT) / 0.1)
    handed = await asked(1.0, make_case(question="0"))
    assert handed is not None
    assert (handed.texts, handed.weight) == ((), WEIGHT)


def test_a_precedent_is_part_of_the_prior_and_makes_its_act_legal() -> None:
    """weight / temperature on top of what the act has; a form that is being filled hears none."""
    heard = Precedent("case_a", "handoff", (), 1.0, 0.5)
    plain = {act.act: act for act in legal_acts(DOMAIN, CANDIDATES, (), 0.1, None)}
    moved = {act.act: act for act in legal_acts(DOMAIN, CANDIDATES, (), 0.1, None, heard)}
    assert moved["handoff"].prior_logit == pytest.approx(plain["handoff"].prior_logit + 5.0)
    assert {name: act for name, act in moved.items() if name != "handoff"} == {
        name: act for name, act in plain.items() if name != "handoff"
    }
    written = Precedent("case_b", "answer:case_b", ("0",), 1.0, 0.5, "Words")
    added = legal_acts(DOMAIN, CANDIDATES, (), 0.1, None, written)[-1]
    assert (added.act, added.texts, added.prior_logit) == ("answer:case_b", ("0",), 5.0)
    form = FormStep("ask:city", progressed=True, action="")
    assert legal_acts(DOMAIN, CANDIDATES, (), 0.1, form, heard) == legal_acts(DOMAIN, CANDIDATES, (), 0.1, form)


async def test_a_session_says_the_operators_words_and_keeps_which_case_spoke(tmp_path: Path) -> None:
    """The row's priors give its propensities again: softmax over the stored prior logits of the scripted policy."""
    with open_session(tmp_path / "home") as rig:
        heard = Precedent("case_a", "answer:case_a", ("Where is it?",), 0.97, 1.0, "It is at the post office.")
        rig.knowledge.found = Found(precedent=heard)
        reply = await rig.say("Where is it?")
        decision, use = rig.decision_of(reply), rig.store.desk.case_uses("c1")[0]
    assert isinstance(reply, Message)
    assert (reply.text, reply.act, reply.sources) == ("It is at the post office.", "answer:case_a", ())
    assert (use.case_id, use.decision_id, use.cosine) == ("case_a", decision.id, 0.97)
    assert use.prior_logit == pytest.approx(1.0 / decision.temperature)
    total = math.log(sum(math.exp(act.prior_logit) for act in decision.legal))
    assert [act.prior_logit - total for act in decision.legal] == pytest.approx(list(decision.logprobs), abs=1e-9)
