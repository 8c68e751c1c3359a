"""Words by a vLLM server: what is served was trained, nobody notices a swap, and approved replies outlive the server."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.conversation import BASE_VERSION, Generated, LegalAct, Message
from bot.errors import AdapterError, ModelError
from bot.policy.adapters import AdapterStore
from bot.policy.manifest import TextProbe
from bot.policy.scripted import ScriptedPolicy
from bot.policy.types import ActRequest, Lease, TextRequest
from bot.policy.vllm import VllmPolicy
from bot.policy.vllm_adapters import RemoteAdapters, probe_fault
from bot.policy.vllm_server import Piece, RequestBroken, ServerGone, VllmServer, Words
from bot.policy.vocabulary import Vocabulary
from tests.fake_vllm import BASE_LOGPROB, BASE_NAME, FakeVllm, Port, running
from tests.service_rig import Clock
from tests.session_rig import drained, open_session
from tests.tiny_models import tiny_causal
from tests.version_folder import SECRET, make_manifest

BASE_MODEL = "tiny:abc"
PROBED = (5, 6, 7)
WRITE = TextRequest('[["system", "Help."], ["user", "hello"]]', ("In 5 days.",), seed=7, max_tokens=16)
ACT = ActRequest("hello", "", (LegalAct("handoff", (), 1.0),), seed=1)
PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 4, "alora_invocation_tokens": None}


def publish(adapters: AdapterStore, *, gain: float = 0.2, config: dict[str, Any] = PLAIN, **overrides: Any) -> str:
    """A signed version of made-up weights whose probe says: every word is `gain` nats more likely than by the base."""
    version = adapters.next_version()
    staged = adapters.stage()
    (staged / "causal").mkdir()
    (staged / "causal/adapter_model.safetensors").write_bytes(f"{version} {gain}".encode())
    (staged / "causal/adapter_config.json").write_text(json.dumps(config))
    base = tuple(BASE_LOGPROB - 0.01 * token_id for token_id in PROBED)
    said = tuple(logprob + gain for logprob in base)
    told = TextProbe(Generated((1, 2, 3), PROBED, said, 1.0, (), "", "length"), base)
    fields: dict[str, Any] = {"version": version, "base_models": {"causal": BASE_MODEL}, "text_probes": (told,)}
    return adapters.publish(staged, make_manifest(**fields | overrides))


class Rig:
    """Scripted acts, real versions on disk, and a fake server on a real socket."""

    def __init__(self, tmp_path: Path, fake: FakeVllm, port: Port, vocabulary: Vocabulary) -> None:
        self.fake, self.port, self.vocabulary = fake, port, vocabulary
        self.acts = ScriptedPolicy(can_write=False)
        self.adapters = AdapterStore(tmp_path / "adapters", SECRET)
        self.clock = Clock()
        self.policy = VllmPolicy(
            self.acts,
            VllmServer(port.url),
            RemoteAdapters(self.adapters, BASE_MODEL),
            vocabulary,
            max_new=80,
            tolerance=0.35,
            clock=self.clock,
        )

    def publish(self, *, gain: float = 0.2, **fields: Any) -> str:
        """Publish a version that the server would compute as probed, and have the engine serve it."""
        version = publish(self.adapters, gain=gain, **fields)
        self.fake.gains[version] = gain
        self.acts.champion = version
        return version

    async def hold(self, reply: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a reply and come back when its first word was said."""
        self.fake.hold_after = 1
        task, held = asyncio.create_task(reply), asyncio.create_task(self.fake.held.wait())
        await asyncio.wait({task, held}, return_when=asyncio.FIRST_COMPLETED)
        assert not task.done(), await task
        return task

    async def write(self, version: str | None = None) -> Generated:
        async with self.policy.lease(version) as lease:
            return await written(lease)


async def written(lease: Lease, asked: TextRequest = WRITE) -> Generated:
    async with aclosing(lease.write(asked)) as pieces:
        deltas = [delta async for delta in pieces]
    assert deltas[-1].generated is not None
    assert "".join(delta.text for delta in deltas).strip() == deltas[-1].generated.text
    return deltas[-1].generated


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    """Words of a tiny model."""
    return Vocabulary(tiny_causal(tmp_path_factory.mktemp("words") / "causal"))


@pytest.fixture
async def rig(tmp_path: Path, vocabulary: Vocabulary) -> AsyncIterator[Rig]:
    """A fresh home and a server that is up and was started as it must be."""
    said = vocabulary.tokenizer(" soon by post", add_special_tokens=False)["input_ids"]
    digit = vocabulary.tokenizer("7", add_special_tokens=False)["input_ids"][-1]
    fake = FakeVllm([*said, min(vocabulary.stop_ids)], forbidden=[digit])
    async with running(fake) as port:
        built = Rig(tmp_path, fake, port, vocabulary)
        yield built
        await built.policy.close()


# --- words ------------------------------------------------------------------------------------------------------------
async def test_a_reply_holds_the_tokens_and_log_probabilities_that_the_server_sampled(rig: Rig) -> None:
    """Ids, log-probabilities after temperature, the prompt's own tokens, the text that they say."""
    await rig.policy.step()

    reply = await rig.write()

    assert reply.token_ids == tuple(rig.fake.reply)
    # By the fake's rule: (-2 - id % 50 / 100) / temperature.
    assert reply.logprobs == pytest.approx([(-2.0 - 0.01 * (i % 50)) / 0.7 for i in rig.fake.reply])
    assert reply.prompt_ids == rig.vocabulary.prompt_ids(WRITE.prompt)
    assert (reply.text, reply.stop_reason, reply.temperature) == ("soon by post", "stop", 0.7)


async def test_the_server_is_asked_for_what_our_own_engine_would_do(rig: Rig) -> None:
    """Prompt as tokens, our end tokens, our seed, and the amounts that the sources hold."""
    await rig.policy.step()
    await rig.write()
    asked = rig.fake.bodies[-1]

    assert asked["prompt"] == list(rig.vocabulary.prompt_ids(WRITE.prompt))
    assert asked["vllm_xargs"] == {"rejoinder_known": ["5"], "rejoinder_written": 0}
    assert (asked["seed"], asked["max_tokens"], asked["temperature"]) == (7, 16, 0.7)
    assert asked["stop_token_ids"] == sorted(rig.vocabulary.stop_ids)


async def test_words_that_the_sources_do_not_allow_are_never_shown(rig: Rig) -> None:
    """Were the server's mask to fail, the stream ends before the digit; the control: without it all is said."""
    await rig.policy.step()
    whole = await rig.write()
    digit = next(iter(rig.fake.forbidden))
    rig.fake.reply.insert(1, digit)
    told = io.StringIO()

    async def listen() -> None:
        async with rig.policy.lease() as lease, aclosing(lease.write(WRITE)) as pieces:
            async for delta in pieces:
                told.write(delta.text)

    with pytest.raises(ModelError, match="expected words that the sources allow"):
        await listen()

    assert "7" not in told.getvalue()
    assert whole.text == "soon by post"


async def test_a_reply_ends_where_our_own_engine_would_end_it(rig: Rig) -> None:
    """At a stop string, of which nothing is shown, and when it runs in circles; the control says all."""
    await rig.policy.step()
    said, end = rig.fake.reply[:-1], rig.fake.reply[-1]
    async with rig.policy.lease() as lease:
        whole = await written(lease)
        stopped = await written(lease, replace(WRITE, stop=("by p",)))
        rig.fake.reply[:] = [*(said * 8), end]
        circling = await written(lease, replace(WRITE, max_tokens=100))

    assert (whole.text, whole.stop_reason) == ("soon by post", "stop")
    assert (stopped.text, stopped.stop_reason) == ("soon", "stop")
    assert len(stopped.token_ids) == len(stopped.logprobs) < len(whole.token_ids)
    assert circling.stop_reason == "repetition"
    assert len(circling.token_ids) == 3 * len(said)


async def test_a_reply_near_its_longest_ends_with_its_sentence(rig: Rig) -> None:
    """Past the soft cap the word that begins another sentence is not shown, and the server writes no more of it; its
    log-probability is kept. The control says all."""
    await rig.policy.step()
    words = rig.vocabulary.tokenizer(" soon. It goes on", add_special_tokens=False)["input_ids"]
    rig.fake.reply[:] = [*words, rig.fake.reply[-1]]
    async with rig.policy.lease() as lease:
        short = await written(lease, replace(WRITE, max_tokens=200, sentence_from=1))
        long = await written(lease, replace(WRITE, max_tokens=200))

    assert (short.text, short.stop_reason) == ("soon.", "length")
    assert (long.text, long.stop_reason) == ("soon. It goes on", "stop")
    count = len(short.token_ids)
    assert (short.token_ids, short.logprobs) == (long.token_ids[:count], long.logprobs[:count])


async def test_a_reply_without_a_word_at_its_deadline_is_an_error_of_its_own(rig: Rig) -> None:
    """The server has not begun it: `engine.reply_deadline_s` holds here too. The others go on being written."""
    await rig.policy.step()
    rig.fake.hold_after = 0
    async with asyncio.timeout(60), rig.policy.lease() as lease:
        with pytest.raises(ModelError, match=r"no reply within 0\.01 s: the server is busy") as told:
            await written(lease, replace(WRITE, deadline_s=0.01))
    assert not isinstance(told.value, ServerGone)
    assert rig.policy.can_write

    rig.fake.hold_after = None
    assert (await rig.write()).text == "soon by post"


async def test_a_reply_that_began_ends_at_its_deadline_with_all_it_has_said(rig: Rig) -> None:
    """Also what may have been the beginning of a stop string, which is held back until then. The control is not late."""
    await rig.policy.step()
    said = rig.vocabulary.tokenizer.decode(rig.fake.reply[:1])
    asked = replace(WRITE, deadline_s=30.0, stop=(f"{said}!",))
    async with rig.policy.lease() as lease:
        in_time = await written(lease, asked)
        rig.fake.hold_after = 1
        async with asyncio.timeout(60), aclosing(lease.write(asked)) as pieces:
            assert (await anext(pieces)).text == ""
            rig.clock.now += 31
            *shown, last = [delta async for delta in pieces]

    cut = last.generated
    assert cut is not None
    assert (cut.text, cut.stop_reason) == (said.strip(), "deadline")
    assert (cut.token_ids, cut.logprobs) == (in_time.token_ids[:1], in_time.logprobs[:1])
    assert "".join(delta.text for delta in shown) == said
    assert in_time.stop_reason == "stop"
    assert rig.policy.can_write


async def test_a_stream_in_silence_is_no_sign_of_a_server_that_is_gone(rig: Rig) -> None:
    """It may have many to write for. The control: one that cannot be reached is."""
    server, words = VllmServer(rig.port.url), Words((1, 2), 1.0, ())

    async def hear(silence_s: float) -> Piece:
        stream = server.stream(BASE_NAME, words, max_tokens=4, seed=1, stop_ids=(), silence_s=silence_s)
        async with aclosing(stream) as pieces:
            return await anext(pieces)

    rig.fake.hold_after = 0
    with pytest.raises(ModelError, match=r"said nothing of a reply for 0\.01 s") as told:
        await hear(0.01)
    assert not isinstance(told.value, RequestBroken)

    await rig.port.down()
    with pytest.raises(RequestBroken, match="ConnectError"):
        await hear(60.0)
    with pytest.raises(ServerGone):
        await server.check_health()
    await server.close()


# --- versions ---------------------------------------------------------------------------------------------------------
async def test_a_version_is_loaded_and_probed_before_it_serves(rig: Rig) -> None:
    """In this order: load, score by adapter and base, only then the flip and a reply under the new name."""
    await rig.policy.step()
    version = rig.publish()
    assert rig.policy.champion == BASE_VERSION
    rig.fake.calls.clear()

    await rig.policy.step()
    await rig.write()

    (name,) = rig.fake.names("load")
    assert [verb for verb, _ in rig.fake.calls] == ["load", *["score"] * 6, "stream"]
    assert rig.fake.names("score").count(name) == rig.fake.names("score").count(BASE_NAME) == 3
    assert rig.fake.names("stream") == [name]
    assert rig.policy.champion == version
    assert rig.fake.adapters[name] == str(rig.adapters.root.resolve() / version / "causal")


async def test_the_old_version_drains_and_is_then_unloaded(rig: Rig) -> None:
    """A lease keeps it; the control: once nobody has one, it goes."""
    first = rig.publish()
    await rig.policy.step()
    async with rig.policy.lease() as lease:
        second = rig.publish()
        await rig.policy.step()
        assert (rig.policy.champion, lease.version) == (second, first)
        assert rig.fake.names("unload") == []
        await written(lease)
    (old, _) = rig.fake.names("load")
    assert rig.fake.names("stream") == [old]

    await rig.policy.step()

    assert rig.fake.names("unload") == [old]
    assert old not in rig.fake.adapters


async def test_the_engine_keeps_a_version_until_its_words_are_replaced(rig: Rig) -> None:
    """The engine has moved on already, but new replies get the old version: it must not be freed in between."""
    first = rig.publish()
    await rig.policy.step()
    assert rig.acts.leases[first] == 1
    second = rig.publish()
    await rig.policy.step()
    assert (rig.acts.leases[first], rig.acts.leases[second]) == (0, 1)


def test_no_two_adapters_share_a_name_or_a_path(tmp_path: Path) -> None:
    """Another home's v000001, and a v000001 of other weights in a home that was wiped."""
    homes = [AdapterStore(tmp_path / name, SECRET) for name in ("one", "two")]
    remotes = [RemoteAdapters(home, BASE_MODEL).of(publish(home)) for home in homes]
    wiped = AdapterStore(tmp_path / "elsewhere", SECRET)
    publish(wiped, gain=0.9)
    (homes[0].root / "v000001").rename(tmp_path / "gone")
    (wiped.root / "v000001").rename(homes[0].root / "v000001")
    remotes.append(RemoteAdapters(homes[0], BASE_MODEL).of("v000001"))

    found = [remote for remote in remotes if remote is not None]

    assert len({remote.name for remote in found}) == 3
    assert len({remote.path for remote in found}) == 2


def test_a_server_in_a_container_is_told_its_own_path(tmp_path: Path) -> None:
    """`engine.vllm_adapters`: the same folder under another name."""
    adapters = AdapterStore(tmp_path / "adapters", SECRET)
    remote = RemoteAdapters(adapters, BASE_MODEL, "/mnt/adapters").of(publish(adapters))

    assert remote is not None
    assert remote.path == "/mnt/adapters/v000001/causal"


async def test_a_version_without_words_of_its_own_is_written_by_the_base_model(rig: Rig) -> None:
    """Nothing to load, nothing to probe."""
    staged = rig.adapters.stage()
    (staged / "value.safetensors").write_bytes(b"acts only")
    rig.acts.champion = rig.adapters.publish(staged, make_manifest())
    await rig.policy.step()
    await rig.write()

    assert rig.policy.champion == "v000001"
    assert (rig.fake.names("load"), rig.fake.names("stream")) == ([], [BASE_NAME])


# --- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"config": PLAIN | {"alora_invocation_tokens": [1, 2]}}, "set learn.text_adapts_prompt to true"),
        ({"config": PLAIN | {"use_dora": True}}, "got one with use_dora"),
        ({"base_models": {"causal": "other:def"}}, "expected a causal adapter of tiny:abc, got one of other:def"),
        ({"text_probes": ()}, "expected text probes of its causal adapter"),
    ],
)
async def test_an_adapter_that_vllm_cannot_serve_is_refused_in_one_line(
    rig: Rig, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], fault: str
) -> None:
    """The server is not even asked, the version before goes on serving, and the line comes once."""
    await rig.policy.step()
    rig.publish(**fields)
    with caplog.at_level(logging.WARNING, "bot"):
        await rig.policy.step()
        await rig.policy.step()

    (line,) = [record.getMessage() for record in caplog.records]
    assert fault in line
    assert "\n" not in line
    assert rig.fake.names("load") == []
    assert rig.policy.champion == BASE_VERSION
    assert (await rig.write()).text == "soon by post"


async def test_what_the_server_refuses_is_said_in_its_own_words(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """For example a rank above its --max-lora-rank."""
    await rig.policy.step()
    rig.publish()
    rig.fake.refusal = "LoRA rank 8 is greater than max_lora_rank 4."
    await rig.policy.step()

    assert rig.fake.refusal in caplog.text
    assert rig.policy.champion == BASE_VERSION


@pytest.mark.parametrize("gain", [0.2, 1.0])
async def test_an_adapter_that_never_reached_the_requests_does_not_serve(rig: Rig, gain: float) -> None:
    """0.2 nats are within what bf16 blurs: only the missing change gives it away. 1 nat is plainly off."""
    await rig.policy.step()
    rig.fake.reaches = False
    rig.publish(gain=gain)
    await rig.policy.step()
    assert rig.policy.champion == BASE_VERSION

    rig.fake.reaches = True  # the control: the same weights, loaded right
    version = rig.publish(gain=gain)
    await rig.policy.step()
    assert rig.policy.champion == version


@pytest.mark.parametrize(
    ("got", "fault"),
    [
        ((-1.0, -2.0), ""),
        ((-1.2, -1.8), ""),  # bf16
        ((-1.5, -2.0), "off by 0.5"),
        ((float("nan"), -2.0), "off by nan"),
        ((-1.27, -2.27), "of the adapter's effect 10% arrived"),
        ((-0.9, -2.0), ""),
    ],
)
def test_a_probe_compares_the_words_and_the_change(got: tuple[float, ...], fault: str) -> None:
    """The base says -1.3 and -2.3, the learner's adapter adds .3 to both: 10 % of that is .03."""
    found = probe_fault(got, (-1.3, -2.3), (-1.0, -2.0), (-1.3, -2.3), 0.35)

    assert found.partition(" (")[0].endswith(fault) if fault else not found


def test_an_adapter_that_changes_next_to_nothing_cannot_be_told_by_its_change() -> None:
    """A hundredth of a nat is below bf16's noise: being near is all that can be asked."""
    assert not probe_fault((-1.3,), (-1.3,), (-1.29,), (-1.3,), 0.35)


# --- servers that were not started as they must be ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"is_processed": False}, "--logprobs-mode processed_logprobs"),
        ({"is_masking": False}, "--logits-processors bot.policy.vllm_mask:GroundedWords"),
        ({"max_tokens": 512}, "expected --max-model-len of 1104 at least, got 512"),
    ],
)
async def test_a_server_that_was_started_wrongly_never_writes(rig: Rig, wrong: dict[str, Any], line: str) -> None:
    """One clear line names the option; acts go on; the control: started rightly it writes."""
    right = {name: getattr(rig.fake, name) for name in wrong}
    for name, value in wrong.items():
        setattr(rig.fake, name, value)
    with pytest.raises(ModelError, match=line):
        await rig.policy.step()
    async with rig.policy.lease() as lease:
        assert (await lease.choose(ACT)).chosen == 0
    assert not rig.policy.can_write

    for name, value in right.items():
        setattr(rig.fake, name, value)
    await rig.policy.step()
    assert rig.policy.can_write


async def test_a_server_that_loads_no_adapters_says_which_options_it_lacks(rig: Rig) -> None:
    """vLLM has the route only with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."""
    rig.fake.loads_adapters = False
    rig.publish()
    with pytest.raises(ModelError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        await rig.policy.step()


# --- a server that dies -------------------------------------------------------------------------------------------------
async def test_a_server_killed_in_the_middle_of_a_reply_is_missed_at_once_and_found_again(rig: Rig) -> None:
    """The stream ends in one clear error, nothing is tried meanwhile, acts go on; back up, everything is loaded anew."""
    version = rig.publish()
    await rig.policy.step()
    async with rig.policy.lease() as lease:
        reply = await rig.hold(written(lease))
        await rig.port.down()
        with pytest.raises(ServerGone, match="vLLM at http://127"):
            await reply
        assert not rig.policy.can_write
        assert (await lease.choose(ACT)).chosen == 0
    with pytest.raises(ServerGone, match="does not answer"):
        await rig.policy.step()

    rig.fake.hold_after = None
    rig.fake.restart()
    await rig.port.up()
    await rig.policy.step()

    assert rig.policy.can_write
    assert (await rig.write()).text == "soon by post"
    assert len(rig.fake.names("load")) == 2
    assert rig.policy.champion == version


@pytest.mark.parametrize("fault", ["500", "error", "cut"])
async def test_a_request_that_fails_fails_alone(rig: Rig, fault: str) -> None:
    """One error of its own; another reply that is being written goes on, and the next one is written as if nothing had
    been. The control: where the server says that it is not well, the same fault means that it is gone."""
    await rig.policy.step()
    beside = await rig.hold(rig.write())
    rig.fake.hold_after, rig.fake.faults = None, [fault]
    with pytest.raises(RequestBroken, match="vLLM"):
        await rig.write()
    assert rig.policy.can_write
    rig.fake.release.set()
    assert (await beside).text == (await rig.write()).text == "soon by post"

    rig.fake.faults, rig.fake.is_well = [fault], False
    with pytest.raises(ServerGone, match="is not well: HTTP 503"):
        await rig.write()
    assert not rig.policy.can_write


async def test_a_server_that_fails_three_in_a_row_is_gone_until_it_is_found_well(rig: Rig) -> None:
    """Two, then a whole reply, then two: still there. Three: gone, whatever it says of its health; found by the next
    round."""
    await rig.policy.step()
    for faults, can_write in ((2, True), (2, True), (3, False)):
        rig.fake.faults = ["cut"] * faults
        for _ in range(faults):
            with pytest.raises(ModelError, match="before its end"):
                await rig.write()
        assert rig.policy.can_write is can_write
        if can_write:
            await rig.write()

    await rig.policy.step()
    assert (await rig.write()).text == "soon by post"


async def test_a_candidate_whose_probe_breaks_takes_no_words_from_the_champion(rig: Rig) -> None:
    """The server fails whenever the candidate is scored: that version waits, the champion goes on writing."""
    await rig.policy.step()
    candidate = publish(rig.adapters)
    async with rig.policy.lease(candidate):
        rig.fake.breaks_scores = True
        with pytest.raises(RequestBroken, match="HTTP 500 engine trouble"):
            await rig.policy.step()
        assert rig.policy.can_write
        assert (await rig.write()).text == "soon by post"


async def test_a_server_that_was_restarted_unseen_gets_its_adapters_back(rig: Rig) -> None:
    """Before the next round it knows no such model (the control); after it, it does."""
    rig.publish()
    await rig.policy.step()
    rig.fake.restart()
    with pytest.raises(ModelError, match="does not exist"):
        await rig.write()

    await rig.policy.step()

    assert (await rig.write()).text == "soon by post"
    assert [verb for verb, _ in rig.fake.calls if verb in ("load", "restart")] == ["load", "restart", "load"]


async def test_what_the_server_refuses_of_a_candidate_is_known_to_whoever_leads_it(rig: Rig) -> None:
    """So that a canary is withdrawn. Of the champion beside it nothing is known."""
    champion = rig.publish()
    await rig.policy.step()
    candidate = publish(rig.adapters, gain=0.4)
    async with rig.policy.lease(candidate):
        assert rig.policy.fault(candidate) == ""
        rig.fake.refusal = "rank 64 is greater than max_lora_rank 16"
        await rig.policy.step()
        assert "rank 64" in rig.policy.fault(candidate)
    assert (rig.policy.champion, rig.policy.fault(champion)) == (champion, "")
    assert (await rig.write()).token_ids


@pytest.mark.parametrize("status", [500, 503, 408, 429])
async def test_a_load_that_failed_by_the_way_is_tried_again_and_condemns_nobody(rig: Rig, status: int) -> None:
    """A proxy's hiccup is no word on the candidate, and the champion goes on writing. The control: a 400 is one."""
    await rig.policy.step()
    candidate = publish(rig.adapters)
    rig.fake.gains[candidate] = 0.2
    async with rig.policy.lease(candidate) as lease:
        rig.fake.refusal, rig.fake.refusal_status = "busy", status
        with pytest.raises(ModelError, match=f"did not load .*: HTTP {status} busy"):
            await rig.policy.step()
        assert rig.policy.fault(candidate) == ""
        assert rig.policy.can_write

        rig.fake.refusal, rig.fake.refusal_status = "", 400
        await rig.policy.step()
        assert (await written(lease)).token_ids
    refused = publish(rig.adapters)
    async with rig.policy.lease(refused):
        rig.fake.refusal = "rank 64"
        await rig.policy.step()
        assert "rank 64" in rig.policy.fault(refused)


async def test_versions_go_on_while_the_server_is_gone(rig: Rig) -> None:
    """Acts of a new version serve at once, its words when the server is back and has passed its probe."""
    await rig.policy.step()
    await rig.port.down()
    version = rig.publish()
    with pytest.raises(ServerGone):
        await rig.policy.step()
    assert (rig.policy.champion, rig.policy.can_write) == (version, False)
    with pytest.raises(ModelError, match="has no words of v000001: the server is gone"):
        await rig.write()

    await rig.port.up()
    await rig.policy.step()
    assert (await rig.write()).text == "soon by post"


async def test_waits_for_a_server_that_is_gone_grow_and_shrink_again(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Doubled up to a quarter of a minute; one line, not one an attempt; back to normal with the server."""
    waits: list[float] = []
    await rig.port.down()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 7:
            await rig.port.up()
        if len(waits) == 8:
            raise asyncio.CancelledError

    with caplog.at_level(logging.WARNING, "bot"), pytest.raises(asyncio.CancelledError):
        await rig.policy.follow(0.5, sleep)

    assert waits == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 0.5]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("approved replies until it is back")


UNREADABLE = {
    "no JSON": "{oops",
    "a proxy's page": "<html>502</html>",
    "no choices": '{"object": "x"}',
    "choices that are a number": '{"choices": 7}',
    "a list": "[1]",
    "a choice that is text": '{"choices": ["x"]}',
    "an error in words": '{"error": "engine trouble"}',
    "a nest": "[" * 20_000,
}
IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "a token beyond the vocabulary": {"token_ids": [10**6]},
    "a token beyond any integer": {"token_ids": [10**30]},
    "a negative token": {"token_ids": [-1]},
    "a token in letters": {"token_ids": ["a"]},
    "no log-probability": {"logprobs": {"token_logprobs": []}},
    "a log-probability of null": {"logprobs": {"token_logprobs": [None]}},
    "one that is no number": {"logprobs": {"token_logprobs": [float("nan")]}},
    "an infinite one": {"logprobs": {"token_logprobs": [float("-inf")]}},
    "a positive one": {"logprobs": {"token_logprobs": [3.0]}},
}


def lie(rig: Rig, named: str) -> str:
    """An event with which no reply can go on; but for what is wrong with it, it would say " soon"."""
    choice = {"token_ids": rig.fake.reply[:1], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "stop"}
    return UNREADABLE.get(named) or json.dumps({"choices": [choice | IMPOSSIBLE[named]]})


@pytest.mark.parametrize("named", [*UNREADABLE, *IMPOSSIBLE])
async def test_an_event_that_cannot_be_breaks_its_reply_and_three_in_a_row_are_a_server_that_is_gone(
    rig: Rig, named: str
) -> None:
    """Neither shown nor stored, and no error of ours. The controls: what is true is written before and after."""
    await rig.policy.step()
    assert (await rig.write()).text == "soon by post"

    rig.fake.says = [lie(rig, named)] * 3
    for _ in range(2):
        with pytest.raises(RequestBroken):
            await rig.write()
    was_there = rig.policy.can_write
    with pytest.raises(ServerGone, match=r"3\. in a row"):
        await rig.write()
    assert (was_there, rig.policy.can_write) == (True, False)

    await rig.policy.step()
    assert (await rig.write()).text == "soon by post"


@pytest.mark.parametrize("logprob", [0.0, -0.0, 1e-6])
async def test_a_word_that_is_certain_may_be_rounded_to_either_side_of_it(rig: Rig, logprob: float) -> None:
    """A softmax in fp32 ends at 0, or a hair above; what is stored is a probability."""
    choice = {"token_ids": rig.fake.reply[:1], "logprobs": {"token_logprobs": [logprob]}, "finish_reason": "stop"}
    await rig.policy.step()
    rig.fake.says = [json.dumps({"choices": [choice]})]

    assert (await rig.write()).logprobs == (0.0,)


@pytest.mark.parametrize("named", ["no JSON", "a token beyond the vocabulary", "a log-probability of null"])
async def test_a_person_gets_the_approved_answer_whatever_the_server_says_in_the_middle_of_a_reply(
    rig: Rig, tmp_path: Path, named: str
) -> None:
    """Through the real session: stored with its decision, and a retry is written."""
    await rig.policy.step()
    with open_session(tmp_path / "home") as chat:
        chat.session = chat.new_session(policy=rig.policy)
        chat.change(reply_mode="generated")
        rig.acts.acts = ["answer:card_arrival"] * 2
        rig.fake.says = [lie(rig, named)]

        answered = await chat.say("When will my card come?")
        assert answered.text == chat.domain.articles["card_arrival"].answer
        assert chat.decision_of(answered).generated is None
        assert (await chat.say("When will my card come?")).text == "soon by post"


async def test_a_person_gets_the_approved_answer_when_the_server_dies_and_words_again_when_it_is_back(
    rig: Rig, tmp_path: Path
) -> None:
    """Through the real session: one message for the broken reply, approved ones meanwhile, generated ones after it."""
    await rig.policy.step()
    async with AsyncExitStack() as stack:
        chat = stack.enter_context(open_session(tmp_path / "home"))
        chat.session = chat.new_session(policy=rig.policy)
        chat.change(reply_mode="generated")
        approved = chat.domain.articles["card_arrival"].answer
        rig.acts.acts = ["answer:card_arrival"] * 3

        broken = await rig.hold(drained(chat.stream("When will my card come?")))
        await rig.port.down()
        *_, message = await broken
        assert isinstance(message, Message)
        assert (message.text, message.role) == (approved, "bot")
        assert chat.decision_of(message).generated is None
        assert (await chat.say("When will my card come?")).text == approved

        rig.fake.hold_after = None
        await rig.port.up()
        await rig.policy.step()
        again = await chat.say("When will my card come?")
        assert again.text == "soon by post"
        assert chat.decision_of(again).generated is not None


async def test_a_person_whose_reply_the_server_fails_gets_the_approved_answer_and_the_next_one_is_written(
    rig: Rig, tmp_path: Path
) -> None:
    """Through the real session: the server stays, so a retry is enough."""
    await rig.policy.step()
    with open_session(tmp_path / "home") as chat:
        chat.session = chat.new_session(policy=rig.policy)
        chat.change(reply_mode="generated")
        rig.acts.acts = ["answer:card_arrival"] * 2
        rig.fake.faults = ["cut"]

        assert (await chat.say("When will my card come?")).text == chat.domain.articles["card_arrival"].answer
        assert (await chat.say("When will my card come?")).text == "soon by post"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A version whose files were touched never reaches a server."""
    adapters = AdapterStore(tmp_path / "adapters", SECRET)
    version = publish(adapters)
    (adapters.folder(version) / "causal/adapter_model.safetensors").write_bytes(b"other")

    with pytest.raises(AdapterError, match="SHA-256 differs"):
        RemoteAdapters(adapters, BASE_MODEL).of(version)
