"""`engine.backend`: what the composition root builds of it, what is refused before, and vLLM as a peer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bot.compose import serving
from bot.conversation import Message
from bot.errors import ConfigError
from bot.policy.scripted import HashedWords, ScriptedPolicy
from bot.policy.vllm import VllmPolicy
from bot.policy.vocabulary import AllowedNext, Vocabulary
from bot.settings import Settings
from online_learning.bench.serve_vllm import measure_vllm, running_vllm
from tests.builders import make_conversation
from tests.fake_vllm import BASE_NAME, FakeVllm, running
from tests.session_rig import drained
from tests.tiny_models import tiny_causal, tiny_encoder


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"engine": {"backend": "gpu"}}, "engine.backend: expected one of transformers, vllm, scripted, got 'gpu'"),
        ({"engine": {"backend": "vllm"}}, "learn.text_adapts_prompt: expected true with engine.backend vllm"),
        (
            {"engine": {"backend": "vllm", "vllm_url": "localhost:8000"}, "learn": {"text_adapts_prompt": True}},
            "engine.vllm_url: expected http://HOST:PORT, got 'localhost:8000'",
        ),
    ],
)
def test_a_backend_that_cannot_work_is_refused_in_one_line(
    make_settings: Callable[..., Settings], overrides: dict[str, Any], line: str
) -> None:
    """Before anything is loaded."""
    with pytest.raises(ConfigError, match=line.partition(":")[0]) as refused:
        make_settings(**overrides)

    assert str(refused.value).startswith(line)


async def test_a_scripted_backend_answers_without_any_model(make_settings: Callable[..., Settings]) -> None:
    """From the message to the stored reply, over the shipped bank."""
    async with serving(make_settings(engine={"backend": "scripted"})) as built:
        assert isinstance(built.policy, ScriptedPolicy)
        store, conversation = built.parts.store, make_conversation()
        store.add_conversation(conversation)
        question = store.add_user_message(
            Message("m1", conversation.id, 0, "user", "When will my new card arrive?", 1.0, client_id="m1")
        )[0]
        *_, reply = await drained(built.session.reply(conversation, question))

    assert isinstance(reply, Message)
    assert reply.text


async def test_a_vllm_backend_writes_by_the_server_and_chooses_by_our_models(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Tiny models here, a fake server there."""
    folder = tiny_causal(tmp_path / "causal")
    vocabulary = Vocabulary(folder)
    digit = vocabulary.tokenizer("7", add_special_tokens=False)["input_ids"][-1]
    async with running(FakeVllm([min(vocabulary.stop_ids)], forbidden=[digit])) as port:
        settings = make_settings(
            model=str(tiny_encoder(tmp_path / "encoder")),
            causal_model=str(folder),
            engine={"backend": "vllm", "vllm_url": port.url},
            learn={"text_adapts_prompt": True},
        )
        async with serving(settings) as built:
            assert isinstance(built.policy, VllmPolicy)
            await built.policy.step()

            assert built.policy.can_write


async def test_hashed_words_are_near_where_texts_share_words() -> None:
    """Unit vectors; the same words in another order are the same, other words are far."""
    rows = await HashedWords().embed(["lost my card", "Card: my, lost!", "opening hours"])

    assert (rows @ rows.T)[0] == pytest.approx([1.0, 1.0, 0.0], abs=0.01)


def test_a_text_that_grows_is_read_once_and_allows_what_the_whole_text_allows(tmp_path: Path) -> None:
    """Token by token or all at once: the same mask, as our engine and a server's process must agree."""
    vocabulary = Vocabulary(tiny_causal(tmp_path / "causal"))
    ids = vocabulary.tokenizer("In 5 days, £1", add_special_tokens=False)["input_ids"]
    known = frozenset({"5", "£10", "10"})
    growing = AllowedNext(vocabulary, known)
    for end in range(len(ids) + 1):
        masks = (growing.after(ids[:end]), AllowedNext(vocabulary, known).after(ids[:end]))
        assert (masks[0] == masks[1]).all()

    assert growing.text == "In 5 days, £1"
    zero, nine = (vocabulary.tokenizer(digit, add_special_tokens=False)["input_ids"][-1] for digit in "09")
    allowed = growing.after(ids)
    assert (bool(allowed[zero]), bool(allowed[nine])) == (True, False)


async def test_the_peer_is_measured_in_whole_batches_with_and_without_an_adapter(tmp_path: Path) -> None:
    """One warm-up and two repeats of batches of 1 and 3, for each; the adapter is unloaded at the end."""
    fake = FakeVllm([])
    async with running(fake) as port:
        found = await measure_vllm(
            port.url, [[1, 2], [3]], adapter=tmp_path, batch_sizes=(1, 3), num_tokens=4, repeats=2
        )

    (name,) = fake.names("load")
    assert [body["model"] for body in fake.bodies] == [BASE_NAME] * 12 + [name] * 12
    assert sorted(body["prompt"] for body in fake.bodies[3:6]) == [[1, 2], [1, 2], [3]]
    assert fake.names("unload") == [name]
    assert set(found) == {"base", "adapter", "num_tokens", "repeats", "version"}
    assert set(found["adapter"]) == {"1", "3"}


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """The last line of its log, in ours."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'no such model' >&2\nexit 3\n")
    script.chmod(0o755)

    with pytest.raises(Exception, match="no such model"), running_vllm(script, tmp_path, tmp_path / "log"):
        pass
