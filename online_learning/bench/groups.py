"""`rejoinder bench groups`: do questions that nobody could answer come together by what they ask for?

    rejoinder bench groups --dataset F [--kb K] --json

DRAWS times, up to QUESTIONS questions of TOPICS topics are grouped as the studio does it (`bot.knowledge.grouping`), and as
without articles. Of the topics, every other one by name is drawn from: constants may be chosen on the others. A group counts
from LEAST questions on: `purity` is the share of its commonest topic, `coverage` the share of questions in such groups.
`pairs` are precision and recall of "these two belong together"; `steady` is how many of the pairs of the groups are left
when one article is taken away, the mean over LEFT_OUT of them.

Rows `{"text", "answer" | "intent"}` of JSONL, or CLINC150's `val` in its JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from bot.domain import Article, load_domain
from bot.errors import ConfigError
from bot.knowledge.grouping import group, topics
from bot.knowledge.index import Vectors
from bot.policy.download import find_or_fetch
from bot.policy.encoder import EncoderPart
from bot.settings import Settings
from online_learning.evaluate import Question, load_questions, with_knowledge
from online_learning.statistics import seeded

DRAWS = 3
TOPICS = 20
QUESTIONS = 300
LEAST = 3
LEFT_OUT = 5


def main(settings: Settings, args: argparse.Namespace) -> int:
    """Measure one file of labelled questions; prints one JSON object."""
    if args.dataset is None:
        raise ConfigError("bench groups: expected --dataset F.jsonl, got nothing")
    questions = _every_other_topic(load_labelled(args.dataset))
    domain = with_knowledge(load_domain(settings.domain), args.kb)
    encoder = EncoderPart(find_or_fetch("encoder", settings))
    report = {"dataset": args.dataset.name, "articles": len(domain.articles)} | measure(
        encoder, questions, list(domain.articles.values()), settings.seed or 0
    )
    print(json.dumps(report) if args.json else _summary(report))
    return 0


def load_labelled(path: Path) -> list[Question]:
    """Questions with the topic they are about. Raises ConfigError naming the file."""
    if path.suffix != ".json":
        return load_questions(path, known=None)
    try:
        return [Question(text, topic) for text, topic in json.loads(path.read_text(encoding="utf-8"))["val"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: expected CLINC150 with a list `val`, got {error!r}") from error


def _every_other_topic(questions: Sequence[Question]) -> list[Question]:
    kept = set(sorted({question.answer for question in questions})[::2])
    return [question for question in questions if question.answer in kept]


def measure(
    encoder: EncoderPart, questions: Sequence[Question], articles: Sequence[Article], seed: int
) -> dict[str, Any]:
    """Means over the draws: as the studio groups them, and with plain cosines."""
    means_M_D = np.stack([_embedded(encoder, article.texts).mean(0) for article in articles])
    grouped, plain = [], []
    for draw in range(DRAWS):
        drawn = _drawn(questions, seed, draw)
        labels, vectors_N_D = [question.answer for question in drawn], _embedded(encoder, [q.text for q in drawn])
        found = topics(vectors_N_D, means_M_D)
        grouped.append(judged(found, labels) | {"steady": _steady(found, vectors_N_D, means_M_D)})
        plain.append(judged(group(vectors_N_D), labels))
    return {"n": len(questions), "draws": DRAWS} | _mean(grouped) | {"plain": _mean(plain)}


def _embedded(encoder: EncoderPart, texts: Sequence[str]) -> Vectors:
    found: Vectors = encoder.embed_texts(texts).cpu().numpy()
    return found


def _drawn(questions: Sequence[Question], seed: int, draw: int) -> list[Question]:
    rng, names = seeded(seed, f"groups {draw}"), sorted({question.answer for question in questions})
    picked = {names[i] for i in rng.permutation(len(names))[:TOPICS]}
    some = [question for question in questions if question.answer in picked]
    return [some[i] for i in rng.permutation(len(some))[:QUESTIONS]]


def judged(groups: Sequence[Sequence[int]], labels: Sequence[str]) -> dict[str, float]:
    """One grouping of questions against their topics."""
    large = [[labels[i] for i in found] for found in groups if len(found) >= LEAST]
    covered = sum(map(len, large))
    together, alike = _pairs(groups), sum(count * (count - 1) // 2 for count in Counter(labels).values())
    right = sum(labels[a] == labels[b] for a, b in together)
    return {
        "groups": float(len(large)),
        "purity": sum(Counter(found).most_common(1)[0][1] for found in large) / max(covered, 1),
        "coverage": covered / len(labels),
        "pairs_precision": right / max(len(together), 1),
        "pairs_recall": right / max(alike, 1),
    }


def _steady(groups: Sequence[Sequence[int]], questions_N_D: Vectors, means_M_D: Vectors) -> float:
    together, kept = _pairs(groups), []
    for place in np.linspace(0, len(means_M_D) - 1, LEFT_OUT).astype(int):
        left = _pairs(topics(questions_N_D, np.delete(means_M_D, place, axis=0)))
        kept.append(len(together & left) / max(len(together), 1))
    return float(np.mean(kept))


def _pairs(groups: Sequence[Sequence[int]]) -> set[tuple[int, int]]:
    return {pair for found in groups for pair in combinations(sorted(found), 2)}


def _mean(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([one[name] for one in found])), 4) for name in found[0]}


def _summary(report: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{report['dataset']}, {name}: {found['groups']:.0f} groups, purity {found['purity']:.2f}, coverage "
        f"{found['coverage']:.2f}, pairs {found['pairs_precision']:.2f} / {found['pairs_recall']:.2f}"
        for name, found in (("as it is", report), ("plain cosines", report["plain"]))
    )
