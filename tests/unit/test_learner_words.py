"""What is said of words alone teaches words alone; numbers by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bot.conversation import Decision, RewardTerm
from bot.feedback.rules import Rules, parse_rules
from bot.feedback.store import Rated
from online_learning.advantages import Credit
from online_learning.loop import Loop
from online_learning.update import CURRENT
from online_learning.words import heard_apart, of_words
from tests.builders import make_decision, make_generated, make_reward
from tests.learner_rig import QUICK, REWARDS, Home, open_home, tiny_models, write_bank

STYLE = (
    REWARDS.replace("version: 1", "version: 2")
    + """\
rewards:
  style:
    rules:
      - {name: short, when: {expression: num_words < LIMIT}, applies_to: REACH, reward: 0.5}
"""
)


def style(limit: int, reach: str) -> str:
    """A rules file that likes few words; a rule for whole replies must hear a signal."""
    when = "applies_to: words" if reach == "words" else "cap: {conversation: 9}"
    return STYLE.replace("LIMIT", str(limit)).replace("applies_to: REACH", when)


RULES = parse_rules(style(40, "words"))
THUMB, SHORT = RewardTerm("thumb", -0.5, 1), RewardTerm("style/short", 0.5, 0)


def rated(*terms: RewardTerm, rules: Rules = RULES, decision_id: str = "d1") -> Rated:
    value = sum(term.value for term in terms)
    reward = make_reward(decision_id=decision_id, terms=terms, value=value, rules_hash=rules.rules_hash)
    return Rated(make_decision(id=decision_id), reward)


def test_acts_do_not_hear_what_words_earned() -> None:
    """-0.5 for the act and +0.5 for its words are -0.5 to the one and 0.5 to the others, not 0 to both."""
    heard = heard_apart([rated(THUMB, SHORT)], RULES)
    assert [row.reward.value for row in heard.rows] == [-0.5]
    assert heard.words == {"d1": 0.5}
    assert heard.tell(Credit(make_decision(id="d1"), 0.0, 0.0)).words == 0.5


def test_without_such_rules_nothing_changes() -> None:
    """The very rows, and words that hear what the act hears."""
    plain = parse_rules(REWARDS)
    rows = [rated(THUMB, rules=plain)]
    heard = heard_apart(rows, plain)
    assert heard.rows == rows
    assert heard.tell(Credit(make_decision(id="d1"), 0.0, 0.0)).words is None


def test_a_row_that_only_speaks_of_words_neither_moves_acts_nor_judges_them() -> None:
    """Its weight is 0, and the gate does not see it; the other one counts."""
    heard = heard_apart([rated(SHORT), rated(THUMB, decision_id="d2")], RULES)
    weights = [heard.tell(Credit(row.decision, 0.0, 0.0)).weight for row in heard.rows]
    assert weights == [0.0, 1.0]
    assert [row.decision.id for row in heard.judged] == ["d2"]


def test_rewards_of_other_rules_say_nothing_of_style() -> None:
    """A row from before the rule has no term of it: that is not a reply that lacked the style."""
    heard = heard_apart([rated(THUMB, rules=parse_rules(REWARDS))], RULES)
    assert heard.words == {}


def rows(*words: float | None) -> list[Credit]:
    decision = make_decision(generated=make_generated())
    return [Credit(decision, 9.0, 0.0, weight=0.0, words=reward) for reward in words]


def test_words_are_compared_with_the_others_of_the_update() -> None:
    """0.5, 0 and 0.25: mean 0.25, standard deviation 0.2041, so 1.2247, -1.2247 and 0. A row without is left out."""
    heard = of_words(rows(0.5, 0.0, None, 0.25))
    assert [row.advantage for row in heard] == pytest.approx([1.2247, -1.2247, 0.0], abs=1e-4)
    assert [row.weight for row in heard] == [1.0, 1.0, 1.0]


def test_a_style_that_all_have_or_none_teaches_nothing() -> None:
    """Nothing sets a reply apart; without any word of words the rows stay as they are."""
    assert of_words(rows(0.5, 0.5)) == []
    assert [row.advantage for row in of_words(rows(None, None))] == [9.0, 9.0]


# --- in the learner ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))


def learned(folder: Path, models: Path, reach: str) -> Iterator[tuple[Loop, list[Decision], Home]]:
    """A learner after eight disliked replies, every other one of few words."""
    rules = style(3, reach)
    (write_bank(folder / "bank") / "rewards.yml").write_text(rules)
    with open_home(folder, models, learn={"update_every": 8}) as home:
        replies = [
            home.write(
                "where is my card", "card_arrival", seed, text="two words" if seed % 2 else "here are four words"
            )
            for seed in range(8)
        ]
        for reply in replies:
            home.vote(reply, -1)
        loop = home.resumed(config=replace(QUICK, text_learning_rate=5e-3, text_epochs=4))
        loop.step()
        yield loop, replies, home


@pytest.mark.parametrize("reach", ["words", "reply"])
def test_style_in_the_rules_moves_the_words_and_leaves_the_act_to_its_thumbs(
    tmp_path: Path, models: Path, reach: str
) -> None:
    """All thumbs are down: words of short replies gain on the others all the same. The control is the same rule for whole
    replies: there the thumb and the style cancel out, and the act is blamed less than its thumbs say."""
    for loop, replies, home in learned(tmp_path, models, reach):
        assert loop.learner.writer is not None
        writer, texts = loop.learner.writer, [reply.generated for reply in replies if reply.generated]
        with torch.no_grad():
            gains = [
                float((writer.token_logprobs([t], [CURRENT])[0] - writer.token_logprobs([t], ["__base__"])[0]).mean())
                for t in texts
            ]
        short, long = sum(gains[1::2]) / 4, sum(gains[::2]) / 4
        assert short > long + 0.05
        heard = [row.reward.value for row in loop.drawing.heard(home.store.last_reward_seq(), 100).rows]
        assert heard == ([-0.5] * 8 if reach == "words" else [-0.5, 0.0] * 4)
