"""`bench peft`: every method learns from the same rows, and what one learner is told is what the thumbs said."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bot.errors import ConfigError
from bot.policy.adapted import BASE
from bot.policy.model import PolicyModel
from bot.settings import load_settings
from online_learning.bench.peft import LEARNING_RATES, IA3Encoder, Logged, _drawn, learned, log_stream, main, recipe
from online_learning.config import PEFT_METHODS
from online_learning.evaluate import Question, with_knowledge
from online_learning.offline import OfflinePolicy
from online_learning.update import CURRENT, Learner
from tests.service_rig import make_domain
from tests.tiny_models import tiny_encoder, tiny_policy

QUESTIONS = [Question(f"where is my card? {i}", "card_arrival") for i in range(64)]


def knowledge(path: Path) -> Path:
    texts = {"card_arrival": "When will my card arrive?", "lost_card": "I lost my card", "top_up": "Top up by transfer"}
    path.write_text("\n".join(json.dumps({"answer": name, "exemplar": text}) for name, text in texts.items()))
    return path


@pytest.fixture
def logged(tmp_path: Path) -> Logged:
    model = tiny_policy(tmp_path)
    settings = load_settings({"home": tmp_path / "home", "policy": {"temperature": 1.0}}, {})
    domain = with_knowledge(make_domain(), [knowledge(tmp_path / "kb.jsonl")])
    offline = OfflinePolicy(model, domain, settings)
    return log_stream(model, offline, QUESTIONS, QUESTIONS[:4], seed=0)


def test_a_thumb_says_whether_the_reply_was_right(logged: Logged) -> None:
    """1 for the right article and -1 for others, half a point above the recipe's baseline of -0.5."""
    assert len(logged.earned) == 64
    for credit in logged.earned:
        right = credit.decision.act == "answer:card_arrival"
        assert (credit.value_target, credit.advantage) == ((1.0, 1.5) if right else (-1.0, -0.5))
    assert {credit.value_target for credit in logged.earned} == {1.0, -1.0}


def test_only_answers_are_legal_and_propensities_are_those_of_the_base(logged: Logged) -> None:
    """Each row's distribution is whole, and the stored log-probability is of the chosen act."""
    for credit in logged.earned:
        decision = credit.decision
        assert all(act.act.startswith("answer:") for act in decision.legal)
        assert np.exp(decision.logprobs).sum() == pytest.approx(1.0, abs=1e-5)
        assert decision.version == BASE


def test_an_update_draws_the_fresh_rows_and_a_share_of_the_older(logged: Logged) -> None:
    """Of 64 rows with room for 40: the last 32, and 8 of the first 32."""
    drawn = [row.decision.id for row in _drawn(logged.earned, 64, 40, np.random.default_rng(0))]
    ids = [row.decision.id for row in logged.earned]
    assert drawn[8:] == ids[32:]
    assert len(set(drawn[:8])) == 8
    assert set(drawn[:8]) <= set(ids[:32])


@pytest.mark.parametrize("method", LEARNING_RATES)
def test_every_method_learns_what_the_thumbs_say(tmp_path: Path, logged: Logged, method: str) -> None:
    """After the stream the right article is likelier than at the start, on questions of the stream's kind."""
    learner, took_s = learned(tmp_path / "encoder", method, logged, seed=0)
    rows = list(logged.judged_rows)
    place = [act.act for act in rows[0].legal].index("answer:card_arrival")
    with torch.no_grad():
        before, after = (
            learner.model.score(rows, [name] * len(rows)).logprobs_B_A[0, place] for name in (BASE, CURRENT)
        )
    assert float(after) > float(before)
    assert took_s > 0
    assert learner.is_finite()


def test_fresh_factors_change_nothing_and_train_alone(tmp_path: Path) -> None:
    """IA3 starts at 1; the base stays frozen."""
    encoder = IA3Encoder(tiny_encoder(tmp_path), device=torch.device("cpu"))
    learner = Learner(PolicyModel(encoder), recipe("ia3"))
    ids = [(2, 5, 6, 3), (2, 9, 3)]
    with torch.no_grad():
        assert torch.allclose(encoder.embed_ids(ids, [CURRENT] * 2), encoder.embed_ids(ids, [BASE] * 2), atol=1e-6)
    trained = {name for name, p in encoder.model._need().named_parameters() if p.requires_grad}
    assert trained
    assert all("ia3" in name for name in trained)
    assert all(bool((tensor == 1).all()) for tensor in learner.model.encoder.model.weights(CURRENT).values())


def test_every_method_that_can_be_served_is_measured() -> None:
    """And IA3 beside them."""
    assert set(LEARNING_RATES) == {*PEFT_METHODS, "ia3"}


def test_missing_files_are_said_in_one_line(tmp_path: Path) -> None:
    """Before any model is loaded."""
    with pytest.raises(ConfigError, match=r"expected --online F.jsonl and --eval F.jsonl"):
        main(load_settings({"home": tmp_path}, {}), argparse.Namespace(online=None, dataset=None, eval=None))
