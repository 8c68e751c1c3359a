"""kill -9 of the real server and the real learner under traffic. Five times each; REJOINDER_CRASHES changes that.

`pytest -o addopts= tests/integration/test_crash_processes.py` with REJOINDER_CRASHES=50 is `rejoinder bench crash`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bot.feedback.store import Store
from online_learning.bench.crash import audit, is_well, run
from online_learning.bench.product import questions_of
from online_learning.bench.steadfast import Steadfast
from online_learning.evaluate import Question
from online_learning.simulate.processes import free_port
from tests.learner_rig import ARTICLES, Home, open_home, tiny_models

NUM_CRASHES = int(os.environ.get("REJOINDER_CRASHES", "5"))


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with open_home(tmp_path, tiny_models(tmp_path_factory.mktemp("models"))) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * NUM_CRASHES)
def test_killing_server_and_learner_loses_and_doubles_nothing(home: Home) -> None:
    """Nobody but the supervisor helps: all votes and messages once, every reward in one update, versions that serve."""
    settings = replace(home.settings, port=free_port())
    questions = [Question(text, name) for name, (_, texts) in ARTICLES.items() for text in texts]
    report = run(settings, questions, NUM_CRASHES, seed=0)
    assert (report["server_kills"], report["learner_kills"]) == (NUM_CRASHES, NUM_CRASHES)
    assert report["acked"] > NUM_CRASHES
    assert report["reconnects"] > 0
    assert report["updates"] > 0
    assert is_well(report), report


def acked(home: Home, **votes: int) -> list[Steadfast]:
    """A person whose votes by these keys were acknowledged, on the one reply there is."""
    return [Steadfast(0, "p", acked={key: ("m-d", value) for key, value in votes.items()})]


def replied(home: Home) -> None:
    """One reply with one vote `k` up."""
    home.vote(home.say("where is my card", "card_arrival", id="d"), 1, key="k")


def test_the_audit_is_content_with_what_is_as_acknowledged(home: Home) -> None:
    """Nothing to find."""
    replied(home)
    found = audit(home.settings, acked(home, k=1))
    assert (found.lost, found.doubled, found.miscounted) == (0, 0, 0)
    assert found.is_intact
    assert found.champion_is_last


def test_the_audit_finds_a_lost_vote(home: Home) -> None:
    """Control: one that was acknowledged and is not there, one that says something else."""
    replied(home)
    assert audit(home.settings, acked(home, k=1, gone=1)).lost == 1
    assert audit(home.settings, acked(home, k=-1)).lost == 1


def test_the_audit_finds_a_lost_message(home: Home) -> None:
    """Control: an acknowledged question that is not stored."""
    replied(home)
    assert audit(home.settings, [Steadfast(0, "p", sent={"p-1"})]).lost == 1


def test_the_audit_finds_a_doubled_vote_and_a_doubled_reply(home: Home) -> None:
    """Control: the same key by another author, and two decisions in one turn."""
    replied(home)
    decision = home.store.decision("d")
    home.vote(decision, 1, key="k", author="somebody")
    home.keep(replace(decision, id="d2"))
    assert audit(home.settings, acked(home, k=1)).doubled == 2


def test_the_audit_finds_an_update_that_counted_wrong(home: Home) -> None:
    """Control: an update row that says it took in more than there was."""
    home.teach([("where is my card", "card_arrival", 1)] * 4)
    home.resumed().step()
    assert audit(home.settings, []).miscounted == 0
    update = home.store.updates()[-1]
    home.store.commit_update(replace(update, metrics={"fresh": 4}, seq=0))
    assert audit(home.settings, []).miscounted == 1


def test_the_audit_finds_an_orphan_version(home: Home) -> None:
    """Control: a version in the folder that no update committed."""
    home.teach([("where is my card", "card_arrival", 1)] * 4)
    home.resumed().step()
    assert audit(home.settings, []).champion_is_last
    home.adapters.folder("v000001").rename(home.adapters.root / "v000002")
    assert not audit(home.settings, []).champion_is_last


def test_without_a_dataset_the_domains_own_questions_are_asked(home: Home) -> None:
    """Two examples of each of five articles, two of the sixth."""
    questions = questions_of(argparse.Namespace(dataset=None), home.domain)
    assert len(questions) == 12
    assert Question("where is my card", "card_arrival") in questions
    with Store(home.settings.database, readonly=True) as store:
        assert store.counts()["conversations"] == 0
