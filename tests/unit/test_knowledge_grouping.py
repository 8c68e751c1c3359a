"""Groups of like questions: by hand in the plane, with many articles, few and none; how they are judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bot.errors import ConfigError
from bot.knowledge.grouping import apart, group, topics
from online_learning.bench.groups import judged, load_labelled

Vectors = npt.NDArray[np.float32]


def unit(*degrees: float) -> Vectors:
    """Unit vectors in the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("vectors", "groups"),
    [
        # cos 10 = .985 joins, cos 90 = 0 does not; the mean of 0 and 10 is 5, and 4 is nearest to it.
        (unit(0, 90, 10, 4), [[3, 0, 2], [1]]),
        (unit(0, 90, 180), [[0], [1], [2]]),
        (unit(0), [[0]]),
    ],
)
def test_like_vectors_come_together(vectors: Vectors, groups: list[list[int]]) -> None:
    """Largest group first, its most typical member first."""
    found = group(vectors)
    assert [sorted(one) for one in found] == [sorted(one) for one in groups]
    assert found[0][0] == groups[0][0]


def shares(*rows: tuple[float, float]) -> Vectors:
    """Unit vectors of three dimensions: the first number is what all share, the second tells one topic from another."""
    return np.array([(a, b, np.sqrt(max(0.0, 1 - a * a - b * b))) for a, b in rows], np.float32)


def test_what_all_texts_share_makes_no_topic() -> None:
    """Two questions whose cosine, .8 * .8 = .64, is all of what every text shares: one topic without articles (>= .6).

    18 articles at (1, 0, 0): 18 / 20 = .9 of their mean is taken out. Left of the questions are (-.1, 0, .6) and (-.1, .6, 0),
    whose cosine is .01 / .37 = .03: two topics.
    """
    questions, articles = shares((0.8, 0.0), (0.8, 0.6)), np.tile(shares((1.0, 0.0)), (18, 1))
    assert topics(questions, articles[:0]) == [[0, 1]]
    assert sorted(topics(questions, articles)) == [[0], [1]]
    left = apart(questions, articles) * np.sqrt(0.37)
    np.testing.assert_allclose(left, [[-0.1, 0.0, 0.6], [-0.1, 0.6, 0.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("num_articles", "believed", "degrees_together", "degrees_apart"),
    # Articles that have nothing in common, as opposite ones, leave only the bound: .6 - believed * .15, as an angle.
    [(0, 0.0, 53.0, 53.3), (2, 0.5, 58.2, 58.5), (6, 0.75, 60.7, 61.0), (198, 0.99, 63.0, 63.2)],
)
def test_the_bound_goes_with_how_far_the_mean_is_believed(
    num_articles: int, believed: float, degrees_together: float, degrees_apart: float
) -> None:
    """arccos .6 = 53.13, .525 = 58.33, .4875 = 60.82, .4515 = 63.16 degrees."""
    articles = np.concatenate([unit(0), unit(180)] * (num_articles // 2) or [unit()])
    assert num_articles / (num_articles + 2) == believed
    assert topics(unit(0, degrees_together), articles) == [[0, 1]]
    assert topics(unit(0, degrees_apart), articles) == [[0], [1]]


def test_one_article_is_not_what_questions_are_told_apart_by() -> None:
    """A third of it is taken out: questions about it keep their group, whose words it would otherwise swallow.

    Left of 0 and 20 degrees by an article at 10 degrees: 0 -> (cos 0 - .328, -.058) = (.672, -.058), 20 -> (.611, .284); their
    cosine is (.4104 - .0165) / (.6743 * .6743) = .866 >= .55. The control takes it out whole: (.015, -.174), (-.045, .168),
    and the cosine is -1.
    """
    article, questions = unit(10), unit(0, 20)
    left = apart(questions, article)
    assert float(left[0] @ left[1]) == pytest.approx(0.866, abs=2e-3)
    assert topics(questions, article) == [[0, 1]]
    whole = questions - article
    assert float(whole[0] @ whole[1]) < 0


def test_an_article_more_among_many_moves_no_group() -> None:
    """Its share of the mean is one in sixty-seven: groups 40 degrees from their bound stay as they are."""
    questions, articles = unit(0, 10, 120, 130), np.tile(unit(60, 70), (32, 1))
    assert sorted(map(sorted, topics(questions, articles))) == [[0, 1], [2, 3]]
    after = topics(questions, np.concatenate([articles, unit(200)]))
    assert sorted(map(sorted, after)) == [[0, 1], [2, 3]]


def test_a_question_that_is_what_all_share_is_still_a_direction() -> None:
    """The mean is shrunk, so it is never all of a unit vector: no division by nothing."""
    article = unit(30)
    assert np.isfinite(apart(unit(30), np.tile(article, (1000, 1)))).all()
    assert topics(unit(30, 30), np.tile(article, (1000, 1))) == [[0, 1]]


def test_groups_are_judged_by_hand() -> None:
    """Six questions, a a a b b c, as {a a b}, {a b}, {c}: one group of three, two of its three of one topic.

    Pairs together: 3 + 1, one of them right (a a); pairs of one topic: 3 + 1.
    """
    found = judged([[0, 1, 3], [2, 4], [5]], ["a", "a", "a", "b", "b", "c"])
    assert found == pytest.approx(
        {"groups": 1.0, "purity": 2 / 3, "coverage": 0.5, "pairs_precision": 0.25, "pairs_recall": 0.25}
    )


def test_labelled_questions_are_rows_or_clinc150(tmp_path: Path) -> None:
    """Of CLINC150 its validation questions; another JSON object is one clear error."""
    rows, clinc, other = tmp_path / "rows.jsonl", tmp_path / "data_full.json", tmp_path / "other.json"
    rows.write_text('{"text": "Where is it?", "intent": "arrival"}\n')
    clinc.write_text(json.dumps({"val": [["Where is it?", "arrival"]], "train": []}))
    other.write_text("[1]")
    assert load_labelled(rows) == load_labelled(clinc)
    with pytest.raises(ConfigError, match="CLINC150"):
        load_labelled(other)
