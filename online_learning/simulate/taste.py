"""How often generated replies have a style, under two versions: the same questions, the same random streams."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from tqdm import tqdm

from bot import render
from bot.conversation import BASE_VERSION, State, Turn
from bot.domain import Domain
from bot.policy.adapted import BASE
from bot.policy.adapters import AdapterStore
from bot.policy.causal import CausalPart
from bot.policy.download import find_or_fetch
from bot.policy.requests import reply_request
from bot.policy.types import TextDelta, TextRequest
from bot.policy.weights import read_version
from bot.settings import Settings
from online_learning.evaluate import Question
from online_learning.statistics import paired_difference, seeded

NUM_PROMPTS = 100


def compare_style(
    settings: Settings,
    domain: Domain,
    adapters: AdapterStore,
    questions: Sequence[Question],
    version: str,
    likes: Callable[[str], bool],
) -> dict[str, Any]:
    """Rates of the style on questions that nobody asked, before (base) and after (`version`), and their paired difference."""
    causal = CausalPart(find_or_fetch("causal", settings))
    questions = list(questions)[:NUM_PROMPTS]
    before = _rates(settings, domain, causal, questions, BASE, likes)
    after = _rates(settings, domain, causal, questions, _load(causal, adapters, version), likes)
    difference = paired_difference(after, before, seeded(0, "taste"))
    return {
        "style_before": round(sum(before) / len(before), 4),
        "style_after": round(sum(after) / len(after), 4),
        "style_diff_ci": [round(difference.lo, 4), round(difference.hi, 4)],
        "style_n": len(questions),
    }


def _load(causal: CausalPart, adapters: AdapterStore, version: str) -> str:
    """The adapter name to write with; BASE for a version without causal weights."""
    if version == BASE_VERSION:
        return BASE
    files = read_version(adapters, version)
    if files.causal is None or files.causal_config is None:
        return BASE
    causal.model.load(version, files.causal_config, files.causal)
    return version


def _rates(
    settings: Settings,
    domain: Domain,
    causal: CausalPart,
    questions: Sequence[Question],
    adapter: str,
    likes: Callable[[str], bool],
) -> list[float]:
    bar = tqdm(questions, desc=f"writing with {adapter}", unit="reply", file=sys.stderr, disable=None)
    return [
        float(likes(reply_of(settings, domain, causal, question, adapter, seed))) for seed, question in enumerate(bar)
    ]


class CanWrite(Protocol):
    """A causal part, as far as writing goes."""

    def write(self, request: TextRequest, adapter: str) -> Iterator[TextDelta]:
        """`bot.policy.causal.CausalPart.write`."""


def reply_of(settings: Settings, domain: Domain, causal: CanWrite, question: Question, adapter: str, seed: int) -> str:
    """What is shown for a question, given the right article."""
    sources = (domain.articles[question.answer].answer,)
    state = State("taste", (Turn("user", question.text),))
    prompt = render.reply_prompt(state, domain.persona, sources)
    pieces = list(causal.write(reply_request(settings.policy, prompt, sources, seed), adapter))
    assert pieces[-1].generated is not None
    return pieces[-1].generated.text
