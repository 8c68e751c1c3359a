"""`bench speed` end to end on tiny models: every figure is there and counts what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from online_learning.bench.speed import Plan, run
from online_learning.evaluate import Question
from tests.learner_rig import ARTICLES, Home, open_home, tiny_models

QUESTIONS = [Question(text, name) for name, (_, texts) in ARTICLES.items() for text in texts]
PLAN = Plan(num_decisions=1000, num_repeats=1, num_copied=40, num_stored=100, num_texts=4)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    learn = {"update_every": 4, "threads": 1}
    with open_home(tmp_path, tiny_models(tmp_path / "models"), learn=learn) as opened:
        yield opened


@pytest.mark.slow
def test_every_part_is_measured(home: Home) -> None:
    """Updates of both recipes, both text learners with their memory, and the store's sizes."""
    report = run(home.settings, QUESTIONS, PLAN)
    encoder, causal, store = report["encoder"], report["causal"], report["store"]
    assert encoder["head"]["thumbs_per_second"] == pytest.approx(4 / encoder["head"]["update_s"], rel=0.05)
    assert encoder["speedup"] == pytest.approx(encoder["all"]["update_s"] / encoder["head"]["update_s"], rel=0.05)
    assert causal["plain"]["tflop"] >= causal["learner"]["tflop"]
    assert causal["speedup"] == causal["speedup_by_turn"][0] > 0
    assert min(causal[name]["peak_mib"] for name in ("learner", "plain")) >= causal["loaded_mib"] - 20 > 0
    assert [row["decisions"] for row in store["sizes"]] == [1000]
    assert 0 < store["sizes"][0]["reads_ms"] < 1000 * store["sizes"][0]["update_s"]
    assert store["update_s_ratio"] == 1.0
