"""`rejoinder bench robust`: what perturbed questions cost a version.

    rejoinder bench robust --dataset F [--kb K] [--version V] --json

The same questions as they are and in each way of `online_learning.perturb`, retrieval included; the difference is paired by
question. Exit 1 when a kind costs more than MAX_COST; BEYOND is more than people do, and is only reported.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bot.domain import load_domain
from bot.errors import ConfigError
from bot.identity import home_secret
from bot.policy.adapters import AdapterStore
from bot.settings import Settings
from online_learning.evaluate import Evaluator, Question, Scores, load_questions, mean_ci, with_knowledge
from online_learning.perturb import KINDS, perturbed
from online_learning.statistics import paired_difference, seeded

MAX_COST = 0.03
"""Share of right answers that a kind may cost."""
BEYOND = frozenset({"haste"})


def main(settings: Settings, args: argparse.Namespace) -> int:
    """Measure every kind; prints one JSON object. 1: a kind costs more than it may."""
    if args.dataset is None:
        raise ConfigError("bench robust: expected --dataset F.jsonl, got nothing")
    domain = with_knowledge(load_domain(settings.domain), args.kb)
    adapters = AdapterStore(settings.adapters, home_secret(settings.home))
    questions = load_questions(args.dataset, list(domain.articles))
    version = args.version or adapters.champion().version
    evaluator = Evaluator(settings, domain, adapters)
    report = measure(evaluator, questions, version, settings.seed or 0)
    print(json.dumps(report) if args.json else _table(report))
    return 0 if report["ok"] else 1


def measure(evaluator: Evaluator, questions: Sequence[Question], version: str, seed: int) -> dict[str, Any]:
    """Accuracy of a version on the questions as they are and on each kind of perturbation."""
    plain = evaluator.scores(questions, [version])[0]
    kinds = {
        kind: compared(evaluator.scores(all_perturbed(questions, kind, seed), [version])[0], plain, seed)
        for kind in KINDS
    }
    worst = min(kinds.keys() - BEYOND, key=lambda kind: float(kinds[kind]["difference"]))
    return {
        "version": version,
        "n": len(questions),
        "accuracy": round(float(plain.right.mean()), 4),
        "ci": mean_ci(plain.right),
        "kinds": kinds,
        "worst": worst,
        "ok": kinds[worst]["difference"] >= -MAX_COST,
    }


def all_perturbed(questions: Sequence[Question], kind: str, seed: int) -> list[Question]:
    """Each question perturbed with its own random stream: what it becomes does not depend on the others."""
    return [
        replace(question, text=perturbed(question.text, kind, seeded(seed, f"{kind} {question.text}")))
        for question in questions
    ]


def compared(after: Scores, before: Scores, seed: int) -> dict[str, Any]:
    """Accuracies and their paired difference with its 95 % bootstrap interval, over questions."""
    found = paired_difference(after.right, before.right, seeded(seed, "robust"))
    return {
        "accuracy": round(float(after.right.mean()), 4),
        "accuracy_served": round(float(after.served.mean()), 4),
        "difference": round(found.mean, 4),
        "diff_ci": [round(found.lo, 4), round(found.hi, 4)],
    }


def _table(report: Mapping[str, Any]) -> str:
    lines = [f"{report['version']}: {report['accuracy']:.1%} on {report['n']} questions as they are"]
    for kind, found in report["kinds"].items():
        low, high = found["diff_ci"]
        lines.append(
            f"{kind:>10}  {found['accuracy']:.1%}, difference {found['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"
        )
    return "\n".join(lines)
