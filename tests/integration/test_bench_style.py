"""`rejoinder bench style` on tiny models: the whole road from a rules file to the figures, and what the figures are made of."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bot.errors import ConfigError
from bot.feedback.rules import parse_rules
from bot.settings import Settings
from online_learning.bench.style import RULES, main, summary, wishes_of
from tests.learner_rig import ARTICLES, tiny_models, write_bank


def options(**overrides: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"dataset": None, "eval": None, "turns": 32, "seeds": 1, "noise": "clean", "json": True} | overrides
    )


@pytest.fixture
def settings(tmp_path: Path, make_settings: Callable[..., Settings]) -> Settings:
    """A small bank on tiny models, with six questions."""
    models = tiny_models(tmp_path)
    bank = write_bank(tmp_path / "bank")
    pairs = [(text, name) for name, (_, texts) in list(ARTICLES.items())[:3] for text in texts]
    rows = (json.dumps({"text": text, "answer": name}) + "\n" for text, name in pairs)
    (bank / "demo_questions.jsonl").write_text("".join(rows))
    # In bfloat16 the wild weights of a tiny model are rounded by more than the probes of a version allow.
    precise = {"dtype": "float32"}
    folders = {"model": str(models / "encoder"), "causal_model": str(models / "causal")}
    return make_settings(domain=str(bank), engine=precise, **folders)


def test_a_style_of_the_rules_is_learned_judged_and_reported(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """One update of 32 replies and two questions that nobody asked. A finished seed is not run again."""
    code = main(settings, options())
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == int(not report["met"])
    assert (report["turns"], report["style_n"], report["eval_n"]) == (32, 2, 2)
    assert set(report["by_rule"]) == {"style/asks back", "style/stays short"}
    assert sum(part["replies"] for part in report["by_seed"][0]["curve"]) > 0
    assert report["by_seed"][0]["versions"] + report["by_seed"][0]["refused"] == 1
    assert not list(settings.home.glob("bench-style/*/home-*"))
    main(settings, options())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == report


def test_too_few_questions_are_told(settings: Settings, tmp_path: Path) -> None:
    """One can be asked or judged, not both."""
    (tmp_path / "one.jsonl").write_text('{"text": "where is my card", "answer": "card_arrival"}\n')
    with pytest.raises(ConfigError, match="expected 3 questions or more, got 1"):
        main(settings, options(dataset=tmp_path / "one.jsonl"))


def test_wishes_are_those_of_the_rules_file() -> None:
    """A short question grants both; forty words grant none."""
    rules = parse_rules(RULES)
    assert wishes_of(rules, "Which card?") == {"style/asks back": 1.0, "style/stays short": 1.0}
    assert set(wishes_of(rules, "word " * 40).values()) == {0.0}


def seed(*, after: float, right: list[float]) -> dict[str, Any]:
    """Two replies; before, one of four wishes was granted."""
    edge = {"words": [9, 9], "rouge_l": [0.5, 0.5], "generated": [1.0, 1.0]}
    marks = {"before": [1.0, 0.0] * 50, "after": right * 50}
    return {
        "before": edge | {"wishes": {"style/a": [1.0, 0.0], "style/b": [0.0, 0.0]}},
        "after": edge | {"wishes": {"style/a": [after, after], "style/b": [0.0, 0.0]}},
        "right": marks,
        "served": marks,
        "kl_words": 0.1,
        "kl_acts": 0.2,
        "curve": [],
        "updates": ["published", "refused"],
        "seconds": 1.0,
        "turns": 32,
    }


@pytest.mark.parametrize(
    ("after", "right", "met"), [(1.0, [1.0, 0.0], True), (0.5, [1.0, 0.0], False), (1.0, [0.0, 0.0], False)]
)
def test_the_target_is_twice_the_style_and_no_worse_choices(after: float, right: list[float], met: bool) -> None:
    """1/4 of the wishes at first; 2/4 is twice as much, 1/4 is not, and half the right answers lost is too dear."""
    report = summary([seed(after=after, right=right)] * 2)
    assert (report["style_before"], report["style_after"]) == (0.25, after / 2)
    assert report["met"] is met
    assert report["accuracy_before"] == 0.5
