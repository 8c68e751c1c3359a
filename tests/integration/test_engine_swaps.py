"""Twenty swaps under eight running streams: none dropped, mixed or out of order (DESIGN section 6, invariants 2 and 5)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bot.conversation import BASE_VERSION
from bot.policy.adapted import BASE
from bot.policy.adapters import AdapterStore
from bot.policy.engine import Engine
from bot.policy.types import TextRequest
from tests.tiny_models import TEMPERATURE, load_tiny_causal, publish_version, tiny_policy
from tests.version_folder import SECRET

NUM_SWAPS = 20
NUM_STREAMS = 8
NUM_VERSIONS = 4


def request_of(stream: int, reply: int) -> TextRequest:
    """Each stream's replies are its own."""
    prompt = f'[["system", "Help."], ["user", "hello {stream}"]]'
    return TextRequest(prompt, ("In 5 days.",), seed=stream * 1000 + reply % 3, max_tokens=12)


@pytest.mark.slow
async def test_twenty_swaps_under_eight_streams_garble_none(tmp_path: Path) -> None:
    """Every reply is word for word what its version writes when it is alone, and its pieces come in order."""
    model, adapters = tiny_policy(tmp_path), AdapterStore(tmp_path / "adapters", SECRET)
    writer, swapped = load_tiny_causal(tmp_path), asyncio.Event()
    versions = [publish_version(adapters, model, seed, writer=writer) for seed in range(NUM_VERSIONS)]
    engine = Engine(model, adapters, temperature=TEMPERATURE, load_causal=lambda: writer)
    reference = await references(engine, [BASE_VERSION, *versions])
    seen: list[str] = []

    async def stream(number: int) -> int:
        reply = 0
        while not swapped.is_set():
            async with engine.lease() as lease:
                pieces = [piece async for piece in lease.write(request_of(number, reply))]
                generated = pieces[-1].generated
                assert generated is not None
                token_ids, logprobs = reference[lease.version, number, reply % 3]
                assert generated.token_ids == token_ids
                assert generated.logprobs == pytest.approx(logprobs, abs=1e-4)
                assert "".join(piece.text for piece in pieces).strip() == generated.text
                seen.append(lease.version)
            reply += 1
        return reply

    streams = [asyncio.create_task(stream(number)) for number in range(NUM_STREAMS)]
    for swap in range(NUM_SWAPS):
        adapters.set_champion(versions[swap % NUM_VERSIONS], "gate passed", "learner")
        while (
            engine.champion != versions[swap % NUM_VERSIONS]
        ):  # It waits while older ones hold all copies of the layers.
            await engine._follow_once()
            await asyncio.to_thread(int)
        before = len(seen)
        while len(seen) < before + 3 and not any(task.done() for task in streams):
            await asyncio.to_thread(int)
    swapped.set()
    assert min(await asyncio.gather(*streams)) >= 3
    assert set(seen) >= set(versions)
    assert model.encoder.model.names == {engine.champion}
    assert engine._voice is not None
    assert engine._voice._held is not None
    assert engine._voice._held.decoder.versions == {BASE, engine.champion}
    await engine.close()


async def references(engine: Engine, versions: list[str]) -> dict[tuple[str, int, int], tuple[object, Any]]:
    """(version, stream, reply) -> tokens and log-probabilities, written alone."""
    found: dict[tuple[str, int, int], tuple[object, Any]] = {}
    for version in versions:
        async with engine.lease(version) as lease:
            for number in range(NUM_STREAMS):
                for reply in range(3):
                    last = [piece async for piece in lease.write(request_of(number, reply))][-1].generated
                    assert last is not None
                    found[version, number, reply] = (last.token_ids, last.logprobs)
    return found
