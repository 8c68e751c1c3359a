"""`rejoinder bench words`: do generated replies learn from what operators write, also of what nobody wrote about?

People ask the bank and get generated replies; an operator corrects each of the first in the house style (`house_style`: greets,
asks back), people press thumbs for the right article. All in one process: the real session, teacher, engine, store, learner
and gate. A third of the articles is never asked about. Of their answers in the house style the likelihood is measured, and
on questions about them the style of what is written, under the fresh install and under each version; and whether these
replies stay with what they were given: words that look like names and stand neither in article nor conversation are counted.
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
from bot.feedback.text_metrics import words
from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from bot.policy.types import Policy
from bot.render import reply_prompt
from bot.settings import Settings
from online_learning.bench.house_style import ANSWERS
from online_learning.bench.stream import bench_settings
from online_learning.bench.style import Material, Reply, change, choices_judged, interval, until_served, written
from online_learning.demonstrations import Demonstration, Unfit, names, spelled
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
class Stage:
    """A version, measured."""

    version: str
    unseen: list[float]
    """Mean log-probability of a token, by answer that nobody gave; nats."""
    shown: list[float]
    """The same of the answers that operators gave."""
    replies: Sequence[Reply]
    """To judged questions."""


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
        stages = asyncio.run(_live(plan, loop, num_turns))
        record = choices_judged(replace(plan.material, judged=plan.others), loop, stages[-1].version)
        for edge, stage in (("before", stages[0]), ("after", stages[-1])):
            record |= {f"loglik_{edge}": stage.unseen, f"style_{edge}": styles(stage.replies)}
            record |= {f"invented_{edge}": invented(plan.material, stage.replies)}
        record |= {"curve": [_point(plan.material, stage) for stage in stages]}
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


async def _live(plan: Plan, loop: Loop, num_turns: int) -> list[Stage]:
    """The fresh install and the versions that came after it, one a block at most."""
    stages: list[Stage] = []
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
                    stages.append(await _stage(plan, loop, built.policy, loop.adapters.champion().version))
        return [await _stage(plan, loop, built.policy, BASE_VERSION), *stages]


async def _stage(plan: Plan, loop: Loop, policy: Policy, version: str) -> Stage:
    """`version`: the fresh install's or the one whose weights the learner holds."""
    adapter = BASE if version == BASE_VERSION else CURRENT
    judged, taught = plan.material.judged, plan.material.asked[:NUM_TAUGHT]
    unseen = await asyncio.to_thread(_likelihoods, plan, judged, loop, adapter)
    shown = await asyncio.to_thread(_likelihoods, plan, taught, loop, adapter)
    return Stage(version, unseen, shown, await written(plan.material, policy, version))


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


def invented(material: Material, replies: Sequence[Reply]) -> list[list[str]]:
    """Of each reply: words that look like names and stand in nothing the model was given."""
    given = (set(words(_prompt(material, question))) for question in material.judged)
    return [sorted(names(reply.text) - known) for reply, known in zip(replies, given, strict=True)]


def _point(material: Material, stage: Stage) -> dict[str, Any]:
    """A stage as people read it."""
    rates = {rule: round(float(np.mean(values)), 4) for rule, values in styles(stage.replies).items()}
    logliks = {"unseen": stage.unseen, "shown": stage.shown}
    means = {name: round(float(np.mean(values)), 4) for name, values in logliks.items()}
    return {"version": stage.version} | means | rates | {"invented": invented(material, stage.replies)}


def _prompt(material: Material, question: Question) -> str:
    source = material.domain.articles[question.answer].answer
    return reply_prompt(State("words", (Said("user", question.text),)), material.domain.persona, (source,))


@torch.no_grad()
def _likelihoods(plan: Plan, questions: Sequence[Question], loop: Loop, adapter: str) -> list[float]:
    """Mean log-probability of a token, by answer; those that the mask forbids have none."""
    writer = loop.learner.writer
    assert writer is not None, "generated replies need a causal part"
    rows = _answers(plan, questions, writer)
    with writer.remembering(sum(len(row.prompt_ids) for row in rows)):
        return [float(writer.token_logprobs([row], [adapter])[0].mean()) for row in rows]


def _answers(plan: Plan, questions: Sequence[Question], writer: CausalPart) -> list[Generated]:
    """Operators' answers to questions, as a version would have written them."""
    rows, domain, policy = list[Generated](), plan.material.domain, plan.material.settings.policy
    for question in questions:
        source, prompt = domain.articles[question.answer].answer, _prompt(plan.material, question)
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
    """Means over answers, replies and questions of all seeds; `style`: the mean of both rates; `invented`: share of replies with
    a word that looks like a name and was not given. Intervals pool the seeds."""
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
    for edge in ("before", "after"):
        found = [bool(strange) for seed in seeds for strange in seed[f"invented_{edge}"]]
        report |= {f"invented_{edge}": round(float(np.mean(found)), 4)}
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
        | {"curve": seed["curve"], "seconds": seed["seconds"]}
    )


def _told(report: Mapping[str, Any]) -> str:
    return (
        f"log-likelihood {report['loglik_before']:.2f} -> {report['loglik_after']:.2f} nats a token of operators' answers that nobody "
        f"gave, style {report['style_before']:.1%} -> {report['style_after']:.1%}, accuracy {report['accuracy_before']:.1%} -> "
        f"{report['accuracy_after']:.1%}, {report['seeds']} seeds of {report['turns']} turns"
    )
