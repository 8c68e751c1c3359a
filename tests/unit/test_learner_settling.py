"""The learner beside whoever applies new rules: neither waits for the other, and nothing is lost."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.feedback.rules import load_rules
from bot.feedback.settle import are_rewards_current, only_settler, put_in_force
from bot.worker import Progress
from online_learning.compare import compare
from tests.learner_rig import SECRET, Home, open_home, tiny_models

PLEASE = "my card please"
TAUGHT = [(PLEASE, "card_arrival", 1), (PLEASE, "lost_card", -1)] * 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def home(tmp_path: Path, models: Path) -> Iterator[Home]:
    with open_home(tmp_path, models) as opened:
        yield opened


def test_a_learner_that_starts_while_rules_are_applied_goes_on_without_settling(home: Home) -> None:
    """It neither waits nor crashes; once the other is done it settles as always."""
    home.teach(TAUGHT)
    before = home.store.settled_seq()
    with home.store.path.with_name("rewards.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        loop = home.resumed()
        loop.step()
        assert home.store.settled_seq() == before
    loop.step()
    assert home.store.settled_seq() > before


def test_a_running_learner_takes_over_the_rules_that_were_put_in_force(home: Home) -> None:
    """Every reward anew with its next step; the old revisions stay."""
    home.teach(TAUGHT[:3])
    loop = home.resumed()
    loop.step()
    file_rules = load_rules(home.domain.rewards_path)
    num_before = home.store.counts()["rewards"]
    text = home.domain.rewards_path.read_text()
    heavier = text.replace("down: -0.5", "down: -0.75")
    assert heavier != text
    put_in_force(home.store, heavier, file_rules, author="Ada", reason="sterner", now=1.0)
    loop.step()
    assert home.store.counts()["rewards"] > num_before
    assert len(home.store.rewards_by_rules()) == 2


def test_one_settles_at_a_time(home: Home) -> None:
    """The second is told so at once; afterwards the way is free."""
    with only_settler(home.store) as first, only_settler(home.store) as second:
        assert (first, second) == (True, False)
    with only_settler(home.store) as third:
        assert third


def test_rewards_are_current_until_other_rules_are_in_force(home: Home) -> None:
    """A home without rewards owes none."""
    rules = load_rules(home.domain.rewards_path)
    assert are_rewards_current(home.store, rules)


def test_two_versions_are_compared_on_the_same_questions(home: Home) -> None:
    """A version and the fresh install differ somewhere, a version and itself nowhere; progress counts questions."""
    home.teach(TAUGHT)
    assert home.resumed().step()
    secret = home.settings.home / "keys" / "secret"
    secret.parent.mkdir(exist_ok=True)
    secret.write_bytes(SECRET)
    told: list[int] = []
    progress = Progress(lambda line: told.append(line["done"]))
    questions = ["Where is my card?", "I lost my card"]
    task = {"settings": home.settings.as_flags(), "versions": ["v000000", "v000001"], "questions": questions}
    report = compare(task, progress)
    assert [line["text"] for line in report["questions"]] == questions
    assert all(0 <= line["distance"] <= 1 for line in report["questions"])
    assert max(line["distance"] for line in report["questions"]) > 0
    assert told[-1] == 2
    same = compare(task | {"versions": ["v000001", "v000001"]}, progress)
    assert (same["num_changed"], [line["distance"] for line in same["questions"]]) == (0, [0.0, 0.0])
