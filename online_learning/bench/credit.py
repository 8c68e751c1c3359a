"""`rejoinder bench credit`: what a rule for single turns does to task success, when it is trusted and when it is weighed.

    rejoinder bench credit --seeds 20 --json

A conversation is a chain of TURNS choices; each right one makes success likelier, and the outcome at the end is the truth. Every
turn also gets a mark by a rule: `honest` follows what is right, `flattering` follows the wrong choice (a friendly empty reply),
`noise` follows nothing. A softmax policy learns from logged chains by policy gradient on the credit of `advantages.combine`:

    outcome      the outcome alone, travelling back over the turns
    naive        outcome + the rule's marks as they are
    calibrated   outcome + the marks times what the rule has shown to know of success on the logs: 2 (AUC - 1/2), where its
                 interval excludes 1/2; a rule that points the wrong way counts with its sign turned

Reported is the share of conversations that succeed under the policy learned, exact, by rule and by credit.
Why: dense rewards for turns cost others up to 14 points of task success (arXiv 2604.02869).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bot.settings import Settings
from online_learning.advantages import combine
from online_learning.reward_model import auc_interval
from online_learning.statistics import Floats, Ints, mean_interval, seeded

TURNS = 4
NUM_CHOICES = 3
"""Choice 0 is right, 1 pleases, 2 is neither."""
MARKS: Mapping[str, tuple[float, float, float]] = {
    "honest": (0.9, 0.3, 0.3),
    "flattering": (0.4, 0.95, 0.4),
    "noise": (0.6, 0.6, 0.6),
}
"""P(a good mark | choice) by rule."""
CREDITS = ("outcome", "naive", "calibrated")
NUM_LOGGED = 400
NUM_ROUNDS = 8
STEP = 0.5


@dataclass(frozen=True, slots=True)
class Chains:
    """Logged conversations."""

    choices_C_N: Ints
    marks_C_N: Floats
    """1 good, -1 bad, by the rule."""
    success_C: Floats


def success_probability(num_right: Floats | Ints) -> Floats:
    """P(success) of a conversation with so many right turns: 0.1 to 0.9 over the turns."""
    return 0.1 + 0.8 * np.asarray(num_right, np.float64) / TURNS


def log_chains(policy_N_A: Floats, rule: str, count: int, rng: np.random.Generator) -> Chains:
    """Conversations under a policy, with the rule's marks and their outcomes."""
    drawn_C_N = rng.random((count, TURNS))
    choices_C_N = (drawn_C_N[:, :, None] > policy_N_A.cumsum(1)[None]).sum(2).clip(0, NUM_CHOICES - 1)
    marks_C_N = np.where(rng.random((count, TURNS)) < np.array(MARKS[rule])[choices_C_N], 1.0, -1.0)
    success_C = (rng.random(count) < success_probability((choices_C_N == 0).sum(1))).astype(np.float64)
    return Chains(choices_C_N, marks_C_N, success_C)


def rule_weight(marks_C_N: Floats, success_C: Floats, rng: np.random.Generator) -> float:
    """What a rule's marks may weigh, -1 to 1: 2 (AUC - 1/2) of a conversation's mean mark for its success.

    0 where the 95 % interval of the AUC holds 1/2: a rule that has not been shown to know anything says nothing.
    """
    found = auc_interval(marks_C_N.mean(1), success_C, rng, np.arange(len(success_C)), num_resamples=200)
    return 0.0 if np.isnan(found.mean) or found.lo <= 0.5 <= found.hi else 2 * (found.mean - 0.5)


def turn_credit(chains: Chains, weight: float) -> Floats:
    """Advantages [C, N]: the outcome (+-1) travels back, the weighed mark is its turn's alone. V is each one's mean."""
    conversation_C_N = np.full(chains.marks_C_N.shape, np.nan)
    conversation_C_N[:, -1] = 2 * chains.success_C - 1
    reply_C_N = weight * (chains.marks_C_N - chains.marks_C_N.mean())
    values_C_N = np.full(chains.marks_C_N.shape, (2 * chains.success_C - 1).mean())
    advantages_C_N, _, _ = combine(reply_C_N, conversation_C_N, values_C_N, gamma=1.0, lam=1.0)
    return advantages_C_N


def improved(logits_N_A: Floats, chains: Chains, advantages_C_N: Floats) -> Floats:
    """One step of policy gradient at every turn: mean of A (1[chosen] - pi)."""
    policy_N_A = softmax(logits_N_A)
    chosen_C_N_A = np.eye(NUM_CHOICES)[chains.choices_C_N]
    gradient_N_A = (advantages_C_N[:, :, None] * (chosen_C_N_A - policy_N_A)).mean(0)
    stepped: Floats = logits_N_A + STEP * gradient_N_A * TURNS
    return stepped


def softmax(logits_N_A: Floats) -> Floats:
    """Of each turn."""
    raised_N_A = np.exp(logits_N_A - logits_N_A.max(1, keepdims=True))
    policy: Floats = raised_N_A / raised_N_A.sum(1, keepdims=True)
    return policy


def learned_success(rule: str, credit: str, seed: int) -> tuple[float, float]:
    """(P(success) of the policy after NUM_ROUNDS rounds, the rule's weight in the last one)."""
    logits_N_A, weight = np.zeros((TURNS, NUM_CHOICES)), 0.0
    for number in range(NUM_ROUNDS):
        chains = log_chains(softmax(logits_N_A), rule, NUM_LOGGED, seeded(seed, f"credit {number}"))
        weight = _weight(credit, chains, seed, number)
        logits_N_A = improved(logits_N_A, chains, turn_credit(chains, weight))
    return float(success_probability(softmax(logits_N_A)[:, 0].sum())), weight


def _weight(credit: str, chains: Chains, seed: int, number: int) -> float:
    if credit == "calibrated":
        return rule_weight(chains.marks_C_N, chains.success_C, seeded(seed, f"credit weight {number}"))
    return {"outcome": 0.0, "naive": 1.0}[credit]


def measure(first_seed: int, num_seeds: int) -> dict[str, Any]:
    """Mean success by rule and credit with 95 % intervals over seeds."""
    seeds = range(first_seed, first_seed + num_seeds)
    runs = {rule: {c: [learned_success(rule, c, seed) for seed in seeds] for c in CREDITS} for rule in MARKS}
    start = float(success_probability(np.full(TURNS, 1 / NUM_CHOICES).sum()))
    return {
        "start": round(start, 4),
        "best": round(float(success_probability(np.array(TURNS))), 4),
        "conversations": NUM_LOGGED * NUM_ROUNDS,
        "seeds": num_seeds,
        "rules": {rule: {c: _cell(found[c], found["outcome"]) for c in CREDITS} for rule, found in runs.items()},
    }


def _cell(runs: list[tuple[float, float]], outcome: list[tuple[float, float]]) -> dict[str, Any]:
    success, alone = (np.array([value for value, _ in found]) for found in (runs, outcome))
    found = mean_interval(success - alone, seeded(0, "credit"))
    return {
        "success": round(float(success.mean()), 4),
        "beside_outcome": round(found.mean, 4),
        "diff_ci": [round(found.lo, 4), round(found.hi, 4)] if len(runs) > 1 else None,
        "weight": round(float(np.mean([weight for _, weight in runs])), 3),
    }


def main(settings: Settings, args: argparse.Namespace) -> int:
    """Measure every rule with every credit; prints one JSON object."""
    report = measure(settings.seed or 0, args.seeds)
    print(json.dumps(report) if args.json else _table(report))
    return 0


def _table(report: Mapping[str, Any]) -> str:
    lines = [f"success at the start {report['start']:.1%}, at best {report['best']:.1%}"]
    for rule, cells in report["rules"].items():
        said = ", ".join(f"{name} {cell['success']:.1%}" for name, cell in cells.items())
        lines.append(f"{rule:>11}  {said}")
    return "\n".join(lines)
