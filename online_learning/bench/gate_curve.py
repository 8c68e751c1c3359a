"""The gate's operating curve: how often it refuses a candidate of known worth. Simulated; no model, no store.

    python -m online_learning.bench.gate_curve [--rows 300] [--sims 400] [--seed 0] [--noise mild] [--churn 0.01] [--json]

The world (signal detection): a question has one right act among eight; each act's similarity is Gaussian, the right
one's is shifted. Spread and shift are set so that the retriever is right in 0.76 of cases and its similarities, over
the serving temperature, give a policy with the gaps between first and second that MiniLM shows on real banking
questions (quartiles .05 / .10 / .18). A thumb is Bernoulli in whether the act was right, with a harshness shared by
the five turns of a conversation.

A candidate adds to every similarity a random part (`churn`: how much of what it does differs) and to the right act a
shift, solved for so that its served accuracy differs from the champion's by exactly the points asked for. In the
setting `first` the champion is the start; in `later` the champion has itself moved 3 points from the start, and half of
the rows were logged by the start.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from tqdm import tqdm

from bot.settings import Settings
from online_learning.gate import Evidence, HeldOut, TestResults, Thresholds, judge
from online_learning.off_policy import LoggedChoices, chosen
from online_learning.statistics import Floats, Ints, seeded

NUM_ACTS = 8
TEMPERATURE = 0.02
SPREAD, SHIFT = 0.11, 0.242
"""Standard deviation of a similarity, and what the right act has on top."""
TURNS = 5
HARSHNESS = 0.03
"""Standard deviation of a conversation's shift in P(up)."""
NOISE = {"clean": (1.0, 0.0), "mild": (0.95, 0.10), "realistic": (0.87, 0.48)}
"""P(up | right), P(up | wrong)."""
CHURNS = (0.01, 0.02, 0.03, 0.05)
"""0.01 to 0.02 is one update (KL 0.01 to 0.1 nats); 0.05 is as far as a long run goes from the start."""
LATER_POINTS, LATER_CHURN = 3.0, 0.04
REFUSE_POINTS, REFUSE_RATE = -5.0, 0.95
PASS_POINTS, PASS_RATE = 3.0, 0.80


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the curve."""

    points: float
    """True served accuracy of the candidate less the champion's, times 100."""
    churn: float
    """Standard deviation of the random change in similarity."""
    noise: str
    setting: str
    """`first` or `later`."""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What the gate did in one cell."""

    case: Case
    num_rows: int
    passed: float
    """Share of simulated candidates that passed."""
    mean_points: float
    """Mean estimate against the champion; equals `case.points` for an unbiased estimator."""
    sd_points: float
    kl_champion: float
    """Mean KL(candidate || champion), nats: what churn means in the learner's own terms."""


@dataclass(frozen=True, slots=True)
class Questions:
    """States of the world: which act is right and what the retriever sees."""

    right_B: Ints
    similarity_B_A: Floats


def draw_questions(rng: np.random.Generator, num_rows: int) -> Questions:
    """Independent questions of the world described above."""
    right_B = rng.integers(0, NUM_ACTS, num_rows)
    similarity_B_A = SPREAD * rng.normal(size=(num_rows, NUM_ACTS))
    similarity_B_A[np.arange(num_rows), right_B] += SHIFT
    return Questions(right_B, similarity_B_A)


def policy(similarity_B_A: Floats) -> Floats:
    """Softmax at the serving temperature."""
    scaled_B_A = similarity_B_A / TEMPERATURE
    exp_B_A = np.exp(scaled_B_A - scaled_B_A.max(1, keepdims=True))
    probabilities_B_A: Floats = exp_B_A / exp_B_A.sum(1, keepdims=True)
    return probabilities_B_A


def changed(rng: np.random.Generator, questions: Questions, shift: float, churn: float) -> Questions:
    """The same questions as a trained policy sees them."""
    similarity_B_A = questions.similarity_B_A + churn * rng.normal(size=questions.similarity_B_A.shape)
    similarity_B_A[np.arange(len(questions.right_B)), questions.right_B] += shift
    return Questions(questions.right_B, similarity_B_A)


def served_accuracy(questions: Questions) -> float:
    """Mean probability of the right act."""
    return float(chosen(policy(questions.similarity_B_A), questions.right_B).mean())


@cache
def solve_shift(points: float, churn: float, setting: str, seed: int = 0, num_rows: int = 20_000) -> float:
    """The shift that makes a candidate of this churn exactly `points` better, by bisection on common random numbers."""
    champion, _ = draw_champion(seeded(seed, "solve/champion"), num_rows, setting)
    wanted = served_accuracy(champion) + points / 100
    low, high = -0.4, 0.4
    for _ in range(20):
        middle = (low + high) / 2
        reached = served_accuracy(changed(seeded(seed, "solve/candidate"), champion, middle, churn))
        low, high = (middle, high) if reached < wanted else (low, middle)
    return (low + high) / 2


@cache
def later_shift() -> float:
    """The shift of the champion in the setting `later`."""
    return solve_shift(LATER_POINTS, LATER_CHURN, "first")


def draw_champion(rng: np.random.Generator, num_rows: int, setting: str) -> tuple[Questions, Questions]:
    """(champion's view, start's view) of fresh questions."""
    start = draw_questions(rng, num_rows)
    if setting == "first":
        return start, start
    return changed(rng, start, later_shift(), LATER_CHURN), start


def draw_held_out(rng: np.random.Generator, num_rows: int, shift: float, case: Case) -> HeldOut:
    """Rated held-out conversations and the three policies on them."""
    champion, start = draw_champion(rng, num_rows, case.setting)
    candidate = changed(rng, champion, shift, case.churn)
    champion_B_A, start_B_A = policy(champion.similarity_B_A), policy(start.similarity_B_A)
    conversations_B = np.arange(num_rows) // TURNS
    by_start_B = rng.random(conversations_B[-1] + 1)[conversations_B] < 0.5
    behaviour_B_A = np.where(by_start_B[:, None], start_B_A, champion_B_A)
    chosen_B = (behaviour_B_A.cumsum(1) > rng.random((num_rows, 1))).argmax(1)
    up_right, up_wrong = NOISE[case.noise]
    harsh_B = HARSHNESS * rng.normal(size=conversations_B[-1] + 1)[conversations_B]
    up_B = rng.random(num_rows) < np.where(chosen_B == start.right_B, up_right, up_wrong) + harsh_B
    logs = LoggedChoices(behaviour_B_A, chosen_B, np.where(up_B, 1.0, -1.0), conversations_B)
    return HeldOut(logs, policy(candidate.similarity_B_A), champion_B_A, start_B_A)


def mean_kl(p_B_A: Floats, q_B_A: Floats) -> float:
    """Mean KL(p || q), nats."""
    ratio_B_A = np.log(np.maximum(p_B_A, 1e-30)) - np.log(np.maximum(q_B_A, 1e-30))
    return float((p_B_A * ratio_B_A).sum(1).mean())


def evidence_of(held_out: HeldOut) -> Evidence:
    """Sound in everything but what the held-out rows say."""
    tests = TestResults(frozenset({"greets"}), frozenset())
    return Evidence(
        held_out=held_out,
        candidate_tests=tests,
        champion_tests=tests,
        must_pass=frozenset(),
        kl_start=mean_kl(held_out.candidate_B_A, held_out.start_B_A),
        kl_champion=mean_kl(held_out.candidate_B_A, held_out.champion_B_A),
        weights_finite=True,
        rescore_error=0.0,
    )


def run_case(case: Case, num_rows: int, num_sims: int, seed: int, thresholds: Thresholds | None = None) -> CaseResult:
    """Let the gate judge `num_sims` candidates of one kind."""
    shift = solve_shift(case.points, case.churn, case.setting)
    passed, points, kl = np.zeros(num_sims), np.full(num_sims, np.nan), np.zeros(num_sims)
    for sim in range(num_sims):
        evidence = evidence_of(draw_held_out(seeded(seed, f"{case}/{sim}"), num_rows, shift, case))
        verdict = judge(evidence, thresholds)
        passed[sim], kl[sim] = verdict.passed, evidence.kl_champion
        points[sim] = verdict.report.get("against_champion", {}).get("points", np.nan)
    return CaseResult(case, num_rows, float(passed.mean()), float(points.mean()), float(points.std()), float(kl.mean()))


def all_cases() -> list[Case]:
    """The grid of the curve."""
    return [
        Case(points, churn, noise, setting)
        for noise in ("mild", "realistic")
        for setting in ("first", "later")
        for churn in CHURNS
        for points in (REFUSE_POINTS, -2.0, 0.0, 1.0, PASS_POINTS)
    ]


def meets_target(result: CaseResult) -> bool:
    """Whether one cell keeps its promise; cells without one always do."""
    if result.case.points == REFUSE_POINTS:
        return 1 - result.passed >= REFUSE_RATE
    return result.case.points != PASS_POINTS or result.passed >= PASS_RATE


def table(results: Sequence[CaseResult]) -> str:
    """One line a cell, for people."""
    lines = ["noise      setting churn  KL     true  estimate (sd)   passed  target"]
    lines += [
        f"{r.case.noise:10s} {r.case.setting:7s} {r.case.churn:<5g} {r.kl_champion:6.3f} {r.case.points:+5.1f} "
        f"{r.mean_points:+6.2f} ({r.sd_points:4.2f})   {r.passed:6.3f}  {'ok' if meets_target(r) else 'MISSED'}"
        for r in results
    ]
    return "\n".join(lines)


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`rejoinder bench gate`: the table on stderr or, with `--json`, one object as the last line on stdout.

    Exit 1: a target missed.
    """
    seed = settings.seed or 0
    results = [run_case(case, args.rows, args.sims, seed) for case in tqdm(all_cases(), file=sys.stderr)]
    missed = sum(not meets_target(result) for result in results)
    print(table(results), file=sys.stderr if args.json else sys.stdout)
    if args.json:
        summary: dict[str, Any] = {"rows": args.rows, "sims": args.sims, "seed": seed, "missed": missed}
        print(json.dumps(summary | {"cells": [asdict(result) for result in results]}))
    return 1 if missed else 0
