"""One round of the learner on tiny models: who teaches, who does not, and what a refusal leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from bot.conversation import BASE_VERSION, Decision, Signal, SignalKind
from bot.policy.adapters import AdapterStore, Champion
from online_learning.config import RECIPES
from online_learning.gate import TestResults
from online_learning.loop import Loop
from online_learning.offline import ConversationTests
from online_learning.update import CURRENT
from tests.learner_rig import LENIENT, QUICK, SECRET, STRICT, Home, open_home

PLEASE = "my card please"
"""The retriever shows `lost_card` (0.91) and is told that `card_arrival` (0.06) was meant."""
TAUGHT = [(PLEASE, "card_arrival", 1), (PLEASE, "lost_card", -1)] * 2


def same(one: Any, other: Any) -> bool:
    """Bit for bit, through any nesting."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def lineage(home: Home) -> set[str]:
    """Decisions that any update drew from."""
    return {decision_id for update in home.store.updates() for decision_id in update.lineage}


@pytest.mark.parametrize("layers", ["head", "all"])
def test_thumbs_move_the_probabilities_the_way_they_point(home: Home, layers: str) -> None:
    """Up on one article, down on another: the first gains, the second loses, and a version says so."""
    home.teach(TAUGHT)
    assert home.resumed(config=replace(QUICK, layers=layers)).step()
    version = home.store.updates()[-1].version
    assert version == "v000001"
    assert home.adapters.champion().version == version
    for article, sign in (("card_arrival", 1), ("lost_card", -1)):
        moved = home.probability(PLEASE, article, version) - home.probability(PLEASE, article, BASE_VERSION)
        assert sign * moved > 0.05


def test_too_few_fresh_rewards_start_no_update(home: Home) -> None:
    """Three of the four that are asked for: the learner waits, and says how many there are."""
    home.teach(TAUGHT[:3])
    assert not home.resumed().step()
    said = home.store.status("learner")
    assert said is not None
    assert (said["state"], said["fresh"]) == ("waiting", 3)


def test_a_version_says_which_decisions_taught_it(home: Home) -> None:
    """Lineage: manifest and update row name exactly the rated rows."""
    taught = home.teach(TAUGHT)
    home.say(PLEASE, "card_arrival")
    home.resumed().step()
    named = home.adapters.verify("v000001").lineage
    assert set(named["decision_ids"]) == lineage(home) == {decision.id for decision in taught}


@pytest.mark.parametrize("name", ["ppo", "ilql"])
def test_a_refused_candidate_leaves_weights_and_optimizer_bit_for_bit(home: Home, name: str) -> None:
    """The second update is refused: every number is the first one's, momentum and Q heads included."""
    home.teach(TAUGHT)
    loop = home.resumed(config=replace(QUICK, algorithm=name, loss=RECIPES[name].loss))
    loop.step()
    before = loop.learner.snapshot()
    assert set(before["heads"]) == ({"value", "q"} if name == "ilql" else {"value"})
    loop.thresholds = STRICT
    home.teach(TAUGHT)
    loop.step()
    assert home.store.updates()[-1].outcome == "refused"
    assert home.adapters.champion().version == "v000001"
    assert same(loop.learner.snapshot(), before)


def test_rows_of_a_refused_update_teach_the_next_one(home: Home) -> None:
    """What the gate refused is the candidate, not the thumbs."""
    refused = home.teach(TAUGHT)
    loop = home.resumed(thresholds=STRICT)
    loop.step()
    assert home.adapters.versions() == []
    loop.thresholds = LENIENT
    fresh = home.teach(TAUGHT)
    loop.step()
    update = home.store.updates()[-1]
    assert update.outcome == "published"
    assert set(update.lineage) == {decision.id for decision in (*refused, *fresh)}
    assert update.metrics["fresh"] == len(fresh)


def falsified(home: Home) -> Decision:
    """A row whose stored log-probabilities are not those of its version."""
    honest = home.say(PLEASE, "card_arrival")
    logprobs = tuple(math.log(1 / len(honest.legal)) for _ in honest.legal)
    chat = home.conversation_id()
    return home.keep(replace(honest, id="false", conversation_id=chat, logprobs=logprobs))


@pytest.mark.parametrize(("tolerance", "teaches"), [(1e-3, False), (math.inf, True)])
def test_a_row_that_does_not_rescore_never_teaches(home: Home, tolerance: float, teaches: bool) -> None:
    """It is refused, counted, and stays out of later updates too. Control: without the check it teaches."""
    home.vote(falsified(home), 1)
    home.teach(TAUGHT)
    gate = replace(LENIENT, max_rescore_error=math.inf)
    loop = home.resumed(config=replace(QUICK, rescore_tolerance=tolerance), thresholds=gate)
    loop.step()
    home.teach(TAUGHT)
    loop.step()
    assert len(home.store.updates()) == 2
    assert ("false" in lineage(home)) is teaches
    counted = [update.metrics["refused"]["rescore"] for update in home.store.updates()]
    assert counted == ([0, 0] if teaches else [1, 1])


def test_a_row_of_a_version_that_is_gone_is_refused(home: Home) -> None:
    """Nobody can say any more what its policy would have done."""
    decision = replace(home.say(PLEASE, "card_arrival"), id="gone", conversation_id=home.conversation_id())
    home.vote(home.keep(replace(decision, version="v000007")), 1)
    home.teach(TAUGHT)
    home.resumed().step()
    assert "gone" not in lineage(home)
    assert home.store.updates()[-1].metrics["refused"]["rescore"] == 1


def test_rows_of_an_older_version_rescore_under_that_version(home: Home) -> None:
    """Replayed rows come from several versions; each is checked against its own."""
    home.teach(TAUGHT)
    loop = home.resumed()
    loop.step()
    home.teach(TAUGHT[:2], version="v000001")
    home.teach(TAUGHT[2:], version=BASE_VERSION)
    loop.step()
    assert home.store.updates()[-1].metrics["refused"]["rescore"] == 0
    home.teach(TAUGHT, version="v000001")
    loop.step()
    update = home.store.updates()[-1]
    assert update.version == "v000003"
    assert update.metrics["refused"]["rescore"] == 0
    assert update.metrics["gate"]["rescore_error"] < 1e-4


@pytest.mark.parametrize("kept_out", [{"holdout": True}, {"train_ok": False}])
def test_held_out_and_refused_conversations_never_reach_the_update(home: Home, kept_out: dict[str, bool]) -> None:
    """By lineage: none of them, over two updates."""
    hidden = home.teach(TAUGHT * 2, **kept_out)
    loop = home.resumed()
    for _ in range(2):
        home.teach(TAUGHT)
        loop.step()
    assert len(home.store.updates()) == 2
    assert not lineage(home) & {decision.id for decision in hidden}


def test_the_gate_sees_the_held_out_rows(home: Home) -> None:
    """They are not thrown away: eight of them stand in the report."""
    home.teach(TAUGHT * 2, holdout=True)
    home.teach(TAUGHT)
    home.resumed().step()
    assert home.store.updates()[-1].metrics["gate"]["held_out_rows"] == 8


@pytest.mark.parametrize(("quorum", "outcome"), [(3, "skipped"), (2, "published")])
def test_a_topic_teaches_only_once_enough_people_have_spoken(
    tmp_path: Path, models: Path, quorum: int, outcome: str
) -> None:
    """Two people on each topic: a quorum of three learns nothing, one of two does."""
    with open_home(tmp_path, models, learn={"quorum": quorum}) as home:
        home.teach(TAUGHT)
        home.resumed().step()
        assert home.store.updates()[-1].outcome == outcome


def test_an_outcome_does_not_carry_a_topic_around_its_quorum(tmp_path: Path, models: Path) -> None:
    """Two people on `card_arrival`; the turn before one of them was `change_pin`, on which only one has spoken."""
    with open_home(tmp_path, models, learn={"quorum": 2, "update_every": 2}) as home:
        chat = home.conversation_id()
        first = home.say("a new pin please", "change_pin", conversation_id=chat, person_id="p")
        last = home.say(PLEASE, "card_arrival", conversation_id=chat, person_id="p", turn=2)
        other = home.say(PLEASE, "card_arrival")
        for number, decision in enumerate((last, other)):
            home.store.add_signal(solved(decision, f"solved-{number}"))
        home.resumed().step()
        assert lineage(home) == {last.id, other.id}
        assert first.id not in lineage(home)


def solved(decision: Decision, key: str) -> Signal:
    return Signal(key, decision.conversation_id, SignalKind.OUTCOME, 1.0, decision.person_id, decision.created_at)


def test_a_withdrawn_vote_is_a_new_revision_and_leaves_the_window(home: Home) -> None:
    """First update with the row, second without it: the withdrawal itself is news."""
    taken_back = home.teach(TAUGHT)[0]
    loop = home.resumed()
    loop.step()
    home.vote(taken_back, 0)
    home.teach(TAUGHT)
    loop.step()
    first, second = home.store.updates()
    assert taken_back.id in first.lineage
    assert taken_back.id not in second.lineage
    assert [reward.value for reward in home.store.rewards_of(taken_back.conversation_id)] == [0.5, None]


def test_after_a_rollback_learning_is_frozen_and_starts_from_there(home: Home) -> None:
    """Rolled back to v1: nothing is learned until it is unfrozen, and then v3's parent is v1 with v1's weights."""
    loop = home.resumed()
    for _ in range(2):
        home.teach(TAUGHT)
        loop.step()
    home.adapters.rollback("v000001", "worse")
    home.teach(TAUGHT)
    assert not loop.step()
    assert home.adapters.champion().version == "v000001"
    home.adapters.unfreeze("looked at it")
    assert loop.step()
    assert home.adapters.verify("v000003").parent == "v000001"


class Interrupted:
    """Conversation tests during whose n-th run something else happens. First run: the champion's; second: the
    candidate's."""

    def __init__(self, tests: ConversationTests, act: Callable[[], object], run: int) -> None:
        self.must_pass = tests.must_pass
        self._tests = tests
        self._acts = iter([*[lambda: None] * (run - 1), act])

    def refresh(self) -> None:
        self._tests.refresh()

    def results(self, adapter: str) -> TestResults:
        next(self._acts, lambda: None)()
        return self._tests.results(adapter)


def interrupted(loop: Loop, act: Callable[[], object], run: int = 2) -> None:
    loop.tests = cast("ConversationTests", Interrupted(loop.tests, act, run))


@pytest.mark.parametrize("what", ["freeze", "rollback"])
def test_an_operator_who_steps_in_during_an_update_has_the_last_word(home: Home, what: str) -> None:
    """Frozen or rolled back while it trains: nothing is published or consumed, and the weights are as before."""
    home.teach(TAUGHT)
    loop = home.resumed()
    loop.step()
    before, cursor = loop.learner.snapshot(), home.store.updates()[-1].cursor
    interrupted(loop, lambda: getattr(home.adapters, what)(reason="enough"))
    home.teach(TAUGHT)
    loop.step()
    assert home.adapters.versions() == ["v000001"]
    assert home.adapters.champion().version == ("v000001" if what == "freeze" else BASE_VERSION)
    assert home.store.updates()[-1].cursor == cursor
    assert same(loop.learner.snapshot(), before)
    home.adapters.unfreeze("go on")
    assert loop.step()
    assert [update.metrics["fresh"] for update in home.store.updates()] == [len(TAUGHT), len(TAUGHT)]


def test_stopping_in_the_middle_of_an_update_keeps_nothing_of_it(home: Home) -> None:
    """SIGTERM sets `stop`: `run` ends without a version, and the rows are still to be learned from."""
    home.teach(TAUGHT)
    loop = home.resumed()
    interrupted(loop, loop.stop.set, run=1)
    loop.run()
    assert home.store.updates() == []
    assert home.adapters.versions() == []
    assert home.resumed().step()
    assert home.adapters.versions() == ["v000001"]


def test_a_weight_that_is_no_number_is_never_published(home: Home) -> None:
    """NaN in the candidate: refused with a reason, the champion stays finite."""
    home.teach(TAUGHT)
    loop = home.resumed()
    tensor = next(iter(loop.learner.adapted["encoder"].parameters(CURRENT).values()))
    interrupted(loop, lambda: tensor.data.fill_(math.nan))
    loop.step()
    update = home.store.updates()[-1]
    assert update.outcome == "refused"
    assert any("finite" in reason for reason in update.metrics["gate"]["reasons"])
    assert loop.learner.is_finite()


@pytest.mark.parametrize("name", RECIPES)
def test_every_algorithm_of_the_ladder_makes_what_was_liked_likelier(home: Home, name: str) -> None:
    """Through the whole loop, gate included; `imitation` hears only what was liked."""
    home.teach(TAUGHT)
    recipe = RECIPES[name]
    quick = replace(QUICK, algorithm=name, loss=recipe.loss, epochs=recipe.epochs, batch_size=recipe.batch_size)
    assert home.resumed(config=quick).step()
    assert home.store.updates()[-1].outcome == "published"
    liked, disliked = (
        home.probability(PLEASE, article, "v000001") - home.probability(PLEASE, article, BASE_VERSION)
        for article in ("card_arrival", "lost_card")
    )
    assert liked > 0.003
    assert disliked < 0


@pytest.mark.parametrize(("before", "after"), [("head", "all"), ("all", "head")])
def test_a_home_goes_on_learning_when_the_layers_are_changed(home: Home, before: str, after: str) -> None:
    """The champion's weights are what is trained on, whichever layers it has; rows of it re-score."""
    home.teach(TAUGHT)
    assert home.resumed(config=replace(QUICK, layers=before)).step()
    home.teach(TAUGHT, version="v000001")
    loop = home.resumed(config=replace(QUICK, layers=after, learning_rate=3e-4))
    assert loop.step()
    update = home.store.updates()[-1]
    assert (update.outcome, update.metrics["refused"]["rescore"]) == ("published", 0)
    assert home.probability(PLEASE, "card_arrival", "v000002") > home.probability(PLEASE, "card_arrival", "v000001")
    home.adapters.rollback(BASE_VERSION, "no")
    loop.step()
    assert home.probability(PLEASE, "card_arrival", BASE_VERSION) == pytest.approx(
        float(loop.learner.score([home.say(PLEASE)], CURRENT)[0].exp()[_place(home, "card_arrival")]), abs=1e-5
    )


@pytest.mark.parametrize(("before", "after"), [("lora", "rslora"), ("rslora", "dora"), ("dora", "lora")])
def test_a_home_goes_on_learning_when_the_method_is_changed(home: Home, before: str, after: str) -> None:
    """The same tensors would be another function under another method: the champion's is kept, and its rows re-score."""
    home.teach(TAUGHT)
    assert home.resumed(config=replace(QUICK, layers="all", peft=before)).step()
    home.teach(TAUGHT, version="v000001")
    assert home.resumed(config=replace(QUICK, layers="all", peft=after)).step()
    update = home.store.updates()[-1]
    assert (update.outcome, update.metrics["refused"]["rescore"]) == ("published", 0)
    assert home.probability(PLEASE, "card_arrival", "v000002") > home.probability(PLEASE, "card_arrival", "v000001")


def _place(home: Home, article: str) -> int:
    """Of an article among the legal acts."""
    return [act.act for act in home.outlook(PLEASE)[0].legal].index(f"answer:{article}")


class FullOnce(AdapterStore):
    """A disk that is full when the first version is staged; stops the learner once a version serves."""

    loop: Loop
    num_staged = 0

    def stage(self) -> Path:
        """Fails the first time."""
        self.num_staged += 1
        if self.num_staged == 1:
            raise OSError(28, "No space left on device")
        return super().stage()

    def set_champion(self, version: str, reason: str, by: str) -> Champion:
        """And stop."""
        self.loop.stop.set()
        return super().set_champion(version, reason, by)


def test_a_full_disk_while_publishing_costs_the_update_nothing_but_time(home: Home) -> None:
    """The trained weights are dropped with the version: the second try starts from what serves, and gives the same."""
    home.teach(TAUGHT)
    adapters = FullOnce(home.settings.adapters, SECRET)
    adapters.loop = home.resumed(adapters=adapters)
    adapters.loop.run()
    assert adapters.num_staged == 2
    assert [update.outcome for update in home.store.updates()] == ["published"]
    assert home.probability(PLEASE, "card_arrival", "v000001") > home.probability(PLEASE, "card_arrival", BASE_VERSION)


def test_a_champion_that_cannot_be_loaded_does_not_end_learning(home: Home) -> None:
    """A version of another encoder, say of an older release: the learner begins anew and publishes the next."""
    home.teach(TAUGHT)
    assert home.resumed().step()
    (home.adapters.folder("v000001") / "encoder" / "adapter_model.safetensors").write_bytes(b"torn")
    home.teach(TAUGHT)
    assert home.resumed().step()
    assert home.store.updates()[-1].version == "v000002"
