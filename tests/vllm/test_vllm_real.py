"""A real vLLM server: its words are those our own model would have written, and it may be killed.

Log-probabilities of a server in bf16 and of our model in fp32 differ; `engine.vllm_tolerance` is what the product allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.conversation import BASE_VERSION, Generated
from bot.feedback.store import Store
from bot.policy.adapted import BASE, lora_config
from bot.policy.adapters import AdapterStore
from bot.policy.causal import CausalPart
from bot.policy.grounding import amounts, ungrounded
from bot.policy.scripted import ScriptedPolicy
from bot.policy.types import Lease, TextRequest
from bot.policy.vllm import VllmPolicy
from bot.policy.vllm_adapters import RemoteAdapters
from bot.policy.vllm_server import ServerGone, VllmServer
from bot.policy.weights import write_part
from bot.rollout import Rollout
from bot.settings import EngineSettings, RolloutSettings
from online_learning.bench.serve_vllm import measure_vllm
from tests.tiny_models import make_text_probes, random_adapter
from tests.version_folder import SECRET, make_manifest
from tests.vllm.rack import Rack

pytestmark = [pytest.mark.vllm, pytest.mark.models, pytest.mark.timeout(900)]

TOLERANCE = EngineSettings().vllm_tolerance
SOURCES = ("A transfer of £10 costs nothing; above £250 it costs 2%.",)
PROMPT = (
    '[["system", "Answer from these facts: a transfer of £10 is free, above £250 it costs 2%."], ["user", "Costs?"]]'
)
WRITE = TextRequest(PROMPT, SOURCES, seed=3, max_tokens=40)


@dataclass(slots=True)
class Home:
    """Versions on disk, our own model, and a policy whose words come from the server."""

    adapters: AdapterStore
    writer: CausalPart
    acts: ScriptedPolicy
    policy: VllmPolicy

    def publish(self, seed: int, *, probed_seed: int | None = None) -> str:
        """A version of random weights; its probes may be those of other weights."""
        staged, version = self.adapters.stage(), self.adapters.next_version()
        self.load(version, probed_seed or seed)
        probes = make_text_probes(self.writer, version)
        self.load(version, seed)
        config = self.writer.model.config(version)
        write_part(staged / "causal", self.writer.model.weights(version), config, "smollm2")
        fields: dict[str, Any] = {"base_models": {"causal": self.writer.name}, "text_probes": probes}
        self.acts.champion = self.adapters.publish(staged, make_manifest(version=version, **fields))
        return version

    def load(self, version: str, seed: int) -> None:
        if version in self.writer.model.names:
            self.writer.model.delete(version)
        self.writer.model.load(version, lora_config(4, 8), random_adapter(self.writer.model, seed, 0.03))

    async def write(self) -> Generated:
        async with self.policy.lease() as lease:
            return await written(lease)

    def off(self, reply: Generated, adapter: str) -> float:
        """Largest |server - ours| log-probability of a token, nats."""
        with torch.no_grad():
            ours_T = self.writer.token_logprobs([reply], [adapter])[0][0].cpu()
        return float((torch.tensor(reply.logprobs) - ours_T).abs().max())


async def written(lease: Lease) -> Generated:
    async with aclosing(lease.write(WRITE)) as pieces:
        *_, last = [delta async for delta in pieces]
    assert last.generated is not None
    return last.generated


@pytest.fixture(scope="module")
def writer(causal_folder: Path) -> CausalPart:
    """Our own model, fp32."""
    return CausalPart(causal_folder, device=torch.device("cpu"))


@pytest.fixture
async def home(rack: Rack, writer: CausalPart, tmp_path: Path) -> AsyncIterator[Home]:
    """A fresh home, whose policy has reached the server."""
    adapters, acts = AdapterStore(tmp_path / "adapters", SECRET), ScriptedPolicy(can_write=False)
    remotes = RemoteAdapters(adapters, writer.name)
    policy = VllmPolicy(acts, VllmServer(rack.url), remotes, writer.vocabulary, max_new=80, tolerance=TOLERANCE)
    await policy.step()
    yield Home(adapters, writer, acts, policy)
    await policy.close()
    for name in writer.model.names:
        writer.model.delete(name)


async def test_its_words_have_the_log_probabilities_that_our_model_gives_them(home: Home, record_property: Any) -> None:
    """Base and adapter; the control: scored by the wrong one they are further off."""
    base_reply = await home.write()
    version = home.publish(seed=1)
    await home.policy.step()
    assert home.policy.champion == version
    reply = await home.write()
    found = {"base": home.off(base_reply, BASE), "adapter": home.off(reply, version), "wrong": home.off(reply, BASE)}
    record_property("off_nats", found)
    print(found)

    assert max(found["base"], found["adapter"]) <= TOLERANCE
    assert found["wrong"] > found["adapter"]


async def test_its_words_keep_to_the_amounts_of_their_sources(home: Home) -> None:
    """Ten replies to a question about amounts."""
    for seed in range(10):
        async with (
            home.policy.lease() as lease,
            aclosing(lease.write(TextRequest(PROMPT, SOURCES, seed, 40))) as pieces,
        ):
            *_, last = [delta async for delta in pieces]
        assert last.generated is not None
        assert amounts(last.generated.text) <= amounts(SOURCES[0]), last.generated.text
        assert ungrounded(last.generated.text, SOURCES) == []


async def test_weights_that_are_not_those_that_were_probed_do_not_serve(home: Home) -> None:
    """Signed and loadable, but not what the learner had; the control: the honest one serves."""
    home.publish(seed=1, probed_seed=2)
    await home.policy.step()
    assert home.policy.champion == BASE_VERSION

    version = home.publish(seed=3)
    await home.policy.step()
    assert home.policy.champion == version


async def test_the_old_adapter_is_gone_from_the_server_after_its_last_reply(home: Home) -> None:
    """Two versions; the first one's name is not served any more."""
    first = home.publish(seed=1)
    await home.policy.step()
    second = home.publish(seed=2)
    await home.policy.step()
    await home.policy.step()
    served = (await home.policy._server.served()).adapters

    ours = [name for name in served if name.startswith(home.policy._remotes.prefix)]

    assert [version for version in (first, second) for name in ours if f"-{version}-" in name] == [second]


async def test_a_canary_writes_beside_the_champion_and_a_damaged_one_is_withdrawn(home: Home, tmp_path: Path) -> None:
    """Two adapters on the server at once, each reply by its own; then a candidate whose weights are not those that were
    probed: withdrawn with the server's reason, and the champion writes for everybody."""
    champion = home.publish(seed=1)
    home.adapters.set_champion(champion, "test", "test")
    candidate, broken = home.publish(seed=2), home.publish(seed=3, probed_seed=4)
    home.acts.champion = champion
    with Store(tmp_path / "rejoinder.db") as store:
        rollout = Rollout(home.policy, home.adapters, store, RolloutSettings(), b"k" * 32)
        home.adapters.set_canary(candidate, 1.0, "test", "test")
        await rollout.step()
        await home.policy.step()
        for version in (rollout.version_for("c1"), None):
            async with home.policy.lease(version) as lease:
                assert home.off(await written(lease), version or champion) <= TOLERANCE
        assert (rollout.version_for("c1"), home.policy.champion) == (candidate, champion)

        home.adapters.set_canary(broken, 1.0, "test", "test")
        await rollout.step()
        await home.policy.step()
        assert rollout.version_for("c1") is None
        await rollout.step()
        assert home.adapters.canary() is None
        assert "not what was trained" in home.adapters.history()[-1]["reason"]
        assert (await home.write()).token_ids


async def test_its_speed_can_be_measured(rack: Rack, home: Home) -> None:
    """Short: whether the figures come, not how high they are."""
    home.publish(seed=1)
    prompt = home.writer.prompt_ids(PROMPT)
    folder = home.adapters.folder("v000001") / "causal"
    found = await measure_vllm(rack.url, [prompt], adapter=folder, batch_sizes=(1, 2), num_tokens=8, repeats=1)

    assert set(found["base"]) == set(found["adapter"]) == {"1", "2"}
    assert min(found["base"].values()) > 0


async def test_killed_in_the_middle_of_a_reply_it_is_missed_and_found_again(home: Home, rack: Rack) -> None:
    """SIGKILL to server and engine; started anew it knows no adapter, and gets it back."""
    home.publish(seed=1)
    await home.policy.step()
    async with home.policy.lease() as lease:
        pieces = lease.write(TextRequest(PROMPT, SOURCES, 3, 80))
        await anext(pieces)
        port = await asyncio.to_thread(rack.kill)
        with pytest.raises(ServerGone):
            _ = [piece async for piece in pieces]
    assert not home.policy.can_write
    with pytest.raises(ServerGone):
        await home.policy.step()

    await asyncio.to_thread(rack.start, port)
    await home.policy.step()

    assert (await home.write()).token_ids
