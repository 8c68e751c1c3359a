"""SIGKILL to the process that writes replies, in the middle of one: the person gets one whole answer, and it comes back by
itself. The process is `tests/vllm_child.py`, which speaks vLLM's protocol; a real vLLM is killed in tests/vllm."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from bot.conversation import Delta, Message
from bot.policy.adapters import AdapterStore
from bot.policy.scripted import ScriptedPolicy
from bot.policy.vllm import VllmPolicy
from bot.policy.vllm_adapters import RemoteAdapters
from bot.policy.vllm_server import VllmServer
from bot.policy.vocabulary import Vocabulary
from tests.session_rig import open_session
from tests.tiny_models import tiny_causal
from tests.version_folder import SECRET

QUESTION = "When will my card come?"


class Backend:
    """A port, and the process that listens there, or none."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        said = vocabulary.tokenizer(" soon by post", add_special_tokens=False)["input_ids"]
        self._tokens = [*said, min(vocabulary.stop_ids)]
        self._masked = vocabulary.tokenizer("7", add_special_tokens=False)["input_ids"][-1:]
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        self._child: asyncio.subprocess.Process | None = None

    async def start(self, hold_after: int = -1) -> None:
        """Listens when this returns."""
        given = (str(self.port), json.dumps(self._tokens), json.dumps(self._masked), str(hold_after))
        self._child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.vllm_child", *given),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert self._child.stdout is not None
        assert await self._child.stdout.readline() == b"up\n"

    async def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            await self._child.wait()
            self._child = None


@asynccontextmanager
async def following(policy: VllmPolicy) -> AsyncIterator[asyncio.Event]:
    """The policy looks for its server as it does in the product, but without the pauses; set once it can write."""
    there = asyncio.Event()

    async def look(_: float) -> None:
        there.set() if policy.can_write else there.clear()
        await asyncio.sleep(0.01)

    task = asyncio.create_task(policy.follow(sleep=look))
    try:
        yield there
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await policy.close()


@pytest.mark.timeout(300)
async def test_killed_while_it_writes_it_costs_one_generated_reply_and_comes_back_by_itself(tmp_path: Path) -> None:
    """Words were shown; then SIGKILL. The reply ends as the approved answer, once, and a retry meanwhile gets it too. A new
    process on the same port is found without anybody's help. The controls: before and after, the words are its own."""
    vocabulary = Vocabulary(tiny_causal(tmp_path / "causal"))
    backend, acts = Backend(vocabulary), ScriptedPolicy(["answer:card_arrival"] * 4, can_write=False)
    remotes = RemoteAdapters(AdapterStore(tmp_path / "adapters", SECRET), "tiny:abc")
    server = VllmServer(f"http://127.0.0.1:{backend.port}")
    policy = VllmPolicy(acts, server, remotes, vocabulary, max_new=80, tolerance=0.35)
    try:
        async with following(policy) as there:
            with open_session(tmp_path / "home") as chat:
                chat.session = chat.new_session(policy=policy)
                chat.change(reply_mode="generated")
                approved = chat.domain.articles["card_arrival"].answer
                await backend.start(hold_after=1)
                await asyncio.wait_for(there.wait(), 120)

                reply = chat.stream(QUESTION)
                first = await anext(reply)
                await backend.kill()
                rest = [item async for item in reply]
                assert isinstance(first, Delta)
                assert [(type(item), item.text) for item in rest] == [(Message, approved)]
                assert not policy.can_write
                assert (await chat.say(QUESTION)).text == approved

                await backend.start()
                there.clear()
                await asyncio.wait_for(there.wait(), 120)
                again = await chat.say(QUESTION)
                assert again.text == "soon by post"
                assert chat.decision_of(again).generated is not None
    finally:
        await backend.kill()
