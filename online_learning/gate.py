"""May this candidate serve? One pure function from evidence to a verdict with reasons. Nothing else publishes.

Always: weights are finite, stored log-probabilities re-score, no `must_pass` conversation test fails, no more tests
fail than under the champion, and the step away from the champion is small.

Then by the number of held-out rated rows, against the champion *and* against the start (since "not much worse than
the last one", thirty times over, is a slow slide down):

- `min_rows_bound` or more: the one-sided lower bound of the paired difference must exclude a harm of `max_harm_points`.
  It is the candidate that must prove itself harmless: what cannot be told apart is refused.
- `min_rows_point` or more: too few for a bound, so the estimate itself must not show that harm, and KL to the start
  is capped.
- fewer: the cap alone.

Beside these, blind verdicts of operators on two answers to one question (`online_learning.preferences`), against both: a
candidate that loses beyond chance is refused. Verdicts only ever refuse, each topic has one vote, and it takes eight lost ones
of two operators, or `min_votes_alone` topics where a single operator has judged all there is.

Points are points of right answers: harm in reward over the measured reward gap between a right and a wrong act, so
that one threshold serves careful raters and careless ones. The thresholds come from the operating curve
(`online_learning.bench.gate_curve`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from online_learning.off_policy import Comparison, LoggedChoices, compare
from online_learning.preferences import Preference, e_limit
from online_learning.statistics import Floats, Interval, seeded


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a candidate is refused."""

    max_harm_points: float = 4.0
    """Harm, in points of right answers, that the evidence must exclude."""
    confidence: float = 0.95
    """One-sided, of the lower bound."""
    min_rows_bound: int = 300
    """Held-out rated rows from which the bound decides."""
    min_rows_point: int = 50
    """Held-out rated rows from which the estimate itself is looked at."""
    max_kl_start: float = 1.5
    """Mean nats from the start on recent states, while there are fewer than `min_rows_bound` rows. Nats are of the acting
    temperature: this is for .014."""
    max_kl_champion: float = 0.75
    """Mean nats from the champion on recent states: one update is one step."""
    max_rescore_error: float = 1e-4
    """Largest difference between a stored log-probability and the learner's own (fp32; 2e-2 suits bf16)."""
    max_weight: float = 3.0
    """Truncation of importance weights in the doubly robust estimate."""
    max_false_refusals: float = 0.05
    """By operators' verdicts, against each baseline: the chance that a candidate which is not worse is ever refused, however
    often one looks."""
    min_votes_alone: int = 12
    """Topics that verdicts must tell apart where all verdicts are one operator's."""
    num_resamples: int = 2000
    seed: int = 0
    """Of the bootstrap: the same evidence always gives the same verdict."""

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence: expected between 0.5 and 1, got {self.confidence!r}")
        if not 0 < self.min_rows_point <= self.min_rows_bound:
            raise ValueError(f"min_rows_point: expected 1..{self.min_rows_bound}, got {self.min_rows_point!r}")

    def distances(self, num_rows: int) -> tuple[float, float]:
        """How far from champion and start a candidate may be, mean nats, with so many held-out rated rows."""
        return self.max_kl_champion, self.max_kl_start if num_rows < self.min_rows_bound else math.inf


@dataclass(frozen=True, slots=True)
class TestResults:
    """How the domain's conversation tests went under one policy."""

    __test__ = False

    passed: frozenset[str]
    failed: frozenset[str]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out rated choices, re-scored under three policies over the same legal acts; probabilities, [B, A]."""

    logs: LoggedChoices
    candidate_B_A: Floats
    champion_B_A: Floats
    start_B_A: Floats


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the gate may know. No label, no evaluation file."""

    held_out: HeldOut | None
    """None: nothing held out has been rated yet."""
    candidate_tests: TestResults
    champion_tests: TestResults
    must_pass: frozenset[str]
    kl_start: float
    """Mean KL(candidate || start) on recent states, nats."""
    kl_champion: float
    weights_finite: bool
    rescore_error: float
    """Largest |stored - re-scored| log-probability over recent rows of the champion, nats."""
    verdicts: Mapping[str, Preference] = field(default_factory=dict)
    """What operators found better, against `champion` and `start`; empty: nobody has compared answers yet."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the candidate may be published, why not, and the figures for the manifest."""

    passed: bool
    reasons: tuple[str, ...]
    """One clear line per rule that refused; empty when passed."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready."""


def judge(evidence: Evidence, thresholds: Thresholds | None = None) -> Verdict:
    """Apply every rule; a refusal lists all that failed, not only the first."""
    thresholds = thresholds or Thresholds()
    comparisons = _comparisons(evidence.held_out, thresholds)
    reasons = (
        *_integrity(evidence, thresholds),
        *_tests(evidence),
        *_distance(evidence, thresholds),
        *(line for name, found in comparisons.items() for line in _harm(name, found, thresholds)),
        *(line for name, found in evidence.verdicts.items() for line in _worse(name, found, thresholds)),
    )
    return Verdict(not reasons, reasons, _report(evidence, comparisons))


def _num_rows(evidence: Evidence) -> int:
    return len(evidence.held_out.logs) if evidence.held_out else 0


def _comparisons(held_out: HeldOut | None, thresholds: Thresholds) -> dict[str, Comparison]:
    """Candidate against champion and start, once there are rows enough to look at."""
    if held_out is None or len(held_out.logs) < thresholds.min_rows_point:
        return {}
    baselines = {"champion": held_out.champion_B_A, "start": held_out.start_B_A}
    return {
        name: compare(
            held_out.logs,
            held_out.candidate_B_A,
            baseline,
            seeded(thresholds.seed, f"gate/{name}"),
            max_weight=thresholds.max_weight,
            level=2 * thresholds.confidence - 1,
            num_resamples=thresholds.num_resamples,
        )
        for name, baseline in baselines.items()
    }


def _integrity(evidence: Evidence, thresholds: Thresholds) -> Sequence[str]:
    found = []
    if not evidence.weights_finite:
        found.append("weights: expected finite numbers, found NaN or infinity")
    if not evidence.rescore_error <= thresholds.max_rescore_error:  # also refuses NaN
        limit = thresholds.max_rescore_error
        found.append(f"re-scoring: expected an error of at most {limit:g} nats, got {evidence.rescore_error:g}")
    return found


def _tests(evidence: Evidence) -> Sequence[str]:
    found = []
    broken = sorted(evidence.must_pass - evidence.candidate_tests.passed)
    if broken:
        found.append(f"conversation tests that must pass did not: {', '.join(broken)}")
    num_failed, num_before = len(evidence.candidate_tests.failed), len(evidence.champion_tests.failed)
    if num_failed > num_before:
        lost = ", ".join(sorted(evidence.candidate_tests.failed - evidence.champion_tests.failed))
        found.append(f"conversation tests: {num_failed} fail, {num_before} did under the champion (new: {lost})")
    return found


def _distance(evidence: Evidence, thresholds: Thresholds) -> Sequence[str]:
    found, num_rows = [], _num_rows(evidence)
    from_champion, from_start = thresholds.distances(num_rows)
    if not evidence.kl_champion <= from_champion:
        wanted = f"expected at most {from_champion:g} nats"
        found.append(f"KL to the champion: {wanted}, got {evidence.kl_champion:.3f}")
    if from_start < math.inf and not evidence.kl_start <= from_start:
        wanted = f"expected at most {from_start:g} nats with only {num_rows} held-out rated rows"
        found.append(f"KL to the start: {wanted}, got {evidence.kl_start:.3f}")
    return found


def _harm(name: str, comparison: Comparison, thresholds: Thresholds) -> Sequence[str]:
    by_bound = comparison.num_rows >= thresholds.min_rows_bound
    shown = comparison.lowest_points if by_bound else comparison.points
    if shown >= -thresholds.max_harm_points:
        return []
    what = f"{thresholds.confidence:.0%} lower bound" if by_bound else "estimate"
    wanted = f"against the {name}: expected harm of at most {thresholds.max_harm_points:g} points"
    return [
        f"{wanted}, got {what} {shown:+.1f} (estimate {comparison.points:+.1f}, {comparison.num_rows} held-out rows)"
    ]


def _worse(name: str, found: Preference, thresholds: Thresholds) -> Sequence[str]:
    if not found.is_worse(thresholds.max_false_refusals, thresholds.min_votes_alone):
        return []
    told = f"{found.losses} of {len(found.votes)} topics that tell them apart"
    by = f"e-value {found.e_worse:.3g}, limit {e_limit(thresholds.max_false_refusals):g}"
    return [f"against the {name}: operators found the other answer better on {told} ({by})"]


def _report(evidence: Evidence, comparisons: Mapping[str, Comparison]) -> dict[str, Any]:
    return {
        "held_out_rows": _num_rows(evidence),
        "kl_start": _finite(evidence.kl_start),
        "kl_champion": _finite(evidence.kl_champion),
        "rescore_error": _finite(evidence.rescore_error),
        "tests_passed": len(evidence.candidate_tests.passed),
        "tests_failed": sorted(evidence.candidate_tests.failed),
        **{f"against_{name}": _comparison_report(comparison) for name, comparison in comparisons.items()},
        **{f"verdicts_{name}": _verdict_report(found) for name, found in evidence.verdicts.items()},
    }


def _comparison_report(comparison: Comparison) -> dict[str, Any]:
    return {
        "points": comparison.points,
        "lowest_points": _finite(comparison.lowest_points),
        "difference": comparison.difference.mean,
        "difference_ci": _ends(comparison.difference),
        "difference_snips": comparison.difference_snips.mean,
        "difference_snips_ci": _ends(comparison.difference_snips),
        "candidate_reward": comparison.candidate.mean,
        "candidate_reward_ci": _ends(comparison.candidate),
        "baseline_reward": comparison.baseline.mean,
        "reward_gap": comparison.gap,
        "ess": comparison.ess,
        "conversations": comparison.num_conversations,
    }


def _verdict_report(found: Preference) -> dict[str, Any]:
    return {
        "wins": found.wins,
        "losses": found.losses,
        "alike": found.alike,
        "operators": found.num_authors,
        "e_worse": found.e_worse,
        "share": found.share,
    }


def _ends(interval: Interval) -> list[float | None]:
    return [_finite(interval.lo), _finite(interval.hi)]


def _finite(value: float) -> float | None:
    """JSON has neither infinity nor NaN."""
    return value if math.isfinite(value) else None
