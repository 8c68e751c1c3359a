"""`python -m online_learning.compare`: what two versions would do on the same questions, beside the server (`bot.jobs`).

Task: `settings` (as `bot.settings.load_settings` takes flags), `versions` (two names) and `questions`. Every question is
the first of its conversation; nothing is answered and nothing is stored.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bot.conversation import Act, ActKind
from bot.domain import Domain, load_domain
from bot.identity import home_secret
from bot.policy.adapters import AdapterStore
from bot.settings import load_settings
from bot.worker import Progress, work
from online_learning.evaluate import Evaluator
from online_learning.offline import Outlook

BATCH = 16
"""Questions between two lines of progress."""


def compare(task: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """{versions, num_changed, questions: [{text, first, second, changed, distance}]}; `distance` is the total variation
    between the two act distributions, 0 to 1. Raises NotFound, AdapterError, ModelError."""
    torch.set_num_threads(1)
    settings = load_settings(task["settings"], {})
    domain = load_domain(settings.domain, settings.own_articles)
    evaluator = Evaluator(settings, domain, AdapterStore(settings.adapters, home_secret(settings.home)))
    first, second = task["versions"]
    texts = list(task["questions"])
    progress.tell(0, len(texts))
    lines = [
        _line(text, one, other, domain)
        for group in progress.through(_groups(texts), len(texts), len)
        for text, one, other in zip(group, *evaluator.outlooks(group, (first, second)), strict=True)
    ]
    return {
        "versions": [first, second],
        "num_changed": sum(line["changed"] for line in lines),
        "questions": lines,
    }


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    return (texts[start : start + BATCH] for start in range(0, len(texts), BATCH))


def _line(text: str, one: Outlook, other: Outlook, domain: Domain) -> dict[str, Any]:
    # Retrieval knows no version, so both stand before the same legal acts.
    distance = 0.5 * float(np.abs(np.exp(one.logprobs) - np.exp(other.logprobs)).sum())
    return {
        "text": text,
        "first": _choice(one, domain),
        "second": _choice(other, domain),
        "changed": one.mode != other.mode,
        "distance": round(distance, 9),
    }


def _choice(outlook: Outlook, domain: Domain) -> dict[str, Any]:
    act = Act.parse(outlook.mode)
    title = domain.articles[act.target].title if act.kind is ActKind.ANSWER else ""
    return {"act": outlook.mode, "title": title, "probability": round(outlook.probability(outlook.mode), 4)}


if __name__ == "__main__":
    sys.exit(work(compare))
