"""The scripted policy does exactly what a script says."""

from __future__ import annotations

import asyncio
import math

import pytest

from bot.conversation import LegalAct
from bot.errors import ModelError
from bot.policy.scripted import ScriptedPolicy
from bot.policy.types import ActRequest, Policy, TextRequest

LEGAL = (LegalAct("answer:a", (), 0.0), LegalAct("answer:b", (), math.log(3)), LegalAct("handoff", (), 0.0))
ASK = ActRequest("Where?", "", LEGAL, seed=0)
WRITE = TextRequest("Say it", ("source",), seed=0)


async def test_it_takes_the_mode_with_exact_probabilities() -> None:
    """Logits 0, ln 3, 0: probabilities 1/5, 3/5, 1/5."""
    policy: Policy = ScriptedPolicy()
    async with policy.lease() as lease:
        choice = await lease.choose(ASK)
    assert (choice.chosen, choice.mode) == (1, 1)
    assert choice.logprobs == pytest.approx([math.log(0.2), math.log(0.6), math.log(0.2)])


async def test_scripted_acts_come_in_order_then_the_mode() -> None:
    """And an act that is not legal is a mistake in the script."""
    policy = ScriptedPolicy(acts=["handoff", "answer:a"])
    async with policy.lease() as lease:
        assert [(await lease.choose(ASK)).chosen for _ in range(3)] == [2, 0, 1]
        policy.acts = ["answer:zebra"]
        with pytest.raises(AssertionError, match="answer:zebra"):
            await lease.choose(ASK)


async def test_a_lease_keeps_its_version() -> None:
    """Publishing changes new leases only; leases are counted."""
    policy = ScriptedPolicy()
    async with policy.lease() as old:
        policy.champion = "v000001"
        async with policy.lease() as new, policy.lease("v000009") as pinned:
            assert (old.version, new.version, pinned.version) == ("v000000", "v000001", "v000009")
            assert policy.leases["v000001"] == 1
    assert not any(policy.leases.values())


async def test_text_waits_for_steps_and_ends_with_its_record() -> None:
    """One piece a step; the last one carries everything."""
    policy = ScriptedPolicy(tokens=("a", "b"))
    policy.hold()
    async with policy.lease() as lease:
        pieces = lease.write(WRITE)
        first = asyncio.ensure_future(anext(pieces))
        await policy.started.wait()
        assert not first.done()
        policy.step(2)
        assert (await first).generated is None
        last = await anext(pieces)
    assert last.generated is not None
    assert (last.generated.text, last.generated.logprobs) == ("ab", (math.log(0.5),) * 2)
    assert not policy.cancelled.is_set()


async def test_closing_a_text_early_is_noticed() -> None:
    """Tests of cancellation rest on it."""
    policy = ScriptedPolicy(tokens=("a", "b"))
    async with policy.lease() as lease:
        pieces = lease.write(WRITE)
        await anext(pieces)
        await pieces.aclose()
    assert policy.cancelled.is_set()


async def test_a_failure_is_raised_until_it_is_cleared() -> None:
    """An engine that is gone."""
    policy = ScriptedPolicy()
    policy.failure = ModelError("gone")
    async with policy.lease() as lease:
        with pytest.raises(ModelError, match="gone"):
            await lease.choose(ASK)
        policy.failure = None
        assert (await lease.choose(ASK)).mode == 1
