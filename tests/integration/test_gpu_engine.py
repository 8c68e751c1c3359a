"""A version goes from a CPU to a CUDA device and back: loaded, probed and served alike, and refused alike when damaged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.conversation import BASE_VERSION, Generated, LegalAct
from bot.policy.adapters import AdapterStore
from bot.policy.causal import CausalPart
from bot.policy.engine import Engine
from bot.policy.model import PolicyModel
from bot.policy.types import ActRequest, Choice, TextRequest
from bot.policy.voice import WriterOptions
from tests.gpu_rig import CLOSE, CPU, CUDA, policy_on
from tests.tiny_models import TEMPERATURE, publish_version, random_adapter, tiny_causal, tiny_encoder
from tests.version_folder import SECRET

pytestmark = pytest.mark.gpu

LEGAL = (
    LegalAct("answer:arrival", ("When will my card arrive?", "Card arrival")),
    LegalAct("answer:lost", ("I lost my card",)),
    LegalAct("handoff", ("A person can help",)),
)
QUESTIONS = ("where is my card?", "I lost it", "top up by bank transfer", "a person please")
NUM_SWAPS, NUM_STREAMS = 8, 6


@dataclass(frozen=True)
class Machine:
    """The models of one device, over adapters that all share."""

    policy: PolicyModel
    writer: CausalPart
    adapters: AdapterStore

    def publish(self, seed: int, **overrides: Any) -> str:
        return publish_version(self.adapters, self.policy, seed, writer=self.writer, **overrides)

    @asynccontextmanager
    async def serving(self, dtype: str = "float32") -> AsyncIterator[Engine]:
        """An engine that has written before: a version's words are probed when it is loaded."""
        options = WriterOptions(dtype=dtype)
        engine = Engine(
            self.policy, self.adapters, temperature=TEMPERATURE, load_causal=lambda: self.writer, writing=options
        )
        await write(engine, 0, BASE_VERSION)
        yield engine
        await engine.close()


@pytest.fixture
def machines(tmp_path: Path) -> dict[torch.device, Machine]:
    encoder, causal = tiny_encoder(tmp_path / "encoder"), tiny_causal(tmp_path / "causal")
    adapters = AdapterStore(tmp_path / "adapters", SECRET)
    return {
        device: Machine(policy_on(device, encoder), CausalPart(causal, device=device), adapters)
        for device in (CPU, CUDA)
    }


async def promote(engine: Engine, version: str) -> None:
    engine._adapters.set_champion(version, "gate passed", "learner")
    await engine._follow_once()


async def choose(engine: Engine, version: str | None = None) -> list[Choice]:
    async with engine.lease(version) as lease:
        return list(await asyncio.gather(*(lease.choose(ActRequest(q, "", LEGAL, 0)) for q in QUESTIONS)))


async def write(engine: Engine, number: int, version: str | None = None) -> Generated:
    request = TextRequest(f'[["system", "Help."], ["user", "hello {number}"]]', ("In 5 days.",), number, max_tokens=12)
    async with engine.lease(version) as lease:
        last = [piece async for piece in lease.write(request)][-1].generated
    assert last is not None
    return last


@pytest.mark.parametrize(("learner", "server"), [(CPU, CUDA), (CUDA, CPU)], ids=["to-cuda", "from-cuda"])
async def test_a_version_is_served_where_it_was_not_made(
    machines: dict[torch.device, Machine], learner: torch.device, server: torch.device
) -> None:
    """Its probes hold; choices, values and words are those of the machine that made it. The control: it changed them."""
    version = machines[learner].publish(1, scale=0.3)
    async with machines[learner].serving() as there, machines[server].serving() as here:
        await promote(here, version)
        assert here.champion == version
        expected, got = await choose(there, version), await choose(here)
        for one, other in zip(expected, got, strict=True):
            assert other.logprobs == pytest.approx(one.logprobs, abs=CLOSE)
            assert other.value == pytest.approx(one.value, abs=CLOSE)
        assert (await write(here, 1)).token_ids == (await write(there, 1, version)).token_ids
        fresh = (await choose(there, BASE_VERSION))[0]
        assert got[0].logprobs != pytest.approx(fresh.logprobs, abs=10 * CLOSE)


@pytest.mark.parametrize("part", ["encoder", "causal"])
async def test_a_version_that_is_not_what_was_trained_is_refused(
    machines: dict[torch.device, Machine], part: str
) -> None:
    """Other weights than those that were probed, of either part; an honest one after it serves (the control)."""
    there, here = machines[CPU], machines[CUDA]
    model = {"encoder": there.policy.encoder.model, "causal": there.writer.model}[part]
    damaged = there.publish(1, files={part: random_adapter(model, 99)})
    async with here.serving() as engine:
        await promote(engine, damaged)
        assert engine.champion == BASE_VERSION
        await promote(engine, there.publish(2))
        assert engine.champion == "v000002"


async def test_a_version_in_bfloat16_passes_its_probes(machines: dict[torch.device, Machine]) -> None:
    """Which a learner computed in float32 on a CPU."""
    version = machines[CPU].publish(1)
    async with machines[CUDA].serving("auto") as engine:
        await promote(engine, version)
        assert engine.champion == version
        assert (await write(engine, 1)).dtype == "bfloat16"


async def test_swaps_under_streams_garble_none(machines: dict[torch.device, Machine]) -> None:
    """Every reply is what its version writes when it is alone: token by token, and its log-probabilities."""
    versions = [machines[CPU].publish(seed) for seed in range(3)]
    async with machines[CUDA].serving() as engine:
        alone = {
            (version, number): await write(engine, number, version)
            for version in (BASE_VERSION, *versions)
            for number in range(NUM_STREAMS)
        }
        over, seen = asyncio.Event(), list[str]()

        async def stream(number: int) -> None:
            while not over.is_set():
                async with engine.lease() as lease:
                    got, expected = await write(engine, number, lease.version), alone[lease.version, number]
                    seen.append(lease.version)
                assert got.token_ids == expected.token_ids
                assert got.logprobs == pytest.approx(expected.logprobs, abs=CLOSE)

        streams = [asyncio.create_task(stream(number)) for number in range(NUM_STREAMS)]
        for swap in range(NUM_SWAPS):
            await promote(engine, versions[swap % len(versions)])
            assert engine.champion == versions[swap % len(versions)]
            before = len(seen)
            while len(seen) < before + NUM_STREAMS and not any(task.done() for task in streams):
                await asyncio.to_thread(int)
        over.set()
        await asyncio.gather(*streams)
    assert set(seen) >= set(versions)
