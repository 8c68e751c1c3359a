"""The gate's verdicts beside the truth: counted by hand, and known to neither learner nor gate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from online_learning.bench.scenario import Material, Plan, plain
from online_learning.bench.stream import Outcome, Stream, bench_settings
from online_learning.bench.verdicts import Judged, ended_below_start, figures, recorded
from online_learning.config import LearnerConfig
from online_learning.evaluate import Question
from tests.learner_rig import ARTICLES, QUICK, STRICT, Home, open_home, tiny_models

QUESTIONS = [Question(f"{text} {word}", name) for name, (_, texts) in ARTICLES.items() for text in texts
             for word in ("please", "now", "today", "thanks", "quickly", "again", "sir")]  # fmt: skip
PLAN = Plan("clean", 1.0, 64, 64, 0)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def homes(tmp_path: Path, models: Path) -> Iterator[list[Home]]:
    """Two that know nothing of each other."""
    with (
        open_home(tmp_path / "a", models, learn={"update_every": 16}) as one,
        open_home(tmp_path / "b", models, learn={"update_every": 16}) as other,
    ):
        yield [one, other]


def stream(home: Home, judged: list[Question], config: LearnerConfig = QUICK) -> Stream:
    settings = bench_settings(home.settings, home.settings.home, PLAN.seed)
    return Stream(settings, home.store, plain(Material(home.domain, QUESTIONS, judged), PLAN), PLAN, config)


def right(*shares: tuple[int, int]) -> np.ndarray[Any, Any]:
    """(count, 1 or 0) of each stretch."""
    return np.concatenate([np.full(count, float(value)) for count, value in shares])


# --- counting ---------------------------------------------------------------------------------------------------------
def judged(candidate_wrong: int, *reasons: str) -> Judged:
    """The champion is right on all of 100 questions, the candidate wrong on so many."""
    return Judged(64, 32, reasons, right((100, 1)), right((candidate_wrong, 0), (100 - candidate_wrong, 1)))


def cell(seed: int, *verdicts: Judged, end: np.ndarray[Any, Any] | None = None) -> dict[str, Any]:
    """A finished run; it ends as it began unless said otherwise."""
    start = right((50, 1), (50, 0))
    after = {"right": (start if end is None else end).tolist()}
    found = [recorded(verdict) for verdict in verdicts]
    return {"seed": seed, "verdicts": found, "right_start": start.tolist(), "marks": {"after": after}}


def test_a_verdict_is_kept_with_what_the_candidate_was_worth() -> None:
    """20 of 100 answers lost: -.2, and by the normal approximation +-1.96 * .04 around it."""
    found = recorded(judged(20, "KL to the champion", "harm"))
    low, high = found.pop("diff_ci")
    assert found == {
        "turns": 64, "thumbs": 32, "reason": "KL to the champion; harm", "champion": 1.0, "candidate": 0.8, "diff": -0.2
    }  # fmt: skip
    assert (low, high) == pytest.approx((-0.278, -0.122), abs=0.02)


def test_refusals_are_right_where_the_candidate_was_worse() -> None:
    """Two runs refuse three: one worse, one alike, one worse. Of three accepted one is worse beyond chance, one hardly."""
    better = Judged(96, 48, ("moved too far",), right((100, 0)), right((100, 1)))
    found = figures([cell(4, judged(9, "a"), judged(0, "b"), judged(30)), cell(5, better, judged(1), judged(0))])
    assert [(refusal["seed"], refusal["diff"]) for refusal in found["refusals"]] == [(4, -0.09), (4, 0.0), (5, 1.0)]
    assert (found["refused_rightly"], found["accepted_wrongly"]) == (1, 1)


def test_only_runs_that_lost_beyond_chance_ended_below_their_start() -> None:
    """20 questions of 100 lost, against 2 lost, none changed and 20 won."""
    lost, dented = right((30, 1), (70, 0)), right((48, 1), (52, 0))
    cells = [cell(0, end=lost), cell(1, end=dented), cell(2), cell(3, end=right((70, 1), (30, 0)))]
    assert ended_below_start(cells) == 1
    assert ended_below_start(cells[1:]) == 0


# --- beside a running learner -----------------------------------------------------------------------------------------
def told(outcome: Outcome, home: Home) -> tuple[Any, ...]:
    """All that learner and gate left behind: replies, thumbs, verdicts, metrics but for times."""
    updates = [
        (u.outcome, u.lineage, {k: v for k, v in u.metrics.items() if k != "seconds"}) for u in home.store.updates()
    ]
    return outcome.rights, outcome.rated, outcome.updates, updates


def test_judging_candidates_changes_nothing_that_is_learned(homes: list[Home], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it: the same replies, thumbs, updates to the last digit, and the same policy at the end."""
    watched = stream(homes[0], QUESTIONS[::3]).run((), lambda *_: None)
    monkeypatch.setattr(Stream, "_note", lambda *_: None)
    alone = stream(homes[1], QUESTIONS[::3]).run((), lambda *_: None)
    assert len(watched.verdicts) == len(watched.updates) > 1
    assert alone.verdicts == ()
    assert told(watched, homes[0]) == told(alone, homes[1])
    assert watched.points[-1].marks["served"].tolist() == alone.points[-1].marks["served"].tolist()


def test_labels_of_judged_questions_reach_neither_learner_nor_gate(homes: list[Home]) -> None:
    """Every label wrong: other verdicts on the verdicts, the same verdicts."""
    names = list(ARTICLES)
    wrong = [replace(q, answer=names[(names.index(q.answer) + 1) % len(names)]) for q in QUESTIONS[::3]]
    ours = stream(homes[0], QUESTIONS[::3]).run((), lambda *_: None)
    theirs = stream(homes[1], wrong).run((), lambda *_: None)
    assert told(ours, homes[0]) == told(theirs, homes[1])
    truths = [[verdict.candidate.tolist() for verdict in outcome.verdicts] for outcome in (ours, theirs)]
    assert truths[0] != truths[1]


def test_a_refused_candidate_is_judged_before_it_is_thrown_away(homes: list[Home]) -> None:
    """A gate that lets nothing through: every candidate moved, the champion stays what the fresh install is."""
    made = stream(homes[0], QUESTIONS[::3], replace(QUICK, learning_rate=2e-2))
    made._loop.thresholds = STRICT
    outcome = made.run((), lambda *_: None)
    assert set(outcome.updates) == {"refused"}
    start = outcome.points[0].marks["right"]
    assert all(np.array_equal(verdict.champion, start) for verdict in outcome.verdicts)
    assert all("re-scoring" in verdict.reasons[0] for verdict in outcome.verdicts)
    assert any(not np.array_equal(verdict.candidate, start) for verdict in outcome.verdicts)
    assert [verdict.num_thumbs for verdict in outcome.verdicts] == [32, 64]
