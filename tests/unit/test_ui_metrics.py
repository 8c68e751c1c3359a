"""The studio's figures and plot tables."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.sample_answers import operator_answers
from ui import metrics


def learner(**overrides: Any) -> dict[str, Any]:
    """Two versions, two points in time."""
    return {
        "status": {"state": "updating", "at": 1_780_000_000.0},
        "updates": [],
        "by_version": [
            {"version": "v000000", "replies": 10, "up": 3, "down": 3, "mean_reward": 0.0, "rated": 6, "success": None},
            {"version": "v000001", "replies": 6, "up": 5, "down": 1, "mean_reward": 0.5, "rated": 6, "success": 0.75},
        ],
        "over_time": [
            {"at": 1_780_000_000.0, "replies": 10, "up": 3, "down": 3, "reward": None},
            {"at": 1_780_000_060.0, "replies": 6, "up": 5, "down": 1, "reward": 0.5},
        ],
    } | overrides


def test_the_cards_add_up_all_versions_and_show_the_champions_reward() -> None:
    """10 + 6 replies; 8 of 12 votes are up: 67 %."""
    cards = metrics.render_cards({"champion": "v000001", "frozen": False}, learner())
    for expected in ("v000001", ">16<", "67 %", "of 12 votes", "+0.50", "updating", "learning may publish"):
        assert expected in cards


def test_a_frozen_home_says_so() -> None:
    """Where the champion is named."""
    assert "the learner may not publish" in metrics.render_cards({"champion": "v000001", "frozen": True}, learner())


@pytest.mark.parametrize(
    ("health", "word"), [("ok", "updating"), ("stale", "not heard of"), ("stopped", "not running")]
)
def test_a_learner_that_is_gone_does_not_look_at_work(health: str, word: str) -> None:
    """What it said last is not what it does now."""
    cards = metrics.render_cards({"champion": "v000001", "frozen": False}, learner(learner=health))
    assert f'dk-word">{word}<' in cards


def test_a_fresh_home_has_dashes_not_errors() -> None:
    """No learner, no rows."""
    nothing: dict[str, Any] = {"status": None, "updates": [], "by_version": [], "over_time": []}
    cards = metrics.render_cards({"champion": "v000000", "frozen": False, "versions": []}, nothing)
    assert "not running" in cards
    assert "No version yet." in metrics.render_versions({"versions": []}, nothing)
    assert "waits for thumbs" in metrics.render_updates(nothing)
    assert [len(plot(nothing)) for plot in PLOTS] == [0, 0, 0, 0]


PLOTS = (metrics.thumbs_over_time, metrics.reward_over_time, metrics.thumbs_by_version, metrics.success_by_version)


def test_plot_tables_hold_one_row_a_mark() -> None:
    """Two thumbs a bucket; points that were not measured are left out, never zero."""
    assert metrics.thumbs_over_time(learner())["votes"].tolist() == [3, 3, 5, 1]
    assert metrics.reward_over_time(learner())["reward"].tolist() == [0.5]
    assert metrics.thumbs_by_version(learner()).values.tolist()[2] == ["v000001", 5, "up", "\u200b\u200bv000001"]
    assert metrics.success_by_version(learner()).values.tolist() == [["v000001", 75.0, "\u200bv000001"]]


@pytest.mark.parametrize(
    ("count", "named"),
    [
        (1, [0]),
        (8, list(range(8))),
        (9, [0, 2, 4, 6, 8]),
        (40, [4, 9, 14, 19, 24, 29, 34, 39]),  # 40 / 8: every fifth
    ],
)
def test_bars_are_named_as_far_as_there_is_room(count: int, named: list[int]) -> None:
    """The newest always; each bar's label is its own, and sorts where the bar belongs."""
    rows = [{"version": f"v{i:06d}", "success": 0.5, "up": 1, "down": 1} for i in range(count)]
    for frame in (metrics.success_by_version({"by_version": rows}), metrics.thumbs_by_version({"by_version": rows})):
        labels = list(dict.fromkeys(frame["label"]))
        assert len(labels) == count
        assert labels == sorted(labels)
        assert [label.strip("\u200b") for label in labels if label.strip("\u200b")] == [f"v{i:06d}" for i in named]


def test_every_plot_says_what_it_means_in_one_line() -> None:
    """A title without a meaning would be a number nobody can use."""
    assert all(meaning.endswith(".") and len(meaning) < 100 for meaning in metrics.MEANING.values())


def test_versions_are_listed_newest_first_with_the_champion_marked() -> None:
    """The sample has v000004 in front."""
    answers = operator_answers()
    table = metrics.render_versions(answers["versions"], answers["learner"])
    assert table.index("v000004") < table.index("champion") < table.index(">v000000<")
