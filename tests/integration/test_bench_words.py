"""`rejoinder bench words` on tiny models: the real road from an operator's words to the figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bot.domain import load_domain
from bot.errors import ConfigError
from bot.policy.grounding import ungrounded
from bot.settings import Settings
from online_learning.bench.house_style import ANSWERS
from online_learning.bench.style import Reply
from online_learning.bench.words import NUM_TAUGHT, main, planned, styles, summary
from online_learning.demonstrations import LEAST_SHARE, names, share_held
from tests.learner_rig import tiny_models, write_bank


def options(**overrides: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"turns": 8, "seeds": 1, "json": True} | overrides)


@pytest.fixture
def settings(tmp_path: Path, make_settings: Callable[..., Settings]) -> Settings:
    """The shipped bank on tiny models; eight thumbs start an update."""
    models = tiny_models(tmp_path)
    folders = {"model": str(models / "encoder"), "causal_model": str(models / "causal")}
    # A tiny model spells a word in many tokens.
    return make_settings(
        domain="bank",
        engine={"dtype": "float32"},
        learn={"update_every": 8, "settle_s": 0.0},
        policy={"max_reply_tokens": 120},
        **folders,
    )


def test_an_operators_words_are_learned_judged_and_reported(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight turns, eight corrections, one update; figures of sixteen articles that nobody asked about."""
    code = main(settings, options())
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == int(not report["met"])
    assert (report["turns"], report["style_n"], report["seeds"]) == (8, 16, 1)
    assert 0 < report["loglik_n"] <= 16
    (update,) = report["updates"][0]
    # Whether the gate lets a version of random models pass is nothing to count on; the update had learned the words.
    assert update["words_rows"] > 0 < update["words_gain"]
    is_published = update["outcome"] == "published"
    assert (report["loglik_after"] > report["loglik_before"]) is is_published
    assert not list(settings.home.glob("bench-words/*"))


def test_another_domain_is_refused(tmp_path: Path, make_settings: Callable[..., Settings]) -> None:
    """The answers are about the bank that ships."""
    write_bank(tmp_path / "small")
    with pytest.raises(ConfigError, match="expected --domain bank"):
        main(make_settings(domain=str(tmp_path / "small")), options())


def test_nobody_asks_about_the_articles_that_are_judged(settings: Settings) -> None:
    """Nor asks a judged question; another seed draws others."""
    plan = planned(settings, 0)
    judged = {question.answer for question in plan.material.judged}
    assert len(judged) == len(ANSWERS) - NUM_TAUGHT
    assert not judged & {question.answer for question in plan.material.asked}
    assert not {q.text for q in plan.others} & {q.text for q in plan.material.asked}
    assert judged != {question.answer for question in planned(settings, 1).material.judged}


def test_every_answer_is_in_the_house_style_and_rests_on_its_article() -> None:
    """What is measured by them would else mean nothing."""
    articles = load_domain("bank").articles
    for name, text in ANSWERS.items():
        assert styles([Reply(text, None)]) == {"greets": [1.0], "asks_back": [1.0]}
        assert (ungrounded(text, (articles[name].answer,)), share_held(text, articles[name]) >= LEAST_SHARE) == (
            [],
            True,
        )
        assert max(articles.values(), key=lambda article: share_held(text, article)).id == name
        assert not names(text) - names(f"a {articles[name].answer} {articles[name].title}") - {"track", "add", "show"}


def seed(*, after: float, loglik: float, right: float) -> dict[str, Any]:
    """Twenty replies and answers, forty choices; at first no style, -2 nats a token, all right."""
    rates = lambda value: {"greets": [value] * 20, "asks_back": [0.0] * 20}  # noqa: E731
    marks = {"before": [1.0] * 40, "after": [right] * 40}
    return {
        "style_before": rates(0.0),
        "style_after": rates(after),
        "loglik_before": [-2.0] * 20,
        "loglik_after": [loglik] * 20,
        "invented_before": [[]] * 20,
        "invented_after": [["acme"], *[[]] * 19],
        "curve": [],
        "right": marks,
        "served": marks,
        "kl_acts": 0.0,
        "updates": [],
        "turns": 8,
        "seconds": 1.0,
    }


@pytest.mark.parametrize(
    ("after", "loglik", "right", "met"),
    [(1.0, -1.0, 1.0, True), (0.0, -1.0, 1.0, False), (1.0, -2.0, 1.0, False), (1.0, -1.0, 0.5, False)],
)
def test_the_target_is_likelihood_and_style_that_rise_and_choices_no_worse(
    after: float, loglik: float, right: float, met: bool
) -> None:
    """Each alone is not enough."""
    report = summary([seed(after=after, loglik=loglik, right=right)] * 2)
    assert (report["style_after"], report["greets"], report["loglik_after"]) == (after / 2, [0.0, after], loglik)
    assert report["met"] is met
