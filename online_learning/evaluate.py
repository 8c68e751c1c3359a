"""`rejoinder eval`: how often a version picks the right article on labelled questions it never learned from.

`accuracy` is the mode's; `accuracy_served` is the mean probability of the right act, which is what sampling serves.
Labels come from the file that was given and go nowhere else.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bot.conversation import BASE_VERSION, Act, ActKind
from bot.domain import Article, Domain, load_domain
from bot.errors import ConfigError
from bot.identity import home_secret
from bot.policy.adapters import AdapterStore
from bot.policy.download import find_or_fetch
from bot.policy.model import BASE, EncoderPart, PolicyModel
from bot.policy.weights import read_version
from bot.settings import Settings
from online_learning.offline import OfflinePolicy, Outlook
from online_learning.statistics import Floats, mean_interval, seeded


@dataclass(frozen=True, slots=True)
class Question:
    """A labelled question."""

    text: str
    answer: str
    """Article id."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What one version made of each question, in order."""

    version: str
    right: Floats
    """1 where the mode is the right answer."""
    served: Floats
    """Probability of the right answer."""
    success: Floats
    """Probability of the right answer, or of offering it in a clarifying question."""


def load_questions(path: Path, known: Sequence[str]) -> list[Question]:
    """Read JSONL rows `{"text", "answer" | "intent"}`. Raises ConfigError naming file and line."""
    found, ids = [], set(known)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            found.append(_question(line, f"{path}:{number}", ids))
    if not found:
        raise ConfigError(f"{path}: expected at least one row, got none")
    return found


def _question(line: str, where: str, known: set[str]) -> Question:
    try:
        row = json.loads(line)
        text, answer = row["text"], row.get("answer") or row["intent"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f'{where}: expected {{"text": ..., "answer": ...}}, got {line[:60]!r}') from error
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{where}: expected a question, got {text!r}")
    if answer not in known:
        raise ConfigError(f"{where}: expected an article of the domain, got {answer!r}")
    return Question(text, answer)


def with_knowledge(domain: Domain, files: Sequence[Path]) -> Domain:
    """The domain with articles made of knowledge rows `{"intent" | "answer", "exemplar", "title"?}` instead of its own."""
    if not files:
        return domain
    exemplars: defaultdict[str, list[str]] = defaultdict(list)
    titles: dict[str, str] = {}
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                name = row.get("answer") or row["intent"]
                exemplars[name].append(row["exemplar"])
                titles[name] = row.get("title") or titles.get(name) or name.replace("_", " ")
            except (ValueError, KeyError, AttributeError) as error:
                raise ConfigError(f"{path}:{number}: expected intent and exemplar, got {line[:60]!r}") from error
    answers = {name: article.answer for name, article in domain.articles.items()}
    articles = {
        name: Article(name, titles[name], answers.get(name, titles[name]), tuple(texts))
        for name, texts in exemplars.items()
    }
    return replace(domain, articles=articles)


class Evaluator:
    """Questions prepared once (retrieval does not depend on the version), scored under any version."""

    def __init__(self, settings: Settings, domain: Domain, adapters: AdapterStore) -> None:
        self._model = PolicyModel(EncoderPart(find_or_fetch("encoder", settings)))
        self._policy = OfflinePolicy(self._model, domain, settings)
        self._adapters = adapters

    def scores(self, questions: Sequence[Question], versions: Sequence[str]) -> list[Scores]:
        """One record a version. Raises NotFound, AdapterError."""
        rows = self._policy.rows([question.text for question in questions])
        return [self._score(questions, self._policy.outlooks(rows, self._adapter(v)), v) for v in versions]

    def _adapter(self, version: str) -> str:
        if version == BASE_VERSION:
            return BASE
        if version not in self._model.encoder.model.names:
            files = read_version(self._adapters, version)
            self._model.encoder.model.load(version, files.encoder_config, files.encoder)
        return version

    def _score(self, questions: Sequence[Question], outlooks: Sequence[Outlook], version: str) -> Scores:
        wanted = [f"answer:{question.answer}" for question in questions]
        pairs = list(zip(outlooks, wanted, strict=True))
        served = np.array([outlook.probability(act) for outlook, act in pairs])
        offered = np.array([_offered(o, question.answer) for o, question in zip(outlooks, questions, strict=True)])
        return Scores(version, np.array([float(o.mode == act) for o, act in pairs]), served, served + offered)


def _offered(outlook: Outlook, article: str) -> float:
    """Probability of a clarifying question that offers the article."""
    acts = [Act.parse(act) for act in outlook.acts]
    hits = [act.kind is ActKind.CLARIFY and article in act.target.split("|") for act in acts]
    return float(np.exp([p for p, hit in zip(outlook.logprobs, hits, strict=True) if hit]).sum())


def mean_ci(values: Floats, seed: int = 0) -> list[float]:
    """95 % bootstrap interval of the mean, over questions."""
    found = mean_interval(values, seeded(seed, "eval"))
    return [round(found.lo, 4), round(found.hi, 4)]


def per_intent(questions: Sequence[Question], scores: Scores) -> dict[str, float]:
    """Accuracy by article."""
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for question, right in zip(questions, scores.right, strict=True):
        groups[question.answer].append(right)
    return {name: round(float(np.mean(group)), 4) for name, group in sorted(groups.items())}


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`rejoinder eval --dataset F [--version V] [--kb F]`."""
    if args.dataset is None:
        raise ConfigError("eval: expected --dataset F.jsonl, got nothing")
    domain = with_knowledge(load_domain(settings.domain), args.kb)
    adapters = AdapterStore(settings.adapters, home_secret(settings.home))
    questions = load_questions(args.dataset, list(domain.articles))
    version = args.version or adapters.champion().version
    scores = Evaluator(settings, domain, adapters).scores(questions, [version])[0]
    report = {
        "accuracy": round(float(scores.right.mean()), 4),
        "ci": mean_ci(scores.right),
        "accuracy_served": round(float(scores.served.mean()), 4),
        "accuracy_served_ci": mean_ci(scores.served),
        "success": round(float(scores.success.mean()), 4),
        "success_ci": mean_ci(scores.success),
        "n": len(questions),
        "version": version,
        "per_intent": per_intent(questions, scores),
    }
    _print(report, as_json=bool(args.json))
    return 0


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report))
        return
    low, high = report["ci"]
    print(f"{report['version']}: accuracy {report['accuracy']:.1%} [{low:.1%}, {high:.1%}] on {report['n']} questions")
    print(f"served (sampled) {report['accuracy_served']:.1%}, right or offered {report['success']:.1%}")
    worst = sorted(report["per_intent"].items(), key=lambda item: item[1])[:10]
    print("weakest: " + ", ".join(f"{name} {value:.0%}" for name, value in worst))
