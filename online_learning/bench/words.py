"""`rejoinder bench words`: do generated replies learn from what operators write, also of what nobody wrote about?

People ask the bank and get generated replies; an operator corrects each of the first in the house style (`house_style`: greets,
asks back), people press thumbs for the right article. All in one process: the real session, teacher, engine, store, learner
and gate. A third of the articles is never asked about. Of their answers in the house style the likelihood is measured, and
on questions about them the style of what is written, under the fresh install and under the last version.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bot.compose import Serving, serving
from bot.conversation import BASE_VERSION, Conversation, Generated, Message, Signal, SignalKind, State
from bot.conversation import Turn as Said
from bot.domain import load_domain
from bot.errors import ConfigError
from bot.feedback.desk import Doing
from bot.feedback.rules import load_rules
from bot.feedback.store import Store
from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from bot.render import reply_prompt
from bot.settings import Settings
from online_learning.bench.house_style import ANSWERS
from online_learning.bench.stream import bench_settings
from online_learning.bench.style import Material, Reply, change, choices_judged, interval, until_served, written
from online_learning.demonstrations import Demonstration, Unfit, spelled
from online_learning.evaluate import Question, load_questions
from online_learning.loop import Loop
from online_learning.process import build_loop
from online_learning.statistics import seeded
from online_learning.update import CURRENT

OPERATOR = "operator:bench"
NUM_TAUGHT = 32
"""Articles that are asked about and whose replies are corrected; of the others nothing is said."""
TURNS = 64
"""Two updates, one a block: the operator is heard in both."""
BLOCK = 32
ENOUGH = 16
"""Fresh rewards for an update: of a block more settle, also of one in which nobody is corrected."""
AT_ONCE = 8
LIKELIHOODS = ("loglik_before", "loglik_after")


@dataclass(frozen=True, slots=True)
class Plan:
    """Who asks what in a seed."""

    material: Material
    """Judged: questions about articles that nobody asks about."""
    answers: Mapping[str, str]
    """Article -> an operator's answer."""
    others: Sequence[Question]
    """All questions that nobody asks: choices are judged on them."""


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`--turns N --seeds K`; exit 1 where likelihood or style did not rise for sure, or choices got worse."""
    if load_domain(settings.domain).name != "bank":
        raise ConfigError(
            f"bench words: expected --domain bank, for which its answers were written, got {settings.domain}"
        )
    first = settings.seed or 0
    seeds = [_seed(settings, seed, args.turns or TURNS) for seed in range(first, first + args.seeds)]
    report = summary(seeds)
    print(json.dumps(report) if args.json else _told(report))
    return int(not report["met"])


# --- one seed ---------------------------------------------------------------------------------------------------------
def _seed(settings: Settings, seed: int, num_turns: int) -> dict[str, Any]:
    home = settings.home / "bench-words" / f"seed-{seed}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    started, settings = time.monotonic(), replace(bench_settings(settings, home, seed), profile="demo")
    settings = replace(settings, learn=replace(settings.learn, update_every=min(ENOUGH, settings.learn.update_every)))
    plan = planned(settings, seed)
    with Store(settings.database) as store:
        loop = build_loop(settings, store, domain=plan.material.domain)
        loop.resume()
        champion, before, after = asyncio.run(_live(plan, loop, num_turns))
        record = choices_judged(replace(plan.material, judged=plan.others), loop, champion)
        record |= _likelihoods(plan, loop) | {"style_before": styles(before), "style_after": styles(after)}
        record |= {"updates": [{"outcome": row.outcome} | _of_words(row.metrics) for row in store.updates()]}
    shutil.rmtree(home)
    return record | {"turns": num_turns, "seconds": round(time.monotonic() - started, 1)}


def planned(settings: Settings, seed: int) -> Plan:
    """Two thirds of the articles with an answer are asked about; one question each of the rest is judged."""
    domain = load_domain(settings.domain)
    questions = load_questions(domain.folder / "demo_questions.jsonl", list(domain.articles))
    order: list[str] = seeded(seed, "bench words").permutation(sorted(ANSWERS)).tolist()
    rounds = [[_nth(questions, name, number) for name in order[:NUM_TAUGHT]] for number in range(2)]
    asked = [question for some in rounds for question in some]
    judged = [_nth(questions, name, 0) for name in order[NUM_TAUGHT:]]
    texts = {question.text for question in asked}
    others = [question for question in questions if question.text not in texts]
    return Plan(Material(settings, domain, load_rules(domain.rewards_path), asked, judged, "clean"), ANSWERS, others)


def _nth(questions: Sequence[Question], article: str, number: int) -> Question:
    of_it = [question for question in questions if question.answer == article]
    return of_it[number % len(of_it)]


async def _live(plan: Plan, loop: Loop, num_turns: int) -> tuple[str, list[Reply], list[Reply]]:
    """The last version, and what the fresh install and it show for judged questions."""
    async with serving(plan.material.settings) as built:
        with tqdm(total=num_turns, unit="turn", file=sys.stderr, disable=None) as bar:
            for start in range(0, num_turns, AT_ONCE):
                block = range(start, min(start + AT_ONCE, num_turns))
                await asyncio.gather(*(_turn(plan, built, number) for number in block))
                bar.update(len(block))
                if block.stop % BLOCK == 0 or block.stop == num_turns:
                    while await asyncio.to_thread(loop.step):
                        pass
                    await until_served(built.policy, loop.adapters.champion().version)
        champion = loop.adapters.champion().version
        before = await written(plan.material, built.policy, BASE_VERSION)
        return champion, before, await written(plan.material, built.policy, champion)


async def _turn(plan: Plan, built: Serving, number: int) -> None:
    """A question and its generated reply; a thumb for the article, and for the first of each an operator's words."""
    store, name, now = built.parts.store, f"c{number}", time.time()
    question = plan.material.asked[number % len(plan.material.asked)]
    conversation = Conversation(name, f"p{number}", now, plan.material.domain.name, reply_mode="generated")
    await asyncio.to_thread(store.add_conversation, conversation)
    asked = Message(f"q{number}", name, 0, "user", question.text, now)
    asked, _ = await asyncio.to_thread(store.add_user_message, asked)
    said = [item async for item in built.session.reply(conversation, asked)][-1]
    if not isinstance(said, Message) or not said.decision_id:
        return
    right = f"answer:{question.answer}"
    value, at = 1.0 if said.act == right else -1.0, time.time()
    thumb = Signal(f"k{number}", name, SignalKind.THUMB, value, conversation.person_id, at, said.decision_id)
    await asyncio.to_thread(store.add_signal, thumb)
    if number < NUM_TAUGHT:
        await built.parts.teacher.correct(Doing(OPERATOR, at), said.id, right, plan.answers[question.answer])


# --- judging ----------------------------------------------------------------------------------------------------------
def styles(replies: Sequence[Reply]) -> dict[str, list[float]]:
    """Of each reply: whether it greets as the house does, and whether it ends by asking back."""
    texts = [reply.text.strip() for reply in replies]
    return {
        "greets": [float(text.startswith("Hello,")) for text in texts],
        "asks_back": [float(text.endswith("?")) for text in texts],
    }


def _likelihoods(plan: Plan, loop: Loop) -> dict[str, Any]:
    """Mean log-probability of a token, by answer that nobody gave, under the fresh install and the last version."""
    writer = loop.learner.writer
    assert writer is not None, "generated replies need a causal part"
    rows = _held_out(plan, writer)
    found: dict[str, list[float]] = {name: [] for name in LIKELIHOODS}
    with torch.no_grad(), writer.remembering(sum(len(row.prompt_ids) for row in rows)):
        for row in rows:
            for name, adapter in zip(LIKELIHOODS, (BASE, CURRENT), strict=True):
                found[name].append(float(writer.token_logprobs([row], [adapter])[0].mean()))
    return found


def _held_out(plan: Plan, writer: CausalPart) -> list[Generated]:
    """Operators' answers to judged questions; those that the mask forbids have no likelihood."""
    rows, domain, policy = list[Generated](), plan.material.domain, plan.material.settings.policy
    for question in plan.material.judged:
        source = domain.articles[question.answer].answer
        prompt = reply_prompt(State("words", (Said("user", question.text),)), domain.persona, (source,))
        row = Demonstration("", "", "", prompt, source, plan.answers[question.answer], was_generated=False)
        try:
            rows.append(spelled(row, writer.vocabulary, temperature=policy.text_temperature, max_tokens=MAX_TOKENS))
        except Unfit:
            continue
    return rows


MAX_TOKENS = 128
"""Of an answer that is judged."""


def _of_words(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name.startswith("words_")}


# --- all seeds --------------------------------------------------------------------------------------------------------
def summary(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over answers, replies and questions of all seeds; `style`: the mean of both rates. Intervals pool the seeds."""
    loglik = [np.concatenate([seed[name] for seed in seeds]) for name in LIKELIHOODS]
    rates = [{rule: np.concatenate([s[edge][rule] for s in seeds]) for rule in seeds[0][edge]} for edge in _STYLES]
    style = [np.mean(list(rate.values()), axis=0) for rate in rates]
    right, served = (change(seeds, name) for name in ("right", "served"))
    report: dict[str, Any] = {name: round(float(x.mean()), 4) for name, x in zip(LIKELIHOODS, loglik, strict=True)}
    report |= {"loglik_diff_ci": interval(loglik[1], loglik[0], 1), "loglik_n": len(loglik[0])}
    report |= {name: round(float(x.mean()), 4) for name, x in zip(_STYLES, style, strict=True)}
    report |= {"style_diff_ci": interval(style[1], style[0], 1), "style_n": len(style[0])}
    report |= {rule: [round(float(rate[rule].mean()), 4) for rate in rates] for rule in rates[0]}
    report |= {"accuracy_before": right["before"], "accuracy_after": right["after"], "accuracy_diff_ci": right["ci"]}
    report |= {"accuracy_served_before": served["before"], "accuracy_served_after": served["after"]}
    report |= {"kl_acts": [seed["kl_acts"] for seed in seeds], "updates": [seed["updates"] for seed in seeds]}
    report |= {"by_seed": [_by_seed(seed) for seed in seeds], "turns": seeds[0]["turns"], "seeds": len(seeds)}
    rose = report["loglik_diff_ci"][0] > 0 and report["style_diff_ci"][0] > 0
    return report | {"met": rose and right["ci"][1] >= 0}


_STYLES = ("style_before", "style_after")


def _by_seed(seed: Mapping[str, Any]) -> dict[str, Any]:
    means = {name: round(float(np.mean(seed[name])), 4) for name in LIKELIHOODS}
    return (
        means
        | {name: round(float(np.mean(list(seed[name].values()))), 4) for name in _STYLES}
        | {"seconds": seed["seconds"]}
    )


def _told(report: Mapping[str, Any]) -> str:
    return (
        f"log-likelihood {report['loglik_before']:.2f} -> {report['loglik_after']:.2f} nats a token of operators' answers that nobody "
        f"gave, style {report['style_before']:.1%} -> {report['style_after']:.1%}, accuracy {report['accuracy_before']:.1%} -> "
        f"{report['accuracy_after']:.1%}, {report['seeds']} seeds of {report['turns']} turns"
    )
