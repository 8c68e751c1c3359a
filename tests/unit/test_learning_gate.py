"""The gate: every rule refuses what it should, sound candidates pass, and the operating curve holds in small."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bot import cli
from online_learning.bench.gate_curve import (
    Case,
    draw_held_out,
    evidence_of,
    policy,
    run_case,
    solve_shift,
)
from online_learning.gate import Evidence, HeldOut, TestResults, Thresholds, judge
from online_learning.statistics import Floats, seeded

UPDATE = Case(points=0.0, churn=0.01, noise="mild", setting="first")
"""A small honest update that changes nothing on average."""


def held_out(case: Case = UPDATE, num_rows: int = 300, seed: int = 0) -> HeldOut:
    return draw_held_out(seeded(seed, "held out"), num_rows, solve_shift(case.points, case.churn, case.setting), case)


def evidence(**overrides: Any) -> Evidence:
    """A candidate that passes, unless a test says otherwise."""
    return replace(evidence_of(held_out()), **overrides)


def results(passed: str = "greets refuses_pin", failed: str = "") -> TestResults:
    return TestResults(frozenset(passed.split()), frozenset(failed.split()))


def test_a_sound_update_passes_with_a_report_that_is_json() -> None:
    """The report goes into the manifest as it is."""
    verdict = judge(evidence())
    assert verdict.passed
    assert verdict.reasons == ()
    assert json.loads(json.dumps(verdict.report, allow_nan=False))["held_out_rows"] == 300


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ({"weights_finite": False}, "finite"),
        ({"rescore_error": 2e-4}, "re-scoring"),
        ({"rescore_error": math.nan}, "re-scoring"),
        ({"kl_champion": 0.8}, "KL to the champion"),
        ({"kl_champion": math.nan}, "KL to the champion"),
        ({"must_pass": frozenset({"refuses_pin"}), "candidate_tests": results("greets", "refuses_pin")}, "refuses_pin"),
        ({"candidate_tests": results("", "greets"), "champion_tests": results("greets")}, "new: greets"),
    ],
)
def test_each_flaw_alone_refuses(flaw: dict[str, Any], reason: str) -> None:
    """One flaw, one reason; everything else is sound."""
    verdict = judge(evidence(**flaw))
    assert not verdict.passed
    assert any(reason in line for line in verdict.reasons)


def test_a_must_pass_test_refuses_even_where_the_champion_fails_it_too() -> None:
    """Being no worse than before is no excuse where safety is at stake, nor is a test that was not run."""
    broken = results("greets", "refuses_pin")
    assert not judge(
        evidence(candidate_tests=broken, champion_tests=broken, must_pass=frozenset({"refuses_pin"}))
    ).passed
    assert not judge(evidence(must_pass=frozenset({"never_run"}))).passed


def test_an_ordinary_test_the_champion_fails_as_well_does_not_refuse() -> None:
    """As many failures as before are allowed."""
    same = results("greets", "small_talk")
    assert judge(evidence(candidate_tests=same, champion_tests=same)).passed


def test_all_reasons_are_listed() -> None:
    """A person reading the refusal sees everything that is wrong."""
    assert len(judge(evidence(weights_finite=False, kl_champion=9.0, rescore_error=1.0)).reasons) == 3


def test_with_few_rows_distance_to_the_start_decides() -> None:
    """KL 1.1 is refused at 100 rows and judged by results at 300; with nothing held out the cap alone stands."""
    assert not judge(evidence(held_out=held_out(num_rows=100), kl_start=1.6)).passed
    assert judge(evidence(held_out=held_out(num_rows=100), kl_start=1.4)).passed
    assert judge(evidence(kl_start=1.6)).passed
    assert not judge(evidence(held_out=None, kl_start=1.6)).passed
    assert judge(evidence(held_out=None, kl_start=1.4)).passed


def test_with_few_rows_a_plain_estimate_of_harm_refuses() -> None:
    """100 rows cannot bound a harm, but they can show a large one."""
    bad = Case(points=-12.0, churn=0.02, noise="mild", setting="first")
    verdict = judge(evidence(held_out=held_out(bad, num_rows=100)))
    assert any("estimate" in line for line in verdict.reasons)


def test_the_same_evidence_gives_the_same_verdict() -> None:
    """The bootstrap is seeded."""
    assert judge(evidence()) == judge(evidence())


def test_a_slow_slide_is_stopped_by_the_start() -> None:
    """Candidate and champion agree; both have slid 8 points from the start: only the second comparison sees it."""
    slid = held_out(Case(points=-8.0, churn=0.02, noise="mild", setting="first"))
    verdict = judge(evidence(held_out=replace(slid, champion_B_A=slid.candidate_B_A)))
    assert len(verdict.reasons) == 1
    assert "against the start" in verdict.reasons[0]


def collapsed(rows: HeldOut) -> Floats:
    """One act for everything."""
    return np.eye(rows.start_B_A.shape[1])[np.zeros(len(rows.logs), dtype=np.int64)]


def second_best(rows: HeldOut) -> Floats:
    """Swaps the two likeliest acts in every tenth conversation."""
    order = np.argsort(-rows.start_B_A, axis=1)
    swapped = rows.start_B_A.copy()
    np.put_along_axis(swapped, order[:, :2], np.take_along_axis(rows.start_B_A, order[:, 1::-1], axis=1), axis=1)
    return np.where((rows.logs.conversations_B % 10 == 0)[:, None], swapped, rows.start_B_A)


def undecided(rows: HeldOut) -> Floats:
    """The start at six times the temperature."""
    return policy(np.log(np.maximum(rows.start_B_A, 1e-300)) * 0.02 / 6)


def never_tried(rows: HeldOut) -> Floats:
    """Moves to the act that the log has hardly ever seen, in every tenth conversation."""
    moved = np.eye(rows.start_B_A.shape[1])[rows.start_B_A.argmin(1)]
    return np.where((rows.logs.conversations_B % 10 == 0)[:, None], moved, rows.start_B_A)


@pytest.mark.parametrize("sabotage", [collapsed, second_best, undecided, never_tried])
def test_planted_bad_candidates_are_refused_by_their_results(sabotage: Any) -> None:
    """Forty planted candidates of each kind: none passes, by the held-out rows alone."""
    for seed in range(40):
        rows = held_out(seed=seed)
        bad = replace(rows, candidate_B_A=sabotage(rows))
        verdict = judge(evidence(held_out=bad), Thresholds(num_resamples=300))
        assert any("against the champion" in line for line in verdict.reasons), seed


def test_the_operating_curve_holds_in_small() -> None:
    """At 300 rows a true -5 is refused in at least 95 % and a true +3 passed in at least 80 % of 60 tries each."""
    thresholds = Thresholds(num_resamples=300)
    for churn in (0.01, 0.03):
        bad, good = (
            run_case(Case(points, churn, "mild", "first"), 300, 60, 1, thresholds).passed for points in (-5.0, 3.0)
        )
        assert bad <= 0.05
        assert good >= 0.80


def test_without_the_held_out_rows_the_same_bad_candidate_would_pass() -> None:
    """The control: integrity, tests and distance alone do not see a quiet loss of five points."""
    bad = evidence_of(held_out(Case(-5.0, 0.01, "mild", "first")))
    assert not judge(bad).passed
    assert judge(replace(bad, held_out=None)).passed


def test_one_conversation_is_no_evidence_of_harmlessness() -> None:
    """300 rows of a single conversation give no bound, so they prove nothing; the report stays JSON."""
    rows = held_out()
    alone = replace(rows, logs=replace(rows.logs, conversations_B=np.zeros(300, dtype=np.int64)))
    verdict = judge(evidence(held_out=alone))
    assert not verdict.passed
    assert verdict.report["against_champion"]["difference_ci"] == [None, None]


def test_the_curve_prints_one_json_object_as_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1 says that a target was missed: five rows cannot meet any."""
    code = cli.main(["bench", "gate", "--rows", "5", "--sims", "1", "--json"])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 1
    assert summary["missed"] > 0
    assert {"case", "passed", "mean_points"} <= summary["cells"][0].keys()


@pytest.mark.parametrize("bad", [{"confidence": 0.4}, {"min_rows_point": 301}])
def test_thresholds_refuse_nonsense(bad: dict[str, Any]) -> None:
    """The error names the field."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        Thresholds(**bad)
