"""`rejoinder simulate`: simulated people talk to the real service, the real learner learns, versions change under them.

Questions and labels come from the dataset (or the domain's own `demo_questions.jsonl`); the labels decide thumbs here and
are seen by nothing else. In lockstep (the default) the run waits for learner and gate after every 32 thumbs, so that a
seed reproduces it; `--async` does not.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bot.conversation import BASE_VERSION
from bot.domain import Domain, load_domain
from bot.errors import ConfigError
from bot.feedback.store import Store
from bot.identity import home_secret
from bot.policy.adapters import AdapterStore
from bot.settings import LearnSettings, Settings
from online_learning.evaluate import Evaluator, Question, Scores, load_questions
from online_learning.simulate.client import ChatClient, Reply
from online_learning.simulate.processes import Lockstep, Running, both
from online_learning.simulate.taste import compare_style
from online_learning.simulate.users import NOISES, TASTES, TURNS_PER_USER, Turn, thumb, turns
from online_learning.statistics import paired_difference, seeded

THUMBS_PER_BARRIER = 32
MAX_CURVE_POINTS = 8
EVERY_KEPT = 3
"""Without a file to evaluate on, every third question of the dataset is kept for that and never asked."""
MAX_KEPT = 1500


@dataclass(frozen=True, slots=True)
class Step:
    """One finished turn."""

    turn: Turn
    reply: Reply
    is_right: bool
    thumb: int
    """0: not rated."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to simulate."""

    questions: Sequence[Question]
    num_turns: int
    rate: float
    noise: str
    taste: str
    reply: str
    seed: int
    lockstep: bool


def main(settings: Settings, args: argparse.Namespace) -> int:
    """Run once per seed; prints one JSON object (a list of runs in it when there are several)."""
    args.dataset = args.dataset or _demo_questions(load_domain(settings.domain))
    if args.taste and args.taste not in TASTES:
        raise ConfigError(f"--taste: expected one of {', '.join(TASTES)}, got {args.taste!r}")
    first = settings.seed or 0
    reports = [_one_seed(settings, args, seed, many=args.seeds > 1) for seed in range(first, first + args.seeds)]
    report = reports[0] if len(reports) == 1 else {"runs": reports}
    print(json.dumps(report) if args.json else _summary(reports))
    return 0


def _one_seed(settings: Settings, args: argparse.Namespace, seed: int, *, many: bool) -> dict[str, Any]:
    started = time.monotonic()
    home = settings.home / f"seed-{seed}" if many else settings.home
    settings = replace(settings, home=home, seed=seed, profile="demo")
    domain = load_domain(settings.domain)
    asked, kept = _asked_and_kept(args, domain)
    plan = Plan(asked, args.turns, args.rate, args.noise, args.taste or "", args.reply, seed, not args.asynchronous)
    _check_fresh(settings)
    steps = asyncio.run(_simulate(settings, plan, _options(plan, args.set or [])))
    report = _report(settings, domain, plan, steps, kept)
    report["eval_dataset"] = eval_file.name if (eval_file := _eval_file(args)) else "questions not asked"
    _write_curve(args.out or home / "simulate", steps, report)
    return report | {"seconds": round(time.monotonic() - started, 1)}


def _check_fresh(settings: Settings) -> None:
    """Simulated people must not mix with real ones."""
    with Store(settings.database) as store:
        found = store.counts()["conversations"]
    if found:
        raise ConfigError(
            f"simulate: expected a fresh home, got {settings.home} with {found} conversations; try --home NEW"
        )


def _options(plan: Plan, given: Sequence[str]) -> dict[str, str]:
    """Settings of server and learner: those given by `--set`, under what a simulation needs."""
    options = dict(pair.split("=", 1) for pair in given) | {
        "profile": "demo",
        "seed": str(plan.seed),
        "learn.settle_s": "0",
        "learn.holdout_share": str(LearnSettings().holdout_share),
        "learn.poll_s": "0.05",
        "learn.keep_versions": "1000000",  # the learning curve goes back to the first
        "limits.messages_per_min": "1000000",
        "limits.address_messages_per_min": "1000000",
        "limits.feedback_per_min": "1000000",
        "limits.conversations_per_min": "1000000",
    }
    # In lockstep the server waits while the learner works, so every core is the learner's.
    return options | ({"learn.lockstep": "true", "learn.threads": str(os.cpu_count() or 1)} if plan.lockstep else {})


async def _simulate(settings: Settings, plan: Plan, options: Mapping[str, str]) -> list[Step]:
    steps: list[Step] = []
    with both(settings, options) as running, Store(settings.database) as store:
        lockstep = Lockstep(store, running) if plan.lockstep else None
        bar = tqdm(total=plan.num_turns, unit="turn", file=sys.stderr, disable=None)
        client: ChatClient | None = None
        num_thumbs = 0
        for turn in turns(plan.questions, plan.num_turns, plan.rate, plan.seed):
            client = await _person(client, turn, running, plan)
            steps.append(await _take(client, turn, plan))
            num_thumbs += steps[-1].thumb != 0
            if lockstep and steps[-1].thumb and num_thumbs % THUMBS_PER_BARRIER == 0:
                await client.wait_for_version(await lockstep.pass_barrier())
            bar.update()
            bar.set_postfix(version=client.version, right=f"{_share_right(steps[-200:]):.2f}")
        bar.close()
        if client is not None:
            await client.close()
    return steps


async def _person(client: ChatClient | None, turn: Turn, running: Running, plan: Plan) -> ChatClient:
    """The same person for five turns, then the next one."""
    if client is not None and turn.number % TURNS_PER_USER:
        return client
    if client is not None:
        await client.close()
    return await ChatClient.open(running.port, plan.reply)


async def _take(client: ChatClient, turn: Turn, plan: Plan) -> Step:
    reply = await client.ask(turn.question.text)
    is_right = reply.act == f"answer:{turn.question.answer}"
    is_liked = TASTES[plan.taste](reply.text) if plan.taste else is_right
    value = thumb(NOISES[plan.noise], is_right=is_liked, uniform=turn.uniform) if turn.rates else 0
    if value:
        await client.vote(reply.message_id, value)
    return Step(turn, reply, is_right, value)


# --- questions --------------------------------------------------------------------------------------------------------
def _demo_questions(domain: Domain) -> Path:
    """The questions a domain ships for demonstrations. Raises ConfigError when it ships none."""
    path = domain.folder / "demo_questions.jsonl"
    if not path.is_file():
        raise ConfigError(f"simulate: expected --dataset F.jsonl, got nothing (and {domain.name} ships no {path.name})")
    return path


def _asked_and_kept(args: argparse.Namespace, domain: Domain) -> tuple[list[Question], list[Question]]:
    """What people ask, and what versions are evaluated on: the evaluation file, or questions that nobody asks."""
    known = list(domain.articles)
    questions = load_questions(args.dataset, known)
    if eval_file := _eval_file(args):
        return questions, load_questions(eval_file, known)
    kept = questions[EVERY_KEPT - 1 :: EVERY_KEPT][:MAX_KEPT]
    if not kept:
        raise ConfigError(f"{args.dataset}: expected {EVERY_KEPT} questions or --eval F.jsonl, got {len(questions)}")
    texts = {question.text for question in kept}
    return [question for question in questions if question.text not in texts], kept


def _eval_file(args: argparse.Namespace) -> Path | None:
    """`--eval F`, or `dev_eval.jsonl` beside the dataset."""
    beside = Path(args.dataset).with_name("dev_eval.jsonl")
    return args.eval or (beside if beside.is_file() else None)


# --- what came of it --------------------------------------------------------------------------------------------------
def _report(
    settings: Settings, domain: Domain, plan: Plan, steps: Sequence[Step], questions: Sequence[Question]
) -> dict[str, Any]:
    adapters = AdapterStore(settings.adapters, home_secret(settings.home))
    published = adapters.versions()
    versions = [BASE_VERSION, *_spread(published, MAX_CURVE_POINTS)]
    champion = adapters.champion().version
    versions += [champion] if champion not in versions else []
    scores = {s.version: s for s in Evaluator(settings, domain, adapters).scores(questions, versions)}
    report = _compared(scores[BASE_VERSION], scores[champion], plan.seed)
    report |= {
        "turns": len(steps),
        "thumbs": sum(step.thumb != 0 for step in steps),
        "versions": len(published),
        "noise": plan.noise,
        "rate": plan.rate,
        "seed": plan.seed,
        "version": champion,
        "eval_n": len(questions),
        "served_first_200": round(_share_right(steps[:200]), 4),
        "served_last_200": round(_share_right(steps[-200:]), 4),
        "refused_by_gate": _refusals(settings),
        "reply_ms": _percentiles([step.reply.total_s for step in steps]),
        "curve": [_point(scores[version]) for version in versions],
    }
    if plan.taste:
        report |= compare_style(settings, domain, adapters, questions, champion, TASTES[plan.taste])
    return report


def _compared(before: Scores, after: Scores, seed: int) -> dict[str, Any]:
    difference = paired_difference(after.right, before.right, seeded(seed, "paired"))
    served = paired_difference(after.served, before.served, seeded(seed, "paired served"))
    return {
        "eval_before": round(float(before.right.mean()), 4),
        "eval_after": round(float(after.right.mean()), 4),
        "diff": round(difference.mean, 4),
        "diff_ci": [round(difference.lo, 4), round(difference.hi, 4)],
        "served_before": round(float(before.served.mean()), 4),
        "served_after": round(float(after.served.mean()), 4),
        "served_diff_ci": [round(served.lo, 4), round(served.hi, 4)],
    }


def _point(scores: Scores) -> dict[str, Any]:
    return {
        "version": scores.version,
        "accuracy": round(float(scores.right.mean()), 4),
        "accuracy_served": round(float(scores.served.mean()), 4),
    }


def _refusals(settings: Settings) -> int:
    with Store(settings.database, readonly=True) as store:
        return sum(row.outcome == "refused" for row in store.updates())


def _spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` items, evenly spread, the last one among them."""
    if len(items) <= count:
        return list(items)
    return [items[round((i + 1) * len(items) / count) - 1] for i in range(count)]


def _share_right(steps: Sequence[Step]) -> float:
    return sum(step.is_right for step in steps) / max(1, len(steps))


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        name: round(1000 * ordered[int(share * (len(ordered) - 1))], 1) for name, share in (("p50", 0.5), ("p95", 0.95))
    }


def _write_curve(folder: Path, steps: Sequence[Step], report: dict[str, Any]) -> None:
    """Every turn as CSV and the learning curve as a picture."""
    from online_learning.simulate.curve import draw_curve

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "turns.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["turn", "user", "version", "act", "right", "thumb", "reply_ms"])
        for step in steps:
            reply = step.reply
            took_ms = round(reply.total_s * 1000, 1)
            writer.writerow(
                [step.turn.number, step.turn.user, reply.version, reply.act, int(step.is_right), step.thumb, took_ms]
            )
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    draw_curve(folder / "curve.png", [(step.reply.version, step.is_right) for step in steps], report)


def _summary(reports: Sequence[dict[str, Any]]) -> str:
    lines = []
    for report in reports:
        low, high = report["diff_ci"]
        lines.append(
            f"seed {report['seed']}: {report['thumbs']} thumbs, {report['versions']} versions; accuracy "
            f"{report['eval_before']:.1%} -> {report['eval_after']:.1%} (difference {low:+.1%} to {high:+.1%}) "
            f"on {report['eval_n']} questions"
        )
    return "\n".join(lines)
