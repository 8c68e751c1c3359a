"""How far an update may carry choices: what is too far for the gate is taken back, and what else was learned stays."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bot.conversation import BASE_VERSION, Generated
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Case
from online_learning.gate import Thresholds
from online_learning.reach import Reach, mean_kl, shorten
from online_learning.update import CURRENT, Learner
from tests.builders import make_message
from tests.learner_rig import LENIENT, QUICK, Home

EAGER = replace(QUICK, learning_rate=2e-2, text_learning_rate=5e-3)
"""Goes far in one update."""
NEAR = replace(LENIENT, max_kl_champion=0.05)
"""A gate that lets choices move a little."""
QUESTION = "my card please"
SAID = "Hello, here is what to do about it: card arrival. Does that help?"


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


@pytest.mark.parametrize(
    ("most", "share"), [(2.0, 1.0), (1.0, 1.0), (0.7, 0.64), (0.5, 0.4096), (1e-6, 0.0), (-1.0, 0.0)]
)
def test_the_way_is_shortened_by_fifths_until_its_end_is_within_reach(most: float, share: float) -> None:
    """From 3 to 4, at most `most` from 3: 1, .8, .64, .512, .4096. Below a hundredth nothing of it is gone."""
    weight, origin = torch.tensor([4.0, 3.0]), torch.tensor([3.0, 3.0])
    assert shorten([weight], [origin], lambda: float(weight[0]) - 3 <= most) == pytest.approx(share)
    assert weight.tolist() == pytest.approx([3 + share, 3.0])


def test_a_way_that_is_not_gone_ends_where_it_began_to_the_last_bit() -> None:
    """And one that is gone whole is not touched."""
    origin, end = torch.randn(50, generator=torch.manual_seed(0)), torch.randn(50)
    for within, left in ((False, origin), (True, end)):
        weight = end.clone()
        shorten([weight], [origin], lambda within=within: within)  # type: ignore[misc]
        assert torch.equal(weight, left)


def test_weights_that_are_no_numbers_are_left_for_the_gate_to_refuse() -> None:
    """Taken back to the origin they would pass for sound ones."""
    weight = torch.tensor([math.nan, 1.0])
    assert shorten([weight], [torch.zeros(2)], lambda: bool(weight.isfinite().all())) == 0.0
    assert bool(weight.isnan().any())


def test_both_distances_count() -> None:
    """KL((1/2, 1/2) || (1/4, 3/4)) = ln(4/3) / 2 = .1438."""
    even, uneven = [log(0.5, 0.5)], [log(0.25, 0.75)]
    assert mean_kl(even, uneven) == pytest.approx(math.log(4 / 3) / 2)
    for of_champion, of_start, holds in ((0.15, 0.0, True), (0.14, 0.0, False)):
        assert Reach((), uneven, of_champion, of_start).holds(even, even) is holds
        assert Reach((), even, of_start, of_champion).holds(even, uneven) is holds
    assert not Reach((), uneven, 0.14, math.inf).holds(even, uneven)


def test_the_learner_is_told_what_the_gate_goes_by() -> None:
    """From 300 held-out rows on these judge how far the start may be left behind, and no distance does."""
    assert Thresholds().distances(299) == (0.75, 1.5)
    assert Thresholds().distances(300) == (0.75, math.inf)


class Boundless(Learner):
    """A learner that goes as far as its steps go."""

    def update(self, *args: Any, **named: Any) -> dict[str, float]:
        return super().update(*args[:5], **named)


def corrected(home: Home, number: int) -> None:
    """A generated reply of the wrong article, the lesson about the right one, and an operator's words."""
    reply = home.write(QUESTION, "lost_card", number, conversation_id=home.conversation_id())
    home.vote(reply, -1)
    asked = make_message(id=f"q-{reply.id}", conversation_id=reply.conversation_id, text=QUESTION)
    home.store.add_user_message(asked)
    lesson = home.say(QUESTION, "card_arrival", person_id="operator:ana")
    home.vote(lesson, 1, source="operator")
    name, where = f"case_{number}", reply.conversation_id
    case = Case(
        name, 5000.0, "operator:ana", QUESTION, f"answer:{name}", SAID, "Hm.", reply.act, where, reply.id, lesson.id
    )
    home.store.desk.add_case(Doing("operator:ana", 5000.0), case)


def likelier(learner: Learner, words: Generated) -> bool:
    """Than under the base model, for sure."""
    assert learner.writer is not None
    with torch.no_grad():
        now, then = (learner.writer.token_logprobs([words], [name])[0] for name in (CURRENT, "__base__"))
    return float((now - then).mean()) > 0.1


@pytest.mark.parametrize("make", [Learner, Boundless])
def test_a_day_of_corrections_is_not_refused_and_its_words_are_learned(
    home: Home, make: Callable[..., Learner]
) -> None:
    """Choices move the way the lessons point, as far as the gate lets them. Control: without a bound of its own the same
    update is refused for the distance, and the words go with it."""
    for number in range(4):
        corrected(home, number)
    loop = home.resumed(config=EAGER, thresholds=NEAR, make=make)
    loop.step()
    update = home.store.updates()[-1]
    words = next(iter(loop.drawing._own_words(set())[0].values()))
    assert update.metrics["words_rows"] == 4
    if make is Boundless:
        assert (update.outcome, "kept_step" in update.metrics, likelier(loop.learner, words)) == (
            "refused",
            False,
            False,
        )
        assert update.metrics["gate"]["reasons"][0].startswith("KL to the champion")
        return
    assert (update.outcome, likelier(loop.learner, words)) == ("published", True)
    assert 0 < update.metrics["kept_step"] < 1
    assert 0 < update.metrics["gate"]["kl_champion"] <= 0.05
    rose = [home.probability(QUESTION, "card_arrival", version) for version in (BASE_VERSION, update.version)]
    assert rose[1] > rose[0]


def test_an_update_that_stays_near_is_what_it_would_be_without_a_bound(home: Home) -> None:
    """To the last bit: the distance is looked at, and nothing taken back."""
    home.teach([(QUESTION, "card_arrival", 1), (QUESTION, "lost_card", -1)] * 2)
    loop = home.resumed()
    loop.step()
    learner, before = loop.learner, loop.learner.snapshot()
    home.teach([(QUESTION, "card_arrival", 1)] * 4)
    loop._settle()
    batch = loop.drawing.draw(home.store.last_reward_seq(), 0, "v000001", np.random.default_rng(0))
    recent = [row.decision for row in batch.credits]
    wide = Reach(recent, learner.score(recent, CURRENT), 50.0, 50.0)
    ends = []
    for reach in (None, wide):
        learner.restore(deepcopy(before))  # Moments that were loaded are written to.
        metrics = learner.update(batch.credits, np.random.default_rng(0), lambda *_: None, reach=reach)
        assert metrics.get("kept_step", 1.0) == 1.0
        ends.append(learner.snapshot()["parts"]["encoder"])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not all(torch.equal(ends[0][name], tensor) for name, tensor in before["parts"]["encoder"].items())
