"""Learner and engine meet at the adapter folder alone: what was trained is what is served."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bot.conversation import BASE_VERSION
from bot.policy.types import ActRequest, Choice
from online_learning.evidence import rescore
from tests.learner_rig import STRICT, Home

PLEASE = "my card please"
TAUGHT = [(PLEASE, "card_arrival", 1), (PLEASE, "lost_card", -1)] * 2


def served(home: Home) -> tuple[str, Choice, ActRequest]:
    """A choice by a server that has just started."""
    request = ActRequest(PLEASE, "", home.outlook(PLEASE)[0].legal, seed=1)

    async def choose() -> tuple[str, Choice]:
        engine = home.engine()
        await engine.start()
        async with engine.lease() as lease:
            choice = await lease.choose(request)
        await engine.close()
        return lease.version, choice

    return *asyncio.run(choose()), request


def test_the_engine_adopts_a_new_version_while_it_serves(home: Home) -> None:
    """Base first, then v1 without a restart; a reply that began under the base version ends under it."""
    home.teach(TAUGHT)
    request = ActRequest(PLEASE, "", home.outlook(PLEASE)[0].legal, seed=1)
    engine = home.engine()

    async def learn_meanwhile() -> list[Choice]:
        await engine.start()
        async with engine.lease() as old:
            choices = [await old.choose(request)]
            await asyncio.to_thread(lambda: home.resumed().step())
            await engine._follow_once()
            choices.append(await old.choose(request))
        async with engine.lease() as new:
            assert (old.version, new.version) == (BASE_VERSION, "v000001")
            choices.append(await new.choose(request))
        await engine.close()
        return choices

    before, still, after = asyncio.run(learn_meanwhile())
    assert before.logprobs == still.logprobs != after.logprobs


def test_what_the_server_stored_rescores_in_the_learner(home: Home) -> None:
    """Invariant 1 across two models in memory: the server's log-probabilities are the learner's to 1e-4."""
    home.teach(TAUGHT)
    loop = home.resumed()
    loop.step()
    version, choice, request = served(home)
    decision = replace(
        home.say(PLEASE), query_ids=choice.query_ids, legal=request.legal, logprobs=choice.logprobs, version=version
    )
    assert version == "v000001"
    assert rescore(loop.learner, home.adapters, [decision], version)[decision.id] < 1e-4
    wrong = replace(decision, version=BASE_VERSION)
    assert rescore(loop.learner, home.adapters, [wrong], version)[decision.id] > 1e-2


def test_a_refused_candidate_is_never_served(home: Home) -> None:
    """Invariant 8: the gate says no, and there is nothing for the server to find."""
    home.teach(TAUGHT)
    home.resumed(thresholds=STRICT).step()
    version, choice, _ = served(home)
    assert version == BASE_VERSION
    assert choice.logprobs == pytest.approx(home.outlook(PLEASE)[1], abs=1e-5)


def test_a_version_whose_canary_does_not_sing_is_not_adopted(home: Home) -> None:
    """Invariant 3: weights that are whole and signed, but not those that were probed, leave the champion serving."""
    home.teach(TAUGHT)
    loop = home.resumed()
    loop.step()
    honest = home.adapters.verify("v000001")
    staged = home.adapters.stage()
    for file in honest.files:
        (staged / file).parent.mkdir(exist_ok=True)
        (staged / file).write_bytes((home.adapters.folder("v000001") / file).read_bytes())
    off = tuple(replace(p, logprobs=tuple(x - 0.1 for x in p.logprobs)) for p in honest.probes)
    home.adapters.publish(staged, replace(honest, version="v000002", probes=off, files={}))
    home.adapters.set_champion("v000002", "by hand", "operator")
    version, _, _ = served(home)
    assert version == "v000001"


def test_a_rolled_back_server_says_what_it_said_before(home: Home) -> None:
    """Back to the base version: the very distribution of the fresh install."""
    fresh = served(home)[1]
    home.teach(TAUGHT)
    home.resumed().step()
    home.adapters.rollback()
    version, choice, _ = served(home)
    assert version == BASE_VERSION
    assert choice.logprobs == fresh.logprobs
