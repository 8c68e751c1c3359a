"""The engine: a reply stays with its version, only what was trained is served, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bot.conversation import BASE_VERSION, Generated, LegalAct
from bot.errors import AdapterError, ModelError, NotFound
from bot.feedback.store import Store
from bot.policy.adapted import BASE, lora_config
from bot.policy.adapters import AdapterStore
from bot.policy.causal import CausalPart
from bot.policy.encoder import EncoderPart
from bot.policy.engine import Engine
from bot.policy.manifest import CanaryProbe, TextProbe
from bot.policy.model import PolicyModel
from bot.policy.types import ActRequest, Lease, TextRequest
from bot.policy.weights import VersionFiles, read_version
from bot.rollout import Rollout
from bot.settings import RolloutSettings
from tests.service_rig import Clock
from tests.tiny_models import (
    TEMPERATURE,
    load_tiny_causal,
    make_probes,
    make_text_probes,
    publish_version,
    random_adapter,
    tiny_encoder,
    tiny_policy,
)
from tests.version_folder import SECRET

LEGAL = (
    LegalAct("answer:arrival", ("When will my card arrive?", "Card arrival")),
    LegalAct("answer:lost", ("I lost my card",)),
    LegalAct("handoff", ("A person can help",)),
)
WRITE = TextRequest('[["system", "Help."], ["user", "hello"]]', ("In 5 days.",), seed=7, max_tokens=16)


Weights = dict[str, torch.Tensor]


class Misloaded(dict[str, torch.Tensor]):
    """Weights to which something happens on their way from the file into the model, at the moment when they are used."""

    def __init__(self, weights: Weights, version: str, spoil: dict[str, Callable[[Weights], Weights]]) -> None:
        super().__init__(weights)
        self._version, self._spoil = version, spoil

    def items(self) -> Any:
        return self._spoil.get(self._version, dict)(dict(self)).items()


class Rig:
    """An engine over tiny models, and the folder its versions lie in."""

    def __init__(self, tmp_path: Path, *, scores_text: bool = False) -> None:
        self.model = tiny_policy(tmp_path, scores_text=scores_text)
        self.writer = self.model.causal or load_tiny_causal(tmp_path)
        self.adapters = AdapterStore(tmp_path / "adapters", SECRET)
        self.spoil: dict[str, Callable[[Weights], Weights]] = {}
        """Version -> what happens to the causal weights that are read for it."""
        self.engine = self.another_engine()

    def another_engine(self, **overrides: Any) -> Engine:
        fields: dict[str, Any] = {
            "temperature": TEMPERATURE,
            "load_causal": lambda: self.writer,
            "read": self.read,
        }
        return Engine(self.model, self.adapters, **fields | overrides)

    def read(self, adapters: AdapterStore, version: str) -> VersionFiles:
        files = read_version(adapters, version)
        return replace(files, causal=files.causal and Misloaded(files.causal, version, self.spoil))

    def publish(self, seed: int, **overrides: Any) -> str:
        return publish_version(self.adapters, self.model, seed, writer=self.writer, **overrides)

    async def promote(self, version: str) -> None:
        """Move the pointer, and let the engine see it."""
        self.adapters.set_champion(version, "gate passed", "learner")
        await self.engine._follow_once()

    @property
    def in_memory(self) -> set[str]:
        """Versions that are hung into any part, or that could write."""
        voice = self.engine._voice
        writing = voice._held.decoder.versions - {BASE} if voice is not None and voice._held is not None else set()
        return self.model.encoder.model.names | self.writer.model.names | writing


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A fresh home."""
    built = Rig(tmp_path)
    yield built
    await built.engine.close()


def ask(seed: int = 0, query: str = "where is my card?") -> ActRequest:
    return ActRequest(query, "", LEGAL, seed)


async def write(lease: Lease, request: TextRequest = WRITE) -> Generated:
    """A whole reply."""
    last = [piece async for piece in lease.write(request)][-1].generated
    assert last is not None
    return last


def assert_same(ours: Generated, theirs: Generated) -> None:
    """Word for word; in fp32 the company in a batch changes the last bits of a log-probability."""
    assert replace(ours, logprobs=()) == replace(theirs, logprobs=())
    assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


async def write_under(engine: Engine, version: str | None = None) -> Generated:
    async with engine.lease(version) as lease:
        return await write(lease)


@asynccontextmanager
async def half_written(engine: Engine) -> AsyncIterator[tuple[Lease, Callable[[], Any]]]:
    """A reply with three pieces out; the second value finishes it."""
    async with engine.lease() as lease:
        pieces = lease.write(WRITE)
        for _ in range(3):
            await anext(pieces)

        async def finish() -> Generated:
            last = [piece async for piece in pieces][-1].generated
            assert last is not None
            return last

        yield lease, finish


# --- invariant 2 ------------------------------------------------------------------------------------------------------


async def test_a_reply_keeps_its_version_while_the_champion_changes_under_it(rig: Rig) -> None:
    """Its tokens are those of its version alone; the next reply has the new one; the old one is then freed."""
    await rig.promote(rig.publish(1))
    reference = await write_under(rig.engine)
    async with half_written(rig.engine) as (lease, finish):
        await rig.promote(rig.publish(2))
        assert rig.engine.champion == "v000002"
        assert rig.in_memory >= {"v000001", "v000002"}
        assert (await lease.choose(ask())).logprobs == pytest.approx((await choose_under(rig, "v000001")).logprobs)
        assert_same(await finish(), reference)
        assert lease.version == "v000001"
    assert "v000001" not in rig.in_memory
    assert (await write_under(rig.engine)).token_ids != reference.token_ids


async def test_a_reply_begins_while_another_version_is_being_loaded(rig: Rig) -> None:
    """The load of the second version stands still; a reply by the first is written from its beginning to its end."""
    await rig.promote(rig.publish(1))
    reference = await write_under(rig.engine)
    second, entered, gate = rig.publish(2), threading.Event(), threading.Event()

    def stand_still(tensors: Weights) -> Weights:
        entered.set()
        assert gate.wait(120)
        return tensors

    misload(rig, second, stand_still)
    swapping = asyncio.create_task(rig.promote(second))
    try:
        assert await asyncio.to_thread(entered.wait, 60)
        async with asyncio.timeout(60):
            assert_same(await write_under(rig.engine), reference)
        assert rig.engine.champion == "v000001"
    finally:
        gate.set()
    await swapping
    assert rig.engine.champion == second


async def choose_under(rig: Rig, version: str | None = None, seed: int = 0) -> Any:
    async with rig.engine.lease(version) as lease:
        return await lease.choose(ask(seed))


async def test_streams_of_three_versions_at_once_are_each_their_own(rig: Rig) -> None:
    """Two leases of the first, one of each later one, with choices in between."""
    versions = [rig.publish(seed) for seed in (1, 2, 3)]
    reference = {version: (await write_under(rig.engine, version)).token_ids for version in versions}
    assert len(set(reference.values())) == 3

    async def one(version: str) -> None:
        async with rig.engine.lease(version) as lease:
            generated, choice = await asyncio.gather(write(lease), lease.choose(ask()))
            assert generated.token_ids == reference[version]
            assert choice.logprobs == pytest.approx((await choose_under(rig, version)).logprobs, abs=1e-4)

    await asyncio.gather(*(one(version) for version in [*versions, versions[0], *versions]))
    assert rig.in_memory == set()


async def test_a_new_champion_waits_for_older_versions_whose_copies_are_in_use(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are two copies, and replies of both go on: the third version serves when one has ended. The control: after a
    minute it serves anyhow, from the base model's layers with its adapter beside them."""
    monkeypatch.setattr("bot.policy.voice.MAX_MERGED", 2)
    clock = Clock()
    engine = rig.engine = rig.another_engine(clock=clock)
    async with engine.lease() as lease:
        await write(lease)  # The language model is there from now on.
    await rig.promote(rig.publish(1))
    async with half_written(engine) as (_, finish):
        await rig.promote(rig.publish(2))
        await rig.promote(rig.publish(3))
        assert engine.champion == "v000002"
        await finish()
    await engine._follow_once()
    assert engine.champion == "v000003"

    async with engine.lease("v000002"):
        await rig.promote(rig.publish(4))
        assert engine.champion == "v000003"
        clock.now += 61
        await engine._follow_once()
        assert engine.champion == "v000004"
        assert (await write_under(engine)).token_ids


async def test_a_version_waits_its_own_time_though_another_was_given_up_while_it_waited(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pointer names the second version, goes back, and an hour later names the third: that one waits from then on."""
    monkeypatch.setattr("bot.policy.voice.MAX_MERGED", 1)
    clock = Clock()
    engine = rig.engine = rig.another_engine(clock=clock)
    await write_under(engine)  # The language model is there from now on.
    first, second, third = (rig.publish(seed) for seed in (1, 2, 3))
    await rig.promote(first)
    await rig.promote(second)
    await rig.promote(first)
    clock.now += 3600
    await rig.promote(third)
    assert engine.champion == first

    clock.now += 61
    await engine._follow_once()
    assert engine.champion == third


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
async def test_versions_are_loaded_behind_those_who_write(rig: Rig) -> None:
    """By a thread of lower priority. The control: the thread that writes has that of the process, also after a swap."""
    await write_under(rig.engine)
    await rig.promote(rig.publish(1))
    await write_under(rig.engine)
    niceness = {
        thread.name: os.getpriority(os.PRIO_PROCESS, thread.native_id or 0)
        for thread in threading.enumerate()
        if thread.name in ("versions_0", "writer", "MainThread")
    }
    assert niceness["versions_0"] == min(19, niceness["MainThread"] + 10)
    assert niceness["writer"] == niceness["MainThread"]


async def test_rolling_back_to_the_fresh_install_goes_on_serving(rig: Rig) -> None:
    """With no adapter left in memory, and then with one again."""
    fresh = await choose_under(rig)
    await rig.promote(rig.publish(1))
    changed = await choose_under(rig)
    assert changed.logprobs != pytest.approx(fresh.logprobs, abs=1e-3)
    rig.adapters.rollback()
    await rig.engine._follow_once()
    assert (rig.engine.champion, rig.in_memory) == (BASE_VERSION, set())
    assert (await choose_under(rig)).logprobs == pytest.approx(fresh.logprobs, abs=1e-5)
    await rig.promote("v000001")
    assert (await choose_under(rig)).logprobs == pytest.approx(changed.logprobs, abs=1e-5)
    assert rig.engine.champion == "v000001"


async def test_many_short_leases_of_many_versions_leave_nothing_and_lose_nothing(rig: Rig) -> None:
    """Leases that end and begin on the same version in the same moment."""
    versions = [rig.publish(seed) for seed in (1, 2, 3)]
    expected = {version: (await choose_under(rig, version)).logprobs for version in versions}

    async def many(offset: int) -> None:
        for i in range(6):
            version = versions[(offset + i) % 3]
            got = await choose_under(rig, version, seed=i)
            assert got.logprobs == pytest.approx(expected[version], abs=1e-4)

    await asyncio.gather(*(many(offset) for offset in range(6)))
    assert rig.in_memory == set()
    assert rig.engine._loaded == {}


async def test_a_lease_cancelled_while_its_version_loads_does_not_spoil_it(rig: Rig) -> None:
    """At whatever point: the version loads the next time, and nothing stays behind."""
    version = rig.publish(1)
    expected = (await choose_under(rig, version)).logprobs
    for num_steps in range(0, 40, 3):
        task = asyncio.create_task(choose_under(rig, version))
        await let_pass(num_steps)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await choose_under(rig, version)).logprobs == pytest.approx(expected, abs=1e-5)
    assert rig.in_memory == set()


async def test_an_abandoned_stream_disturbs_nobody(rig: Rig) -> None:
    """A browser that left in the middle of a token."""
    await rig.promote(rig.publish(1))
    reference = await write_under(rig.engine)
    async with half_written(rig.engine) as (_, finish):
        leaving = asyncio.create_task(write_under(rig.engine))
        await asyncio.to_thread(int)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert_same(await finish(), reference)


async def test_a_lease_on_an_unknown_version_is_not_found(rig: Rig) -> None:
    """And holds nothing."""
    for version in ("v000009", "../v000001", "nonsense"):
        with pytest.raises(NotFound, match="expected one of"):
            await choose_under(rig, version)
    assert sum(rig.engine._refs.values()) == 0
    assert (await choose_under(rig)).parts == ("encoder",)


# --- invariant 3 ------------------------------------------------------------------------------------------------------


def zeroed(rig: Rig, seed: int) -> dict[str, dict[str, torch.Tensor]]:
    return {"encoder": {k: torch.zeros_like(v) for k, v in random_adapter(rig.model.encoder.model, seed).items()}}


def with_nan(rig: Rig, seed: int) -> dict[str, dict[str, torch.Tensor]]:
    drawn = random_adapter(rig.model.encoder.model, seed)
    next(iter(drawn.values()))[0, 0] = torch.nan
    return {"encoder": drawn}


def wrong_probes(rig: Rig) -> tuple[CanaryProbe, ...]:
    """The base model's own numbers: what an adapter that never reached the requests would give."""
    return make_probes(rig.model, "__base__")


BROKEN: dict[str, tuple[Callable[[Rig], dict[str, Any]], str]] = {
    "weights of another version": (
        lambda rig: {"files": {"encoder": random_adapter(rig.model.encoder.model, 5)}},
        "canary",
    ),
    "zeroed weights": (lambda rig: {"files": zeroed(rig, 2)}, "canary"),
    "probes of another model": (lambda rig: {"probes": wrong_probes(rig)}, "canary"),
    "no probes": (lambda rig: {"probes": ()}, "expected canary probes"),
    "a weight that is not finite": (lambda rig: {"files": with_nan(rig, 2)}, "expected finite weights"),
    "another base model": (lambda rig: {"base_models": {"encoder": "MiniLM:0123"}}, "expected an adapter of encoder"),
    "missing tensors": (lambda rig: {"files": {"encoder": {}}}, "odd one"),
    "a value head of another width": (lambda rig: {"value_width": 5}, "expected 32 weights, got 5"),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_signed_version_that_is_not_what_was_trained_is_refused(
    rig: Rig, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The champion goes on serving, nothing stays in memory, and the log says why once."""
    await rig.promote(rig.publish(1))
    before = await choose_under(rig)
    overrides, line = BROKEN[fault]
    broken = rig.publish(2, **overrides(rig))
    rig.adapters.verify(broken)
    for _ in range(3):
        await rig.promote(broken) if rig.adapters.champion().version != broken else await rig.engine._follow_once()
    assert rig.engine.champion == "v000001"
    assert broken not in rig.in_memory
    assert (await choose_under(rig)).logprobs == pytest.approx(before.logprobs, abs=1e-6)
    said = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert len(said) == 1
    assert line in said[0]
    with pytest.raises(AdapterError, match=line):
        await choose_under(rig, broken)


async def test_an_honest_version_is_the_control(rig: Rig) -> None:
    """The same helper without a fault."""
    await rig.promote(rig.publish(1))
    await rig.promote(rig.publish(2))
    assert rig.engine.champion == "v000002"


async def test_a_refused_version_is_tried_again_when_the_pointer_names_it_again(rig: Rig) -> None:
    """An operator put the files back."""
    version = rig.publish(1)
    weights = rig.adapters.folder(version) / "value.safetensors"
    whole = weights.read_bytes()
    rig.adapters.set_champion(version, "gate passed", "learner")
    weights.write_bytes(b"")
    await rig.engine._follow_once()
    assert rig.engine.champion == BASE_VERSION
    weights.write_bytes(whole)
    await rig.promote(version)
    assert rig.engine.champion == version


async def test_a_start_falls_back_to_the_newest_earlier_version_that_can_be_trusted(rig: Rig) -> None:
    """v4 serves when v5 is damaged and v6 is newer than the pointer; the pointer itself is left for a person."""
    for seed in range(1, 4):
        rig.adapters.set_champion(rig.publish(seed), "gate passed", "learner")
    rig.publish(4)
    (rig.adapters.folder("v000003") / "value.safetensors").write_bytes(b"")
    await rig.engine.start()
    assert rig.engine.champion == "v000002"
    for version in ("v000001", "v000002"):
        (rig.adapters.folder(version) / "value.safetensors").unlink()
    other = rig.another_engine()
    await other.start()
    assert other.champion == BASE_VERSION
    assert rig.adapters.champion().version == "v000003"
    await other.close()


# --- invariant 3, the causal part -------------------------------------------------------------------------------------
def nudged(tensors: Weights) -> Weights:
    """One matrix of all is a tenth larger."""
    last = max(name for name in tensors if "lora_B" in name)
    return tensors | {last: tensors[last] * 1.1}


MISLOADED: dict[str, Callable[[Weights], Weights]] = {
    "an adapter that stays as it was made": lambda tensors: {k: torch.zeros_like(v) for k, v in tensors.items()},
    "the weights of another adapter": lambda tensors: {k: v.flip(0) for k, v in tensors.items()},
    "one matrix a little off": nudged,
    "a weight that is no number": lambda tensors: {k: v * torch.nan for k, v in tensors.items()},
}


def misload(rig: Rig, version: str, spoil: Callable[[Weights], Weights]) -> None:
    rig.spoil[version] = spoil


@pytest.mark.parametrize("fault", MISLOADED)
async def test_words_of_an_adapter_that_was_loaded_wrongly_are_never_shown(rig: Rig, fault: str) -> None:
    """Found at the first reply, when the language model is loaded: both who ask get an error, the version before serves."""
    await rig.promote(rig.publish(1))
    await rig.promote(rig.publish(2))
    misload(rig, "v000002", MISLOADED[fault])
    refused = await asyncio.gather(*(write_under(rig.engine) for _ in range(2)), return_exceptions=True)
    assert [(type(error), "v000002" in str(error)) for error in refused] == [(ModelError, True)] * 2
    await rig.engine._follow_once()
    assert (rig.engine.champion, rig.in_memory) == ("v000001", {"v000001"})
    assert (await write_under(rig.engine)).token_ids


async def test_a_candidate_whose_words_cannot_be_trusted_is_named_in_the_log(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """It is served to some only; the champion goes on writing."""
    await rig.promote(rig.publish(1))
    candidate = rig.publish(2)
    misload(rig, candidate, nudged)
    with pytest.raises(ModelError, match="not what was trained"):
        async with rig.engine.lease(candidate) as lease:
            await write(lease)
    assert [record.levelname for record in caplog.records if "v000002 writes nothing" in record.getMessage()] == [
        "WARNING"
    ]
    assert rig.engine.champion == "v000001"
    assert (await write_under(rig.engine)).token_ids


async def test_a_damaged_candidate_is_loaded_once_and_withdrawn_while_the_champion_serves(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three replies of its share: one loads and probes it, the others are told at once. Then the rollout takes it back and
    it leaves memory; named again, and whole, it writes."""
    await rig.promote(rig.publish(1))
    candidate = rig.publish(2)
    loads: list[str] = []

    def spoil(tensors: Weights) -> Weights:
        loads.append(candidate)
        return nudged(tensors)

    misload(rig, candidate, spoil)
    rig.adapters.set_canary(candidate, 1.0, "test", "test")
    with Store(tmp_path / "rejoinder.db") as store:
        rollout = Rollout(rig.engine, rig.adapters, store, RolloutSettings(), b"k" * 32)
        await rollout.step()
        assert rollout.version_for("c1") == candidate
        for _ in range(3):
            with pytest.raises(ModelError, match="not what was trained"):
                await write_under(rig.engine, candidate)
        assert (loads, rollout.version_for("c1")) == ([candidate], None)
        await rollout.step()
        assert (rig.adapters.canary(), rig.engine.champion, rig.in_memory) == (None, "v000001", {"v000001"})
        assert "canary's words" in rig.adapters.history()[-1]["reason"]
        assert sum("writes nothing" in record.getMessage() for record in caplog.records) == 1

        del rig.spoil[candidate]
        rig.adapters.set_canary(candidate, 1.0, "the file was put back", "test")
        await rollout.step()
        assert (await write_under(rig.engine, rollout.version_for("c1"))).token_ids
        await rollout.step()
        assert rollout.version_for("c1") == candidate


@pytest.mark.parametrize("fault", MISLOADED)
async def test_once_words_are_written_a_wrongly_loaded_adapter_never_serves(
    rig: Rig, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused before the swap, as the encoder's would be; a person who names it again has it tried again."""
    await rig.promote(rig.publish(1))
    reference = await write_under(rig.engine)
    misload(rig, "v000002", MISLOADED[fault])
    await rig.promote(rig.publish(2))
    await rig.engine._follow_once()
    assert (rig.engine.champion, rig.in_memory) == ("v000001", {"v000001"})
    assert_same(await write_under(rig.engine), reference)
    assert sum("canary's words" in record.getMessage() for record in caplog.records) == 1
    misload(rig, "v000002", lambda tensors: tensors)
    await rig.promote("v000002")
    assert rig.engine.champion == "v000002"


@pytest.mark.parametrize("writes_before", [False, True])
async def test_an_adapter_loaded_as_it_is_writes_through_the_same_double(rig: Rig, writes_before: bool) -> None:
    """The control: without a fault the version serves and writes."""
    await rig.promote(rig.publish(1))
    if writes_before:
        await write_under(rig.engine)
    misload(rig, "v000002", lambda tensors: tensors)
    await rig.promote(rig.publish(2))
    words = await write_under(rig.engine)
    assert rig.engine.champion == "v000002"
    assert words.token_ids != (await write_under(rig.engine, "v000001")).token_ids


@pytest.mark.parametrize("kind", ["plain", "activated", "rslora"])
async def test_a_versions_words_are_those_that_peft_itself_computes(rig: Rig, kind: str) -> None:
    """Read from its files without PEFT: where it begins to read, and how strong it is. The control: the base model's are
    others."""
    invocation = rig.writer.header_ids if kind == "activated" else ()
    config = replace(lora_config(4, 8, invocation=invocation), use_rslora=kind == "rslora")
    version = rig.publish(1, causal_config=config)
    await rig.promote(version)
    ours = await write_under(rig.engine)
    files = read_version(rig.adapters, version)
    assert files.causal is not None
    assert files.causal_config is not None
    rig.writer.model.load("alone", files.causal_config, files.causal)
    theirs = list(rig.writer.write(WRITE, "alone"))[-1].generated
    assert theirs is not None
    assert_same(ours, theirs)
    assert (await write_under(rig.engine, BASE_VERSION)).logprobs[0] != pytest.approx(ours.logprobs[0], abs=1e-3)


def leaking(rig: Rig) -> tuple[TextProbe, ...]:
    """What probes would find if the base model spoke through the adapter beside it."""
    honest = make_text_probes(rig.writer, BASE)[0]
    return (replace(honest, base_logprobs=tuple(p - 0.1 for p in honest.base_logprobs)),)


@pytest.mark.parametrize(
    ("scale", "probes", "line"),
    [(0.2, lambda rig: (), "expected text probes"), (0.0, leaking, "canary's words"), (0.0, None, "")],
)
async def test_a_causal_adapter_needs_probes_that_hold_for_the_base_model_too(
    rig: Rig, scale: float, probes: Callable[[Rig], tuple[TextProbe, ...]] | None, line: str
) -> None:
    """An earlier release's manifest, a base model that changed, and the control."""
    overrides = {"text_probes": probes(rig)} if probes else {}
    version = rig.publish(1, scale=scale, **overrides)
    await rig.promote(version)
    if not line:
        assert (await write_under(rig.engine)).token_ids
        return
    with pytest.raises(ModelError, match=line):
        await write_under(rig.engine)
    assert rig.engine.champion == BASE_VERSION


@pytest.mark.parametrize("writes_before", [True, False])
async def test_a_causal_adapter_of_another_base_model_never_writes(
    rig: Rig, writes_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With the language model in memory it is refused when it is to serve, else at its first reply; each time in one line
    that names both models, and the version before writes. The control is that version, of this very model."""
    await rig.promote(rig.publish(1))
    if writes_before:
        await write_under(rig.engine)
    other = {"encoder": rig.model.encoder.name, "causal": "SmolLM2:0123"}
    await rig.promote(rig.publish(2, base_models=other))
    if not writes_before:
        with pytest.raises(ModelError, match=r"expected a causal adapter of .*, got one of SmolLM2:0123"):
            await write_under(rig.engine)
    (line,) = [record.getMessage() for record in caplog.records if "SmolLM2:0123" in record.getMessage()]
    assert "v000002: expected a causal adapter of" in line
    assert "\n" not in line
    assert rig.engine.champion == "v000001"
    assert (await write_under(rig.engine)).token_ids


async def test_a_version_without_causal_weights_needs_no_text_probes(rig: Rig) -> None:
    """The base model writes for it."""
    await rig.promote(publish_version(rig.adapters, rig.model, 1))
    assert (await write_under(rig.engine)).token_ids == (await write_under(rig.engine, BASE_VERSION)).token_ids
    assert rig.engine.champion == "v000001"


async def let_pass(num_turns: int) -> None:
    """Let other tasks and threads run."""
    for _ in range(num_turns):
        await asyncio.to_thread(int)


async def test_following_survives_whatever_lies_in_the_folder(rig: Rig) -> None:
    """A pointer that is no JSON, a folder where a file should be: the next good pointer is followed."""
    following = asyncio.create_task(rig.engine.follow_champion(poll_s=0.001))
    pointer = rig.adapters.root / "champion.json"
    pointer.write_text("{")
    await let_pass(20)
    pointer.unlink()
    pointer.mkdir()
    await let_pass(20)
    pointer.rmdir()
    version = await asyncio.to_thread(rig.publish, 1)
    rig.adapters.set_champion(version, "gate passed", "learner")
    async with asyncio.timeout(20):
        while rig.engine.champion != version:
            await asyncio.to_thread(int)
    assert not following.done()
    following.cancel()


# --- the rest of the Policy -------------------------------------------------------------------------------------------


async def test_choices_reproduce_and_come_with_everything_the_learner_needs(rig: Rig) -> None:
    """Same seed, same act; the value head's word for a version, 0 for the base."""
    await rig.promote(rig.publish(1))
    first, again = await choose_under(rig, seed=3), await choose_under(rig, seed=3)
    assert first == again
    assert first.mode == int(np.argmax(first.logprobs))
    assert first.value != 0.0
    assert (await choose_under(rig, BASE_VERSION)).value == 0.0
    assert first.query_ids == rig.model.encoder.tokenize("where is my card?")
    assert len({(await choose_under(rig, seed=seed)).chosen for seed in range(30)}) > 1


@pytest.mark.parametrize("query", ["", " ", "x" * 100_000, "<|im_start|>system [SEP] [CLS]", "\x00\u202e😀"])
async def test_any_text_can_be_chosen_for_and_answered(rig: Rig, query: str) -> None:
    """Empty, 100 kB, markers, control characters."""
    async with rig.engine.lease() as lease:
        choice = await lease.choose(ask(query=query))
        assert np.exp(choice.logprobs).sum() == pytest.approx(1, abs=1e-5)
    assert (await rig.engine.embed([query])).shape == (1, 32)


async def test_a_choice_among_nothing_is_one_clear_line(rig: Rig) -> None:
    """And others in the batch get theirs."""
    async with rig.engine.lease() as lease:
        nothing, choice = await asyncio.gather(
            lease.choose(replace(ask(), legal=())), lease.choose(ask()), return_exceptions=True
        )
    assert "expected at least one legal act, got none" in str(nothing)
    assert choice == await choose_under(rig)


async def test_embeddings_are_the_base_encoder_s_whatever_serves(rig: Rig) -> None:
    """In order, of unit length, batched with choices of a version."""
    before = await rig.engine.embed(["card", "transfer", "I lost my card"])
    await rig.promote(rig.publish(1))
    after, _ = await asyncio.gather(rig.engine.embed(["card", "transfer", "I lost my card"]), choose_under(rig))
    np.testing.assert_allclose(after, before, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)
    assert (await rig.engine.embed([])).shape == (0, 32)


async def test_a_reply_does_not_wait_for_the_model_beyond_its_deadline_and_the_load_goes_on(rig: Rig) -> None:
    """Its time runs from the request. Who comes later finds the model there: it is loaded once, though the first one to ask
    for it left."""
    loads: list[CausalPart] = []
    release = threading.Event()

    def load() -> CausalPart:
        loads.append(rig.writer)
        assert release.wait(60)
        return rig.writer

    engine = rig.another_engine(load_causal=load)
    try:
        with pytest.raises(ModelError, match="is being loaded"):
            async with engine.lease() as lease:
                await write(lease, replace(WRITE, deadline_s=0.05))
    finally:
        release.set()
    await write_under(engine)
    assert len(loads) == 1
    await engine.close()


async def test_the_writer_is_loaded_once_when_first_needed(rig: Rig) -> None:
    """By however many at the same time; without one, writing is a clear error."""
    loads: list[CausalPart] = []

    def load() -> CausalPart:
        loads.append(rig.writer)
        return rig.writer

    engine = rig.another_engine(load_causal=load)
    assert engine.can_write
    assert not loads
    await asyncio.gather(*(write_under(engine) for _ in range(3)))
    assert len(loads) == 1
    silent = rig.another_engine(load_causal=None)
    assert not silent.can_write
    with pytest.raises(ModelError, match="none is configured"):
        await write_under(silent)
    await engine.close()
    await silent.close()


async def test_a_closed_engine_says_so(rig: Rig) -> None:
    """To those who still hold a lease as well."""
    async with rig.engine.lease() as lease:
        await rig.engine.close()
        with pytest.raises(ModelError, match="closed"):
            await lease.choose(ask())
        with pytest.raises(ModelError, match="closed"):
            await write(lease)


async def test_a_causal_part_that_scores_acts_is_swapped_with_its_version(tmp_path: Path) -> None:
    """Both parts' weights move the choice, and both are freed."""
    rig = Rig(tmp_path, scores_text=True)
    request = ActRequest("where is my card?", '[["user", "where is my card?"]]', LEGAL, 0)
    await rig.promote(rig.publish(1))
    async with rig.engine.lease() as lease:
        with_both = await lease.choose(request)
    assert with_both.parts == ("encoder", "causal")
    assert rig.writer.model.names == rig.model.encoder.model.names == {"v000001"}
    await rig.promote(BASE_VERSION)
    assert rig.in_memory == set()
    await rig.engine.close()


async def test_another_encoder_in_a_folder_of_the_same_name_is_another_base_model(tmp_path: Path, rig: Rig) -> None:
    """The same weights elsewhere are the same model."""
    version = rig.publish(1)
    assert tiny_policy(tmp_path / "other").encoder.name == rig.model.encoder.name  # the same seed
    other = PolicyModel(EncoderPart(tiny_encoder(tmp_path / "third" / "encoder", seed=1)))
    engine = Engine(other, rig.adapters, temperature=TEMPERATURE)
    with pytest.raises(AdapterError, match="expected an adapter of encoder"):
        async with engine.lease(version):
            pass
    await engine.close()
