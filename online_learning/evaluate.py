"""`rejoinder eval`: how often a version picks the right article on labelled questions it never learned from.

`accuracy` is the mode's; `accuracy_served` is the mean probability of the right act, which is what sampling serves.
Labels come from the file that was given and go nowhere else.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bot.conversation import BASE_VERSION, Act, ActKind
from bot.domain import Article, Domain, load_domain
from bot.errors import ConfigError
from bot.identity import home_secret
from bot.policy.adapted import BASE
from bot.policy.adapters import AdapterStore
from bot.policy.download import find_or_fetch
from bot.policy.encoder import EncoderPart
from bot.policy.model import ActRow, PolicyModel
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


def load_questions(path: Path, known: Sequence[str] | None) -> list[Question]:
    """Read JSONL rows `{"text", "answer" | "intent"}`. `known`: article ids that an answer must be one of; None: any.

    Raises ConfigError naming file and line.
    """
    ids = None if known is None else set(known)
    found = [_question(line, where, ids) for where, line in _lines(path)]
    if not found:
        raise ConfigError(f"{path}: expected at least one row, got none")
    return found


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """("file:line", text) of every line that is not blank. Raises ConfigError when it is no text."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would also break at U+2028, inside a text
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#04x}") from error
    return ((f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip())


def _question(line: str, where: str, known: set[str] | None) -> Question:
    try:
        row = json.loads(line)
        text, answer = row["text"], row.get("answer") or row["intent"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f'{where}: expected {{"text": ..., "answer": ...}}, got {line[:60]!r}') from error
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{where}: expected a question, got {text!r}")
    if not isinstance(answer, str) or (known is not None and answer not in known):
        raise ConfigError(f"{where}: expected an article of the domain, got {answer!r}")
    return Question(text, answer)


def with_knowledge(domain: Domain, files: Sequence[Path]) -> Domain:
    """The domain with articles made of knowledge rows `{"intent" | "answer", "exemplar", "title"?}` instead of its own."""
    if not files:
        return domain
    exemplars: defaultdict[str, list[str]] = defaultdict(list)
    titles: dict[str, str] = {}
    for path in files:
        for where, line in _lines(path):
            name, exemplar, title = _knowledge(line, where)
            exemplars[name].append(exemplar)
            titles[name] = title or titles.get(name) or name.replace("_", " ")
    answers = {name: article.answer for name, article in domain.articles.items()}
    articles = {
        name: Article(name, titles[name], answers.get(name, titles[name]), tuple(texts))
        for name, texts in exemplars.items()
    }
    return replace(domain, articles=articles)


def _knowledge(line: str, where: str) -> tuple[str, str, str]:
    """(article, exemplar, title or empty) of one row."""
    try:
        row = json.loads(line)
        name, exemplar, title = row.get("answer") or row["intent"], row["exemplar"], row.get("title") or ""
        if not all(isinstance(value, str) for value in (name, exemplar, title)):
            raise TypeError(line)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{where}: expected intent and exemplar, got {line[:60]!r}") from error
    return name, exemplar, title


class Evaluator:
    """Questions prepared once (retrieval does not depend on the version), scored under any version."""

    def __init__(self, settings: Settings, domain: Domain, adapters: AdapterStore) -> None:
        self._model = PolicyModel(EncoderPart(find_or_fetch("encoder", settings)))
        self._policy = OfflinePolicy(self._model, domain, settings)
        self._adapters = adapters
        self._rows: dict[tuple[str, ...], list[ActRow]] = {}

    def scores(self, questions: Sequence[Question], versions: Sequence[str]) -> list[Scores]:
        """One record a version. Raises NotFound, AdapterError."""
        rows = self._prepared(questions)
        return [scores_of(questions, self._policy.outlooks(rows, self._adapter(v)), v) for v in versions]

    def outlooks(self, texts: Sequence[str], versions: Sequence[str]) -> list[list[Outlook]]:
        """What each version makes of the texts: one list a version, in order. Raises NotFound, AdapterError."""
        rows = self._policy.rows(texts)
        return [self._policy.outlooks(rows, self._adapter(version)) for version in versions]

    def _prepared(self, questions: Sequence[Question]) -> list[ActRow]:
        texts = tuple(question.text for question in questions)
        if texts not in self._rows:
            self._rows = {texts: self._policy.rows(texts)}
        return self._rows[texts]

    def recall(self, questions: Sequence[Question], ranks: Sequence[int] = (1, 3, 8)) -> dict[str, float]:
        """Share of questions whose article retrieval ranks among the first k; no version changes it."""
        ranked = [[act.act for act in row.legal if act.act.startswith("answer:")] for row in self._prepared(questions)]
        wanted = [f"answer:{question.answer}" for question in questions]
        hits = {k: [act in acts[:k] for acts, act in zip(ranked, wanted, strict=True)] for k in ranks}
        return {f"r{k}": round(float(np.mean(found)), 4) for k, found in hits.items()}

    def _adapter(self, version: str) -> str:
        if version == BASE_VERSION:
            return BASE
        if version not in self._model.encoder.model.names:
            files = read_version(self._adapters, version)
            self._model.encoder.model.load(version, files.encoder_config, files.encoder)
            self._model.cases |= {version: files.cases} if files.cases else {}
        return version


def scores_of(questions: Sequence[Question], outlooks: Sequence[Outlook], version: str) -> Scores:
    """What the outlooks, one a question, are worth."""
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
    domain = with_knowledge(load_domain(settings.domain, settings.own_articles), args.kb)
    adapters = AdapterStore(settings.adapters, home_secret(settings.home))
    questions = load_questions(args.dataset, list(domain.articles))
    version = args.version or adapters.champion().version
    evaluator = Evaluator(settings, domain, adapters)
    scores = evaluator.scores(questions, [version])[0]
    report = {
        "accuracy": round(float(scores.right.mean()), 4),
        "ci": mean_ci(scores.right),
        "accuracy_served": round(float(scores.served.mean()), 4),
        "accuracy_served_ci": mean_ci(scores.served),
        "success": round(float(scores.success.mean()), 4),
        "success_ci": mean_ci(scores.success),
        "n": len(questions),
        "version": version,
        "retrieval": evaluator.recall(questions),
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
