"""Operators' own words in the learner: what they change, which version says so, and what becomes of them afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bot.conversation import Decision, Generated
from bot.errors import NotFound
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Case
from bot.feedback.store import Store, UpdateRow
from online_learning.checkpoint import load_checkpoint
from online_learning.loop import Loop
from online_learning.update import CURRENT
from tests.builders import make_message
from tests.learner_rig import QUICK, STRICT, Home, open_home

ANA = Doing("operator:ana", 5000.0)
QUESTION = "where is my card"
SAID = "Hello, here is what to do about it: card arrival. Does that help?"
FAST = replace(QUICK, text_learning_rate=5e-3)


def asked(home: Home, seed: int = 0, **overrides: Any) -> Decision:
    """A question, and a reply by decision that its person rated; the first ones of a home are generated."""
    chat = home.conversation_id()
    fields = {"conversation_id": chat, "person_id": f"p{chat}"} | overrides
    reply = home.write(QUESTION, "card_arrival", seed, **fields)
    home.vote(reply, 1)
    return reply


def correct(home: Home, reply: Decision, name: str = "case_a", text: str = SAID) -> Case:
    """An operator's words for a reply."""
    case = Case(
        name, ANA.at, ANA.actor, QUESTION, f"answer:{name}", text, "Hm.", reply.act, reply.conversation_id, reply.id
    )
    home.store.desk.add_case(ANA, case)
    return case


def with_question(home: Home, reply: Decision) -> Decision:
    """The reply's question as a message before it: `Home.keep` stores replies alone."""
    question = make_message(id=f"q-{reply.id}", conversation_id=reply.conversation_id, text=QUESTION)
    home.store.add_user_message(question)
    return reply


def four(home: Home) -> list[Decision]:
    """As many rated replies as start an update."""
    return [with_question(home, asked(home, seed)) for seed in range(4)]


def gain(loop: Loop, words: Generated) -> float:
    """Mean nats a token by which the version makes them likelier than the base model does."""
    assert loop.learner.writer is not None
    with torch.no_grad():
        now, then = (loop.learner.writer.token_logprobs([words], [name])[0] for name in (CURRENT, "__base__"))
    return float((now - then).mean())


def drawn(loop: Loop) -> dict[str, Generated]:
    """The words that the next update would learn from."""
    return loop.drawing._own_words(set())[0]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_an_operators_words_become_likelier(home: Home, weight: float) -> None:
    """By what the weights learned, not by a case. Control: at weight 0 the words are not looked at, and no version names them."""
    correct(home, four(home)[0])
    loop = home.resumed(config=replace(FAST, words_weight=weight))
    words = drawn(home.resumed(config=FAST))["case_a"]
    loop.step()
    update = home.store.updates()[-1]
    assert (update.outcome, update.metrics["words_rows"], "case_a" in update.lineage) == (
        "published",
        weight,
        weight > 0,
    )
    assert (gain(loop, words) > 0.3) is (weight > 0)
    assert ("words_nll" in update.metrics) is (weight > 0)


def test_replies_are_learned_from_beside_them(home: Home) -> None:
    """One update, both losses: a disliked reply becomes less likely while the operator's words become likelier."""
    replies = four(home)
    home.vote(replies[0], -1)
    correct(home, replies[0])
    loop = home.resumed(config=FAST)
    words = drawn(loop)
    loop.step()
    bad = replies[0].generated
    assert bad is not None
    assert gain(loop, bad) < 0 < gain(loop, words["case_a"])
    assert home.store.updates()[-1].metrics["text_policy_loss"] != 0


def test_the_version_that_learned_them_says_so(home: Home) -> None:
    """In its manifest, in the update's lineage, and on the case; who taught it by replies is counted as before."""
    replies = four(home)
    case, other = correct(home, replies[0]), correct(home, replies[1], "case_b", "Nothing that the article says.")
    home.resumed(config=FAST).step()
    lineage = home.adapters.verify("v000001").lineage
    assert (lineage["case_ids"], lineage["num_decisions"]) == (["case_a"], 4)
    assert "case_a" in home.store.updates()[-1].lineage
    told = {one.id: (one.taught, one.words_taught) for one in home.store.desk.followed([case, other])}
    assert told == {"case_a": ("", "v000001"), "case_b": ("", "")}
    assert home.store.lessons("v000001")[0] == 4
    assert home.store.updates()[-1].metrics["words_refused"] == {"source": 1}


@pytest.mark.parametrize(("known", "teaches"), [(0.0, True), (1e9, False)])
def test_words_that_are_known_teach_no_more(home: Home, known: float, teaches: bool) -> None:
    """They would be learned by heart otherwise: the control."""
    correct(home, four(home)[0])
    loop = home.resumed(config=replace(FAST, words_known_nll=known))
    words = drawn(home.resumed(config=FAST))["case_a"]
    loop.step()
    metrics = home.store.updates()[-1].metrics
    assert (metrics["words_known"], "words_nll" in metrics) == ((0, True) if teaches else (1, False))
    assert (gain(loop, words) > 0.3) is teaches


def test_a_refused_update_learned_nothing(home: Home) -> None:
    """The row says what it drew from; no version does, and the next update draws on the words again."""
    correct(home, four(home)[0])
    loop = home.resumed(config=FAST, thresholds=STRICT)
    loop.step()
    assert home.store.updates()[-1].outcome == "refused"
    assert home.store.desk.followed(home.store.desk.cases())[0].words_taught == ""
    assert drawn(loop).keys() == {"case_a"}


def test_an_erased_conversations_words_teach_no_more(home: Home) -> None:
    """The note names the version that had learned them, also where the reply itself was not rated; the next one does not."""
    four(home)
    silent = with_question(home, home.write(QUESTION, "card_arrival", 9, conversation_id=home.conversation_id()))
    correct(home, silent)
    loop = home.resumed(config=FAST)
    loop.step()
    assert home.store.updates()[-1].lineage[-1] == "case_a"
    erased = home.store.erase_conversation(silent.conversation_id, author="person", at=6000.0)
    assert erased.versions == ("v000001",)
    with pytest.raises(NotFound):
        home.store.desk.case("case_a")
    assert drawn(loop) == {}
    four(home)
    loop.step()
    update = home.store.updates()[-1]
    assert (update.seq, update.metrics["words_rows"]) == (2, 0)
    assert "case_a" not in update.lineage


def test_where_no_reply_was_ever_generated_no_causal_model_is_loaded(home: Home) -> None:
    """Approved replies learn no words; the words wait in their case."""
    for reply in home.teach([(QUESTION, "card_arrival", 1)] * 4):
        correct(home, with_question(home, reply), f"case_{reply.id}")
    loop = home.resumed(config=FAST)
    loop.step()
    assert loop.learner.writer is None
    assert home.store.updates()[-1].metrics["words_rows"] == 0


class Killed(Exception):
    """The process ends here."""


class DyingStore(Store):
    """Ends the process when version and checkpoint are on disk and the row is not."""

    def commit_update(self, update: UpdateRow) -> int:
        raise Killed


def learned(folder: Path, models: Path, *, dies: bool) -> dict[str, Tensor]:
    """Weights and moments of the causal part after two updates, the second of them made twice if asked."""
    folder.mkdir()
    with open_home(folder, models) as home:
        correct(home, four(home)[0])
        home.resumed(config=FAST).step()
        correct(home, four(home)[1], "case_b", SAID.replace("Hello", "Good day"))
        if dies:
            with DyingStore(home.settings.database) as store, pytest.raises(Killed):
                home.resumed(config=FAST, store=store).step()
        loop = home.resumed(config=FAST)
        loop.step()
        assert [set(row.lineage) & {"case_a", "case_b"} for row in home.store.updates()] == [
            {"case_a"},
            {"case_a", "case_b"},
        ]
        again = home.resumed(config=FAST).learner
        load_checkpoint(home.settings.learner, "checkpoint-000002", again, "v000002")
        moments = again.optimizers["text"].state_dict()["state"]
        return again.adapted["causal"].weights(CURRENT) | {f"m{i}": entry["exp_avg"] for i, entry in moments.items()}


def test_a_learner_that_was_killed_learns_the_same_words_to_the_last_bit(tmp_path: Path, models: Path) -> None:
    """Killed between the checkpoint and the row of the second update; the control was not. Each row once a version."""
    whole, killed = (learned(tmp_path / name, models, dies=dies) for name, dies in (("a", False), ("b", True)))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
