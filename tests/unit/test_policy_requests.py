"""Generated replies are asked for in one way, by the product and by what measures it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from bot.conversation import BASE_VERSION, Generated
from bot.domain import load_domain
from bot.feedback.rules import load_rules
from bot.policy.requests import reply_request
from bot.policy.scripted import ScriptedPolicy
from bot.policy.types import TextDelta, TextRequest
from bot.settings import Settings
from bot.settings_sections import PolicySettings
from online_learning.bench.style import Material, written
from online_learning.evaluate import Question
from online_learning.simulate.taste import reply_of

QUESTION = Question("Where is my card?", "card_arrival")


class RecordingWriter:
    """A causal part that writes "Yes." and keeps what it was asked for."""

    def __init__(self) -> None:
        self.requests: list[TextRequest] = []

    def write(self, request: TextRequest, adapter: str) -> Iterator[TextDelta]:
        self.requests.append(request)
        yield TextDelta("Yes.", Generated((1,), (2,), (-0.5,), 0.7, request.sources, "Yes.", "stop", "float32"))


@pytest.fixture
def asked(make_settings: Callable[..., Settings]) -> Settings:
    """Settings that differ from every default of a request."""
    return make_settings(policy={"max_reply_tokens": 30, "text_temperature": 0.4, "stop": ["END"]})


@pytest.mark.parametrize(("longest", "sentence_from"), [(80, 60), (81, 61), (1, 1)])
def test_a_reply_ends_with_its_sentence_from_three_quarters_of_its_longest_on(longest: int, sentence_from: int) -> None:
    """60.75 is 61: whole tokens."""
    request = reply_request(PolicySettings(max_reply_tokens=longest), "prompt", ("source",), 7, "c1", 2.0)
    assert (request.max_tokens, request.sentence_from) == (longest, sentence_from)
    assert (request.prompt, request.sources, request.seed, request.chat) == ("prompt", ("source",), 7, "c1")
    assert request.deadline_s == 2.0


def test_bench_style_decodes_as_the_product_does(asked: Settings) -> None:
    """23 is 22.5 tokens of 30: what a session would ask for but for whose chat it is."""
    domain, policy = load_domain(asked.domain), ScriptedPolicy()
    material = Material(asked, domain, load_rules(domain.folder / "rewards.yml"), [], [QUESTION], "mild")
    asyncio.run(written(material, policy, BASE_VERSION))
    (request,) = policy.requests
    assert isinstance(request, TextRequest)
    assert (request.max_tokens, request.sentence_from, request.temperature, request.stop) == (30, 23, 0.4, ("END",))


def test_simulated_tastes_are_judged_on_replies_as_the_product_writes_them(asked: Settings) -> None:
    """The same four."""
    writer = RecordingWriter()
    assert reply_of(asked, load_domain(asked.domain), writer, QUESTION, BASE_VERSION, seed=0) == "Yes."
    (request,) = writer.requests
    assert (request.max_tokens, request.sentence_from, request.temperature, request.stop) == (30, 23, 0.4, ("END",))
