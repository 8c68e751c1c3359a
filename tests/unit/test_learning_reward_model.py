"""The model of the thumb: figures by hand, calibration that repairs what is off, and rows that are refused."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bot.errors import ConfigError
from bot.policy.encoder import EncoderPart
from online_learning.bench.reward import RatedReply, _auc_of_peers, load_rated, measure, out_of_fold
from online_learning.reward_model import (
    auc,
    auc_interval,
    brier,
    calibration_error,
    features,
    fit_logistic,
    fit_platt,
    fit_reward_model,
    word_features,
)
from online_learning.statistics import seeded
from tests.tiny_models import tiny_encoder


def row(i: int, **overrides: Any) -> dict[str, Any]:
    return {"id": f"c{i}", "context": f"where is card {i}?", "reply": f"it comes in {i} days", "up": i % 2} | overrides


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(one) for one in rows))
    return path


def sigmoid_rows(count: int, slope: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """One standard normal feature and votes drawn from sigmoid(slope * feature)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, generator=generator)
    return x, torch.bernoulli(torch.sigmoid(slope * x[:, 0]), generator=generator)


# --- figures ----------------------------------------------------------------------------------------------------------
def test_auc_counts_pairs_in_the_right_order() -> None:
    """Ups at 3 and 1, downs at 2 and 0: of four pairs (3,2) (3,0) (1,0) are right, (1,2) is not."""
    assert auc([3, 1, 2, 0], [1, 1, 0, 0]) == 0.75
    assert auc([0, 0, 0, 0], [1, 1, 0, 0]) == 0.5


def test_auc_of_shares_is_that_of_the_single_votes() -> None:
    """A row of three votes with two ups is three rows of one vote."""
    scores, ups = np.repeat([0.2, 0.7, 0.4], 3), [1, 0, 0, 1, 1, 0, 0, 0, 0]
    assert auc([0.2, 0.7, 0.4], [1 / 3, 2 / 3, 0.0], [3, 3, 3]) == pytest.approx(auc(scores, ups))


def test_auc_against_the_definition_on_random_scores_with_ties() -> None:
    """All pairs in two loops."""
    rng = np.random.default_rng(0)
    scores, ups = rng.integers(0, 6, 40), rng.integers(0, 2, 40)
    pairs = [(a > b) + (a == b) / 2 for a in scores[ups == 1] for b in scores[ups == 0]]
    assert auc(scores, ups) == pytest.approx(np.mean(pairs))


def test_the_interval_holds_whole_conversations_together() -> None:
    """200 rows that are four rows 50 times over, one cluster each: as unsure as four rows. Control: single rows are not."""
    scores, ups = np.tile([4.0, 1.0, 3.0, 2.0], 50), np.tile([1.0, 0.0, 0.0, 1.0], 50)
    wide = auc_interval(scores, ups, seeded(0, "t"), np.tile([0, 1, 2, 3], 50))
    narrow = auc_interval(scores, ups, seeded(0, "t"), np.arange(200))
    assert wide.mean == narrow.mean == pytest.approx(0.75)
    assert narrow.hi - narrow.lo < 0.2
    assert wide.hi - wide.lo > 0.5


def test_calibration_error_is_the_gap_in_each_bin() -> None:
    """Two bins: 0.2 said and 0.5 seen over two rows, 0.9 said and 1.0 seen over two: (2 * 0.3 + 2 * 0.1) / 4."""
    assert calibration_error([0.2, 0.2, 0.9, 0.9], [0, 1, 1, 1], num_bins=2) == pytest.approx(0.2)
    assert calibration_error([1.0, 0.0], [1, 0]) == 0.0


def test_brier_is_over_single_votes() -> None:
    """P 0.8, votes up, up, down: (0.04 + 0.04 + 0.64) / 3."""
    assert brier([0.8], [2 / 3]) == pytest.approx(0.24)


def test_other_raters_foresee_a_vote_by_their_mean() -> None:
    """Two raters: (1, 1), (0, 0), (1, 0). Each is foretold by the other: ups at 1, 1, 0; downs at 0, 0, 1.

    Nine pairs: two ups at 1 beat two downs at 0 (4), tie with the down at 1 (1); the up at 0 ties twice (1): 6 / 9.
    """
    rows = [RatedReply("a", "", "", ratings) for ratings in ((1.0, 1.0), (0.0, 0.0), (1.0, 0.0))]
    assert _auc_of_peers(rows) == pytest.approx(6 / 9)


# --- the model --------------------------------------------------------------------------------------------------------
def test_the_fit_finds_the_slope_that_made_the_votes() -> None:
    """20,000 votes from sigmoid(2 x): within 0.1."""
    found = fit_logistic(*sigmoid_rows(20_000, 2.0), penalty=0.0)
    assert float(found.weights_F[0] / found.scale_F[0]) == pytest.approx(2.0, abs=0.1)


def test_without_features_that_vary_it_says_the_base_rate() -> None:
    """Three of four liked: log-odds of 3; a constant feature gets no say, whatever its value later."""
    found = fit_logistic(torch.full((4, 1), 7.0), torch.tensor([1.0, 1.0, 1.0, 0.0]), penalty=0.1)
    assert found.logits(torch.tensor([[7.0], [99.0]])).tolist() == pytest.approx([log(3), log(3)], abs=1e-3)


def test_platt_scaling_undoes_a_wrong_slope_and_shift() -> None:
    """Votes from sigmoid(x), logits given as 3 x + 1: slope 1/3, shift -1/3."""
    x, ups = sigmoid_rows(20_000, 1.0)
    slope, shift = fit_platt(3 * x[:, 0] + 1, ups)
    assert slope == pytest.approx(1 / 3, abs=0.03)
    assert shift == pytest.approx(-1 / 3, abs=0.05)


def test_calibration_repairs_an_overconfident_model() -> None:
    """30 rows of 40 noise features overfit; on fresh rows the calibrated error is far below the raw one."""
    generator = torch.Generator().manual_seed(1)
    noise = [torch.randn(count, 40, generator=generator) for count in (60, 2000, 4000)]
    votes = [torch.bernoulli(torch.full((len(x),), 0.8), generator=generator) for x in noise]
    model = fit_reward_model((noise[0], votes[0]), (noise[1], votes[1]), penalties=(1e-4,))
    raw = torch.sigmoid(model.logistic.logits(noise[2]))
    assert calibration_error(raw, votes[2]) > 0.15
    assert calibration_error(model.probability(noise[2]), votes[2]) < 0.05


def test_the_penalty_is_the_one_that_foresees_the_calibration_rows() -> None:
    """60 rows of noise: strong shrinkage wins over none."""
    generator = torch.Generator().manual_seed(2)
    x, held = torch.randn(60, 40, generator=generator), torch.randn(2000, 40, generator=generator)
    ups = torch.bernoulli(torch.full((60,), 0.5), generator=generator)
    held_ups = torch.bernoulli(torch.full((2000,), 0.5), generator=generator)
    assert fit_reward_model((x, ups), (held, held_ups), penalties=(1e-6, 10.0)).penalty == 10.0


def test_word_features_by_hand() -> None:
    """Asked 4 words, said 5 (all different) of which `card` is shared; 5 is a new number; no question; `not` denies."""
    found = word_features("where is my card", "card not before 5 days")
    expected = (log(6), log(23), log(5), 1 / 5, 1 / 4, 1.0, 1.0, 0.0, 0.0, 1.0)
    assert found == pytest.approx(expected)
    assert len(word_features("", "")) == len(expected)


def test_features_hold_both_texts_and_how_they_differ() -> None:
    """D = 2: x (1, 0), y (0.6, 0.8), product (0.6, 0), distance (0.4, 0.8), cosine 0.6, then the words."""
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    found = features(x, y, [("a", "b")])[0]
    assert found[:9].tolist() == pytest.approx([1.0, 0.0, 0.6, 0.8, 0.6, 0.0, 0.4, 0.8, 0.6])
    assert len(found) == 4 * 2 + 11


# --- out of fold, and files -------------------------------------------------------------------------------------------
def test_a_row_is_never_judged_by_a_model_that_saw_its_id() -> None:
    """Each id's vote is a coin toss told by a feature of its own: learned by heart it would be certain, out of fold it is not.

    Control: split by row instead of by id, the same model knows nearly every vote.
    """
    rng = np.random.default_rng(0)
    owner, up = np.repeat(np.arange(40), 6), np.repeat(rng.integers(0, 2, 40), 6)
    rows = [RatedReply(f"c{i}", "q", "r", (float(u),)) for i, u in zip(owner, up, strict=True)]
    seen = torch.eye(40)[owner]
    apart = out_of_fold(seen, rows, [one.id for one in rows], seed=0).calibrated
    mixed = out_of_fold(seen, rows, [str(i) for i in range(len(rows))], seed=0).calibrated
    assert auc(apart, up) < 0.75
    assert auc(mixed, up) > 0.95


def test_three_shapes_of_rows_are_read(tmp_path: Path) -> None:
    """Ours, rated FAQ answers of 1..5, and rewarded generations with their context as JSON."""
    context = json.dumps([{"role": "user", "text": "a latte"}, {"role": "api", "response": {"ok": True}}])
    other = [
        {"i": 7, "faq_q": "open?", "faq_a": "At nine.", "resp": "At nine.", "acc": [5, 4, 1]},
        {"conversation_id": "d", "context": context, "generation": '{"role": "agent", "text": "Done."}', "reward": 1.0},
    ]
    rows = load_rated(write(tmp_path / "rows.jsonl", [row(i) for i in range(60)] + other))
    assert rows[0] == RatedReply("c0", "where is card 0?", "it comes in 0 days", (0.0,))
    assert rows[-2] == RatedReply("7", "open?", "At nine.", (1.0, 0.75, 0.0), "At nine.")
    assert rows[-2].ups == pytest.approx(2 / 3)
    assert rows[-1] == RatedReply("d", 'a latte {"response": {"ok": true}}', "Done.", (1.0,))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"up": 3}, "rows.jsonl:1: expected"),
        ({"reply": ""}, "rows.jsonl:1: expected"),
        ({"reply": 5}, "rows.jsonl:1: expected"),
        ({"up": []}, "rows.jsonl:1: expected"),
    ],
)
def test_a_row_that_is_none_is_refused_by_line(tmp_path: Path, broken: dict[str, Any], message: str) -> None:
    """File, line, expected, got."""
    path = write(tmp_path / "rows.jsonl", [row(0) | broken, *[row(i) for i in range(1, 60)]])
    with pytest.raises(ConfigError, match=message):
        load_rated(path)


def test_too_few_rows_and_one_kind_of_vote_are_refused(tmp_path: Path) -> None:
    """Nothing can be learned from them, nor judged."""
    with pytest.raises(ConfigError, match="expected 50 rows of 5 ids or more, got 10"):
        load_rated(write(tmp_path / "few.jsonl", [row(i) for i in range(10)]))
    with pytest.raises(ConfigError, match="got one kind"):
        load_rated(write(tmp_path / "one.jsonl", [row(i, up=1) for i in range(60)]))


def test_the_report_on_a_tiny_encoder_finds_what_decides_the_votes(tmp_path: Path) -> None:
    """Replies that say when are liked, others not: near 1 out of fold; a constant knows nothing."""
    replies = ("Your card arrives in 5 days.", "A person can help you with that.")
    rows = [RatedReply(f"c{i}", f"where is my card? {i}", replies[i % 2], (float(i % 2 == 0),)) for i in range(60)]
    report = measure(EncoderPart(tiny_encoder(tmp_path), device=torch.device("cpu")), rows, seed=0)
    assert report["auc"] > 0.95
    assert report["ece"] < 0.1
    assert report["baselines"]["constant"]["auc"] == 0.5
    assert "told_the_truth" not in report
    assert "other_raters" not in report["baselines"]
