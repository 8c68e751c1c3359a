"""`rejoinder bench style`: does a style that only `rewards.yml` asks for come into the words, and do choices stay right?

People ask, get generated replies and press thumbs for the right article alone. The style is written in the rules as
`applies_to: words`; nobody is told of it. All in one process: the real session, engine and decoder, store, rules file,
learner and gate, and each published version is served to the questions that follow. Style is measured before and after
on replies to questions nobody asked, written by the engine's own lease of each version with the same random streams.

A seed that is finished is kept under HOME/bench-style and not run again; one that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bot.compose import Serving, serving
from bot.conversation import BASE_VERSION, Conversation, Generated, Message, Signal, SignalKind, State, digest
from bot.conversation import Turn as Said
from bot.domain import Domain, load_domain
from bot.errors import ConfigError, RejoinderError
from bot.feedback.rules import Rules, load_rules
from bot.feedback.store import Store
from bot.feedback.text_metrics import num_questions, num_words, rouge_l
from bot.policy.adapted import BASE
from bot.policy.grounding import ungrounded
from bot.policy.requests import reply_request
from bot.policy.types import Policy, TextRequest
from bot.render import reply_prompt
from bot.settings import Settings
from online_learning.bench.stream import bench_settings
from online_learning.evaluate import Evaluator, Question, load_questions, scores_of
from online_learning.loop import Loop
from online_learning.process import build_loop
from online_learning.simulate.users import NOISES, thumb
from online_learning.statistics import paired_difference, seeded
from online_learning.update import CURRENT

RULES = """\
version: 2
rules:
  thumb: {up: 0.5, down: -0.5}
  outcome: {solved: 1.0, not_solved: -1.0}
rewards:
  style:
    rules:
      - {name: asks back, when: {expression: num_questions >= 1}, applies_to: words, reward: 0.25}
      - {name: stays short, when: {expression: num_words < 40}, applies_to: words, reward: 0.25}
"""
"""The bench's `rewards.yml`: thumbs for the act, style for the words."""
MAX_TOKENS = 64
"""Of a reply: enough to be too long."""
AT_ONCE = 16
NUM_WRITTEN = 96
"""Questions on which style is measured."""
NUM_MEASURED = 32
"""Of their replies, those on which the distance to the start is."""
EVERY_KEPT = 3
"""Without a file to judge by, every third question is kept for that and never asked."""
SWAP_TIMEOUT_S = 300.0
TURNS = 128
GAIN = 2.0
"""Asked for: so many times the style's rate at the start."""


@dataclass(frozen=True, slots=True)
class Material:
    """Domain with the bench's rules, who asks what, and what is judged."""

    settings: Settings
    domain: Domain
    rules: Rules
    asked: Sequence[Question]
    judged: Sequence[Question]
    noise: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a version shows for a judged question."""

    text: str
    generated: Generated | None
    """None: it was not grounded, and the approved answer stands in its place."""


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`--turns N --seeds K [--dataset F --eval F]`; exit 1 where the style did not double or choices got worse."""
    first, num_turns = settings.seed or 0, args.turns or TURNS
    seeds = [_seed(settings, args, seed, num_turns) for seed in range(first, first + args.seeds)]
    report = summary(seeds)
    print(json.dumps(report) if args.json else _told(report))
    return int(not report["met"])


# --- one seed ---------------------------------------------------------------------------------------------------------
def _seed(settings: Settings, args: argparse.Namespace, seed: int, num_turns: int) -> dict[str, Any]:
    """The finished record of a seed, from disk when there is one."""
    said = [RULES, str(settings.domain), str(args.dataset), str(args.eval), args.noise, repr(settings.policy)]
    root = settings.home / "bench-style" / digest(*said, repr(settings.learn), str(num_turns))[:16]
    kept, home = root / f"seed-{seed}.json", root / f"home-{seed}"
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    home.mkdir(parents=True, exist_ok=True)
    record = _run(_material(settings, args, home, seed), num_turns)
    kept.with_suffix(".part").write_text(json.dumps(record))
    kept.with_suffix(".part").rename(kept)
    shutil.rmtree(home)
    return record


def _material(settings: Settings, args: argparse.Namespace, home: Path, seed: int) -> Material:
    source = load_domain(settings.domain)
    folder = home / "domain" / source.name
    if not folder.is_dir():
        shutil.copytree(source.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "rewards.yml").write_text(RULES)
    domain = load_domain(str(folder))
    settings = bench_settings(settings, home, seed)
    policy = replace(settings.policy, max_reply_tokens=MAX_TOKENS)
    settings = replace(settings, profile="demo", domain=str(folder), policy=policy)
    asked, judged = _questions(args, domain)
    return Material(settings, domain, load_rules(domain.rewards_path), asked, judged, args.noise)


def _questions(args: argparse.Namespace, domain: Domain) -> tuple[list[Question], list[Question]]:
    """What is asked and what is judged, with no text in both. Raises ConfigError."""
    path = args.dataset or domain.folder / "demo_questions.jsonl"
    if not path.is_file():
        raise ConfigError(
            f"bench style: expected --dataset F.jsonl, got nothing (and {domain.name} ships no questions)"
        )
    known = list(domain.articles)
    asked = load_questions(path, known)
    judged = load_questions(args.eval, known) if args.eval else asked[EVERY_KEPT - 1 :: EVERY_KEPT]
    texts = {question.text for question in judged}
    asked = [question for question in asked if question.text not in texts]
    if not asked or not judged:
        raise ConfigError(f"{path}: expected {EVERY_KEPT} questions or more, got {len(asked) + len(judged)}")
    return asked, judged


def _run(material: Material, num_turns: int) -> dict[str, Any]:
    settings, started = material.settings, time.monotonic()
    with Store(settings.database) as store:
        loop = build_loop(settings, store, domain=material.domain)
        loop.resume()
        champion, before, after = asyncio.run(_live(material, loop, num_turns))
        record = choices_judged(material, loop, champion)
        record |= {"before": _figures(material, before), "after": _figures(material, after)}
        record |= {"kl_words": _kl_words(loop, [reply.generated for reply in after if reply.generated])}
        record |= {"curve": _curve(material, store), "updates": [row.outcome for row in store.updates()]}
    return record | {"version": champion, "turns": num_turns, "seconds": round(time.monotonic() - started, 1)}


async def _live(material: Material, loop: Loop, num_turns: int) -> tuple[str, list[Reply], list[Reply]]:
    """The last version, and what the fresh install and it show for judged questions."""
    async with serving(material.settings) as built:
        await _talk(material, built, loop, num_turns)
        champion = loop.adapters.champion().version
        await until_served(built.policy, champion)
        before = await written(material, built.policy, BASE_VERSION)
        return champion, before, await written(material, built.policy, champion)


async def _talk(material: Material, built: Serving, loop: Loop, num_turns: int) -> None:
    """Ask, rate, learn and serve what was learned, block by block, from where an interrupted run stopped."""
    store, every = built.parts.store, material.settings.learn.update_every
    rng = seeded(material.settings.seed or 0, "style")
    order = np.concatenate([rng.permutation(len(material.asked)) for _ in range(-(-num_turns // len(material.asked)))])
    begun = store.counts()["conversations"]
    with tqdm(total=num_turns, initial=begun, unit="turn", file=sys.stderr, disable=None) as bar:
        for start in range(begun, num_turns, AT_ONCE):
            block = range(start, min(start + AT_ONCE, num_turns))
            await asyncio.gather(*(_turn(material, built, i, material.asked[order[i]]) for i in block))
            bar.update(len(block))
            if (start + AT_ONCE) % every < AT_ONCE:
                while await asyncio.to_thread(loop.step):
                    pass
                await until_served(built.policy, loop.adapters.champion().version)
                bar.set_postfix(version=built.policy.champion)


async def until_served(policy: Policy, version: str) -> None:
    """The engine follows the pointer by itself. Raises RejoinderError when it does not take the version."""
    try:
        async with asyncio.timeout(SWAP_TIMEOUT_S):
            while policy.champion != version:  # noqa: ASYNC110 - the engine tells nobody when it has swapped
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        found = f"expected {version} to serve within {SWAP_TIMEOUT_S:.0f} s, got {policy.champion}: see what was logged"
        raise RejoinderError(found) from error


async def _turn(material: Material, built: Serving, number: int, question: Question) -> None:
    """One person's question, its generated reply, and a thumb for the article."""
    store, name, now = built.parts.store, f"c{number}", time.time()
    conversation = Conversation(name, f"p{number}", now, material.domain.name, reply_mode="generated")
    await asyncio.to_thread(store.add_conversation, conversation)
    asked = Message(f"q{number}", name, 0, "user", question.text, now)
    asked, _ = await asyncio.to_thread(store.add_user_message, asked)
    items = [item async for item in built.session.reply(conversation, asked)]
    said = items[-1]
    if not isinstance(said, Message) or not said.decision_id:
        return
    uniform = float(seeded(material.settings.seed or 0, f"thumb {number}").random())
    is_right = said.act == f"answer:{question.answer}"
    value = thumb(NOISES[material.noise], is_right=is_right, uniform=uniform)
    signal = Signal(
        key=f"k{number}",
        conversation_id=name,
        kind=SignalKind.THUMB,
        value=float(value),
        author=conversation.person_id,
        created_at=time.time(),
        decision_id=said.decision_id,
        source="user",
    )
    await asyncio.to_thread(store.add_signal, signal)


# --- judging ----------------------------------------------------------------------------------------------------------
async def written(material: Material, policy: Policy, version: str) -> list[Reply]:
    """What a version shows for judged questions, given the right article."""
    found: list[Reply] = []
    questions = material.judged[:NUM_WRITTEN]
    with tqdm(total=len(questions), desc=f"written by {version}", unit="reply", file=sys.stderr, disable=None) as bar:
        async with policy.lease(version) as lease:
            for start in range(0, len(questions), AT_ONCE):
                requests = [
                    _request(material, questions[i], i) for i in range(start, min(start + AT_ONCE, len(questions)))
                ]
                found += await asyncio.gather(*(_shown(lease.write(request), request.sources) for request in requests))
                bar.update(len(requests))
    return found


def _request(material: Material, question: Question, seed: int) -> TextRequest:
    sources = (material.domain.articles[question.answer].answer,)
    prompt = reply_prompt(State("style", (Said("user", question.text),)), material.domain.persona, sources)
    return reply_request(material.settings.policy, prompt, sources, seed, chat=str(seed))


async def _shown(pieces: Any, sources: tuple[str, ...]) -> Reply:
    """As the session shows it."""
    generated: Generated | None = None
    async for piece in pieces:
        generated = piece.generated
    if generated is None or not generated.text.strip() or ungrounded(generated.text, sources):
        return Reply(sources[0], None)
    return Reply(generated.text, generated)


def _figures(material: Material, replies: Sequence[Reply]) -> dict[str, Any]:
    """Of each reply: the rules' wishes (1 granted, 0 not), and what else may have changed."""
    wishes = [wishes_of(material.rules, reply.text) for reply in replies]
    sources = [material.domain.articles[question.answer].answer for question in material.judged]
    return {
        "wishes": {name: [wish[name] for wish in wishes] for name in wishes[0]},
        "words": [num_words(reply.text) for reply in replies],
        "rouge_l": [round(rouge_l(r.text, source), 4) for r, source in zip(replies, sources, strict=False)],
        "generated": [float(reply.generated is not None) for reply in replies],
    }


def wishes_of(rules: Rules, text: str) -> dict[str, float]:
    """By rule about words: whether a text is what it pays for."""
    values = {"num_questions": num_questions(text), "num_words": num_words(text)}
    rules_of_words = [(name, rule) for name, _, rule in rules.each_rule() if name in rules.word_terms]
    return {
        name: float(not rule.when.expression or rule.when.expression.holds(values)) for name, rule in rules_of_words
    }


def choices_judged(material: Material, loop: Loop, champion: str) -> dict[str, Any]:
    """Choices on all judged questions, under the fresh install and the champion."""
    evaluator = Evaluator(material.settings, material.domain, loop.adapters)
    outlooks = evaluator.outlooks([question.text for question in material.judged], [BASE_VERSION, champion])
    start, end = (scores_of(material.judged, found, champion) for found in outlooks)
    pairs = zip(outlooks[1], outlooks[0], strict=True)
    kl = [sum(np.exp(p) * (p - q) for p, q in zip(a.logprobs, b.logprobs, strict=True)) for a, b in pairs]
    return {
        "right": {"before": start.right.tolist(), "after": end.right.tolist()},
        "served": {"before": start.served.round(6).tolist(), "after": end.served.round(6).tolist()},
        "kl_acts": round(float(np.mean(kl)), 4),
    }


def _kl_words(loop: Loop, written: Sequence[Generated]) -> float | None:
    """Mean over written tokens of log p_champion - log p_start: an estimate of KL(champion || start), nats a token."""
    writer = loop.learner.writer
    if writer is None or not written:
        return None
    some, gaps = written[:NUM_MEASURED], list[float]()
    with torch.no_grad(), writer.remembering(sum(len(text.prompt_ids) for text in some)):
        for start in range(0, len(some), 4):
            batch = some[start : start + 4]
            (now, mask), (then, _) = (writer.token_logprobs(batch, [name] * len(batch)) for name in (CURRENT, BASE))
            gaps += (now - then)[mask].tolist()
    return round(float(np.mean(gaps)), 4)


def _curve(material: Material, store: Store) -> list[dict[str, Any]]:
    """What was served while it learned, by version."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(store.counts()["conversations"]):
        for line in store.messages(f"c{number}"):
            if line.role == "bot" and line.decision_id and line.stop_reason:
                groups[line.version].append(float(np.mean(list(wishes_of(material.rules, line.text).values()))))
    return [{"version": v, "replies": len(some), "style": round(float(np.mean(some)), 4)} for v, some in groups.items()]


# --- all seeds --------------------------------------------------------------------------------------------------------
def summary(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`style`: share of the rules' wishes that replies grant, in the mean over rules; intervals pool the seeds, a
    question's replies of all seeds together."""
    styles = {edge: _pooled([np.mean(list(s[edge]["wishes"].values()), axis=0) for s in seeds]) for edge in _EDGES}
    before, after = float(styles["before"].mean()), float(styles["after"].mean())
    right, served = (change(seeds, name) for name in ("right", "served"))
    names = list(seeds[0]["before"]["wishes"])
    report = {
        "style_before": round(before, 4),
        "style_after": round(after, 4),
        "style_diff_ci": interval(styles["after"], styles["before"], len(seeds)),
        "gain": round(after / before, 2) if before else None,
        "by_rule": {name: _edges([s[e]["wishes"][name] for s in seeds] for e in _EDGES) for name in names},
        "accuracy_before": right["before"],
        "accuracy_after": right["after"],
        "accuracy_diff_ci": right["ci"],
        "accuracy_served_before": served["before"],
        "accuracy_served_after": served["after"],
        "accuracy_served_diff_ci": served["ci"],
        "kl_words": [s["kl_words"] for s in seeds],
        "kl_acts": [s["kl_acts"] for s in seeds],
        **{name: _edges([s[e][name] for s in seeds] for e in _EDGES) for name in ("words", "rouge_l", "generated")},
        "by_seed": [
            {e: round(float(np.mean(list(s[e]["wishes"].values()))), 4) for e in _EDGES}
            | {"versions": s["updates"].count("published"), "refused": s["updates"].count("refused")}
            | {"curve": s["curve"], "seconds": s["seconds"]}
            for s in seeds
        ],
        "style_n": len(seeds[0]["before"]["words"]),
        "eval_n": len(seeds[0]["right"]["before"]),
        "turns": seeds[0]["turns"],
        "seeds": len(seeds),
    }
    return report | {"met": after >= GAIN * before and after > before and right["ci"][1] >= 0}


_EDGES = ("before", "after")


def _pooled(rows: Sequence[Any]) -> Any:
    return np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])


def _edges(pair: Any) -> list[float]:
    """Means before and after."""
    return [round(float(_pooled(rows).mean()), 4) for rows in pair]


def change(seeds: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    before, after = (_pooled([s[name][edge] for s in seeds]) for edge in _EDGES)
    return {
        "before": round(float(before.mean()), 4),
        "after": round(float(after.mean()), 4),
        "ci": interval(after, before, len(seeds)),
    }


def interval(after: Any, before: Any, num_seeds: int) -> list[float]:
    """95 % of the paired difference, by bootstrap over questions."""
    questions = np.tile(np.arange(len(after) // num_seeds), num_seeds)
    found = paired_difference(after, before, seeded(0, "bench style"), questions)
    return [round(found.lo, 4), round(found.hi, 4)]


def _told(report: Mapping[str, Any]) -> str:
    low, high = report["accuracy_diff_ci"]
    return (
        f"style {report['style_before']:.1%} -> {report['style_after']:.1%} on {report['style_n']} questions, "
        f"accuracy {report['accuracy_before']:.1%} -> {report['accuracy_after']:.1%} ({low:+.1%} to {high:+.1%}), "
        f"{report['seeds']} seeds of {report['turns']} turns"
    )
