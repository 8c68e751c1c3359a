"""Prompts longer than the model reads: the oldest turns go, with a note, and never the question. By our own engine and by a
vLLM server alike, from the message to the stored reply."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot.policy.adapters import AdapterStore
from bot.policy.engine import Engine
from bot.policy.scripted import ScriptedPolicy
from bot.policy.types import ActRequest, Choice, Lease, Policy, TextDelta, TextRequest
from bot.policy.vllm import VllmPolicy
from bot.policy.vllm_adapters import RemoteAdapters
from bot.policy.vllm_server import VllmServer
from bot.policy.vocabulary import MAX_PROMPT_TOKENS, Vocabulary
from tests.fake_vllm import FakeVllm, running
from tests.session_rig import Rig, open_session
from tests.tiny_models import TEMPERATURE, load_tiny_causal, tiny_policy
from tests.version_folder import SECRET

MAX_NEW = 16
QUESTION = "When will MY card come?"


class Noting(Vocabulary):
    """Keeps what each reply's prompt was read as."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.read: list[tuple[int, ...]] = []

    def reply_ids(self, prompt: str) -> tuple[int, ...]:
        self.read.append(super().reply_ids(prompt))
        return self.read[-1]


@dataclass(frozen=True, slots=True)
class ScriptedChoice:
    """A lease whose act is the test's, and whose words are the engine's."""

    acts: Lease
    words: Lease

    @property
    def version(self) -> str:
        return self.words.version

    async def choose(self, request: ActRequest) -> Choice:
        return await self.acts.choose(request)

    def write(self, request: TextRequest) -> AsyncGenerator[TextDelta, None]:
        return self.words.write(request)


class ScriptedActs(ScriptedPolicy):
    """A policy of such leases."""

    def __init__(self, acts: list[str], engine: Engine) -> None:
        super().__init__(acts)
        self._engine = engine

    @asynccontextmanager
    async def lease(self, version: str | None = None) -> AsyncIterator[Lease]:
        async with super().lease(version) as acts, self._engine.lease(version) as words:
            yield ScriptedChoice(acts, words)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation with generated replies, and what its writer is told."""

    rig: Rig
    vocabulary: Noting
    fake: FakeVllm | None

    async def read(self, question: str) -> str:
        """Ask; the prompt of the reply as its writer read it."""
        count = len(self.vocabulary.read)
        message = await self.rig.say(question)
        (ids,) = self.vocabulary.read[count:]
        generated = self.rig.decision_of(message).generated  # None of one that said nothing.
        assert generated is None or generated.prompt_ids == ids
        assert self.fake is None or tuple(self.fake.bodies[-1]["prompt"]) == ids
        assert len(ids) <= MAX_PROMPT_TOKENS
        return str(self.vocabulary.tokenizer.decode(ids))


@pytest.fixture(params=["our own engine", "vLLM"])
async def chat(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Chat]:
    """By each backend; tiny models, and a fake server that ends each reply at its first word."""
    causal = load_tiny_causal(tmp_path)
    causal.vocabulary = vocabulary = Noting(tmp_path / "causal")
    adapters, answers = AdapterStore(tmp_path / "adapters", SECRET), ["answer:card_arrival"] * 20
    async with AsyncExitStack() as stack:
        policy: Policy
        fake: FakeVllm | None = None
        if request.param == "vLLM":
            said, digit = (vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" soon", "7"))
            fake = FakeVllm([*said, min(vocabulary.stop_ids)], forbidden=digit[-1:])
            port = await stack.enter_async_context(running(fake))
            acts = ScriptedPolicy(answers, can_write=False)
            server, remotes = VllmServer(port.url), RemoteAdapters(adapters, causal.name)
            policy = VllmPolicy(acts, server, remotes, vocabulary, max_new=MAX_NEW, tolerance=0.35)
            await policy.step()
            stack.push_async_callback(policy.close)
        else:
            model = tiny_policy(tmp_path)
            engine = Engine(model, adapters, temperature=TEMPERATURE, load_causal=lambda: causal)
            policy = ScriptedActs(answers, engine)
            stack.push_async_callback(engine.close)
        rig = stack.enter_context(open_session(tmp_path / "home", policy={"max_reply_tokens": MAX_NEW}))
        rig.session = rig.new_session(policy=policy)
        rig.change(reply_mode="generated")
        yield Chat(rig, vocabulary, fake)


async def test_the_oldest_turns_of_a_long_conversation_go_and_the_question_stays(
    chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    """Three long messages and their replies do not fit beside the question. The control: the first question, which does,
    is read whole and without a note."""
    caplog.set_level("INFO", "bot")
    assert "first one" in await chat.read("Where is the first one?")
    assert "left out" not in caplog.text

    for number in range(3):
        await chat.rig.say(f"number {number}, " + "where is my card, please? " * 20)
    text = await chat.read(QUESTION)
    assert QUESTION in text
    assert chat.rig.domain.articles["card_arrival"].answer[:40] in text
    assert "number 0" not in text
    assert "its oldest turn is left out" in caplog.text


async def test_a_long_question_that_fits_is_read_to_its_end(chat: Chat) -> None:
    """Longer than earlier turns are shown: what is asked stands at its end."""
    assert QUESTION in await chat.read("I have been waiting for a while now. " * 18 + QUESTION)


async def test_a_question_longer_than_the_context_gets_the_approved_answer_and_one_clear_line(
    chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is written on half a question; the next one, of ordinary length, is written for."""
    caplog.set_level("WARNING", "bot")
    message = await chat.rig.say("Where is my card? " * 200 + QUESTION)
    assert (message.stop_reason, chat.vocabulary.read) == ("", [])
    assert message.text == chat.rig.domain.articles["card_arrival"].answer
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("generated reply: question: expected at most ")
    assert "\n" not in line

    assert QUESTION in await chat.read(QUESTION)
