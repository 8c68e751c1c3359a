"""Replies written together say what each would say alone, and nobody's leaving, stopping or failing is another's."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bot.conversation import Generated
from bot.errors import ModelError
from bot.policy.adapted import BASE, lora_config
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder
from bot.policy.pieces import Piece
from bot.policy.prefixes import BLOCK_TOKENS
from bot.policy.scheduler import Scheduler
from bot.policy.types import TextRequest
from bot.policy.writer import Writer
from tests.tiny_models import factors_of, load_tiny_causal, random_adapter

SYSTEM = "You are the assistant of a bank. Answer in few words, kindly, using only these facts: in 5 days."
ACTIVATED, PLAIN = "activated", "plain"


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> CausalPart:
    """With an adapter that begins at the assistant's header and one that acts from the first token on."""
    part = load_tiny_causal(tmp_path_factory.mktemp("writer"))
    for name, invocation, seed in ((ACTIVATED, part.vocabulary.header_ids, 1), (PLAIN, (), 2)):
        part.model.load(name, lora_config(4, 8, invocation=invocation), random_adapter(part.model, seed))
    return part


class Gated(Decoder):
    """A decoder whose passes wait while `gate` is empty, take time by a made-up clock, and can fail."""

    failure: BaseException | None = None
    begun: threading.Event
    spoiled_slot: int | None = None
    """Whose logits are NaN, once, when its second token is wanted."""
    largest = 0
    now = 0.0
    pass_s = 0.0

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        self.begun.set()
        assert self.gate.acquire(timeout=60)
        self.now += self.pass_s
        self.largest = max(self.largest, len({piece.slot for piece in pieces}))
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        logits_R_V = super().run(pieces).clone()
        for row, piece in enumerate(piece for piece in pieces if piece.num_logits):
            if piece.slot == self.spoiled_slot and len(piece.tokens) == 1:
                self.spoiled_slot, logits_R_V[row] = None, torch.nan
        return logits_R_V


class Rig:
    """A writer over the tiny model."""

    def __init__(self, causal: CausalPart, *, num_slots: int = 4, prefix_tokens: int = 4096) -> None:
        self.causal = causal
        self.decoder = Gated(causal.model.base, dtype=torch.float32, num_slots=num_slots, num_positions=512)
        self.decoder.gate = threading.Semaphore(1_000_000)  # type: ignore[attr-defined]
        self.decoder.begun = threading.Event()
        self.decoder.add(
            ACTIVATED,
            self.decoder.prepare(factors_of(causal.model, ACTIVATED, self.decoder)),
        )
        self.decoder.add(
            PLAIN,
            self.decoder.prepare(factors_of(causal.model, PLAIN, self.decoder), merged=False),
        )
        self.writer = Writer(
            causal.vocabulary, self.decoder, max_prefix_tokens=prefix_tokens, clock=lambda: self.decoder.now
        )

    def stream(self, request: TextRequest, version: str) -> AsyncIterator[object]:
        invocation = () if version == BASE else self.causal.model.invocation(version)
        return self.writer.write(request, version, invocation)

    async def write(self, request: TextRequest, version: str = BASE) -> Generated:
        """A whole reply, whose pieces must add up to its text."""
        pieces = [piece async for piece in self.stream(request, version)]
        generated = pieces[-1].generated  # type: ignore[attr-defined]
        assert "".join(piece.text for piece in pieces).strip() == generated.text  # type: ignore[attr-defined]
        return generated  # type: ignore[no-any-return]

    def long_one(self) -> int:
        """The number of a question whose answer is not soon over."""
        return next(number for number in range(50) if len(self.alone(ask(number)).token_ids) == 12)

    def alone(self, request: TextRequest, version: str = BASE) -> Generated:
        """The same by transformers and PEFT, one token of one reply at a time."""
        generated = list(self.causal.write(request, version))[-1].generated
        assert generated is not None
        return generated


@pytest.fixture
def rig(causal: CausalPart) -> object:
    built = Rig(causal)
    yield built
    built.writer.close()


def ask(number: int = 0, **overrides: object) -> TextRequest:
    """Each its own question and random stream."""
    prompt = json.dumps([["system", SYSTEM], ["user", f"Where is my card {'please ' * number}?"]])
    request = TextRequest(prompt, ("In 5 days.",), seed=number, max_tokens=12, chat=str(number))
    return replace(request, **overrides)  # type: ignore[arg-type]


def assert_same(ours: Generated, theirs: Generated) -> None:
    """Word for word; log-probabilities within 1e-4 nats."""
    assert replace(ours, logprobs=()) == replace(theirs, logprobs=())
    assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


async def test_replies_of_several_versions_in_one_batch_are_those_of_one_by_one(rig: Rig) -> None:
    """More replies than slots, of three versions, of which one begins to act at the header."""
    asked = [(ask(i, max_tokens=4 + 2 * i), (ACTIVATED, PLAIN, BASE)[i % 3]) for i in range(7)]
    written = await asyncio.gather(*(rig.write(request, version) for request, version in asked))
    for (request, version), ours in zip(asked, written, strict=True):
        assert_same(ours, rig.alone(request, version))
    assert rig.decoder.largest == 4
    assert (rig.writer.stats.num_replies, rig.writer.stats.num_running) == (7, 0)
    assert rig.writer.stats.num_tokens == sum(len(reply.token_ids) for reply in written)


async def test_log_probabilities_are_those_that_the_learner_finds(rig: Rig) -> None:
    """Under temperature and grounding mask."""
    written = [await rig.write(ask(i, temperature=0.5 + i), ACTIVATED) for i in range(2)]
    again, _ = rig.causal.token_logprobs(written, [ACTIVATED] * 2)
    for reply, logprobs_T in zip(written, again, strict=True):
        assert reply.logprobs == pytest.approx(logprobs_T[: len(reply.logprobs)].tolist(), abs=1e-4)


@pytest.mark.parametrize("version", [BASE, ACTIVATED, PLAIN])
async def test_a_reused_prompt_gives_what_a_read_one_gives(rig: Rig, version: str) -> None:
    """The second time, and for another question under the same system text."""
    first, again, other = [await rig.write(ask(number), version) for number in (0, 0, 1)]
    assert_same(again, first)
    assert_same(other, rig.alone(ask(1), version))
    assert rig.writer.stats.num_prefix_reused >= 2 * BLOCK_TOKENS


async def test_the_base_models_reading_serves_every_activated_version_and_no_plain_one(rig: Rig) -> None:
    """Keys hold who reads: a plain adapter after the base, and the base after it, are right."""
    await rig.write(ask(0), BASE)
    reused = [rig.writer.stats.num_prefix_reused]
    for version in (PLAIN, ACTIVATED):
        assert_same(await rig.write(ask(0), version), rig.alone(ask(0), version))
        reused.append(rig.writer.stats.num_prefix_reused)
    assert reused[0] == reused[1] == 0
    assert reused[2] >= BLOCK_TOKENS


@pytest.mark.parametrize("prefix_tokens", [4096, 0])
async def test_what_many_begin_with_who_ask_at_once_is_read_once(causal: CausalPart, prefix_tokens: int) -> None:
    """Three prompts of the same beginning wait for one step: the first reads it, the others take it over and read what is
    their own. The control keeps nothing: each reads all of its own. Words are the same both ways."""
    rig = Rig(causal, prefix_tokens=prefix_tokens)
    rig.decoder.gate = threading.Semaphore(0)  # type: ignore[attr-defined]
    other = ask(5, prompt=json.dumps([["system", "Another text."], ["user", "hello"]]))
    alike = [
        ask(number, prompt=json.dumps([["system", 3 * SYSTEM], ["user", f"card {number}?"]])) for number in range(3)
    ]
    tasks = [asyncio.create_task(rig.write(other))]
    assert await asyncio.to_thread(rig.decoder.begun.wait, 60)
    tasks += [asyncio.create_task(rig.write(request)) for request in alike]
    await asyncio.sleep(0)
    rig.decoder.gate.release(1_000)  # type: ignore[attr-defined]
    for request, ours in zip([other, *alike], await asyncio.gather(*tasks), strict=True):
        assert_same(ours, rig.alone(request))
    prompts = [causal.prompt_ids(request.prompt) for request in (other, *alike)]
    first_other = next(i for i, tokens in enumerate(zip(*prompts[1:], strict=False)) if len(set(tokens)) > 1)
    shared = first_other // BLOCK_TOKENS * BLOCK_TOKENS
    assert shared >= 2 * BLOCK_TOKENS
    spared = 2 * shared if prefix_tokens else 0
    stats = rig.writer.stats
    assert (stats.num_prefix_reused, stats.num_prefix_read) == (spared, sum(map(len, prompts)) - spared)
    rig.writer.close()


async def test_who_has_read_most_leads_wherever_others_that_end_have_moved_it(causal: CausalPart) -> None:
    """A reply of two tokens ends while the leader is in the middle of a block, and its follower takes over the free slot,
    before the leader: what both begin with is read once all the same."""
    rig = Rig(causal)
    rig.writer._scheduler = Scheduler(4, step_tokens=50)
    rig.decoder.gate = threading.Semaphore(0)  # type: ignore[attr-defined]
    prompts = [
        [["system", "x"], ["user", "hi"]],
        *([["system", 4 * SYSTEM], ["user", text]] for text in ("one?", "two?")),
    ]
    asked = [ask(i, prompt=json.dumps(prompt), max_tokens=2) for i, prompt in enumerate(prompts)]
    tasks = [asyncio.create_task(rig.write(asked[0]))]
    assert await asyncio.to_thread(rig.decoder.begun.wait, 60)
    for request in asked[1:]:
        tasks.append(asyncio.create_task(rig.write(request)))
        await asyncio.sleep(0)
    rig.decoder.gate.release(1_000)  # type: ignore[attr-defined]
    for request, ours in zip(asked, await asyncio.gather(*tasks), strict=True):
        assert_same(ours, rig.alone(request))
    lengths = [len(causal.prompt_ids(request.prompt)) for request in asked]
    assert lengths[1] > 100
    assert rig.writer.stats.num_prefix_read < sum(lengths) - lengths[1] + 3 * BLOCK_TOKENS
    rig.writer.close()


async def test_a_cache_smaller_than_what_prompts_begin_with_makes_nobody_wait_for_the_rest(causal: CausalPart) -> None:
    """Two blocks are kept of what four prompts have in common: three follow for these and read on by themselves, so the
    words begin as soon as 512 tokens a step allow."""
    rig = Rig(causal, prefix_tokens=2 * BLOCK_TOKENS)
    prompts = [json.dumps([["system", 4 * SYSTEM], ["user", f"{i}?"]]) for i in range(4)]
    asked = [ask(i, prompt=prompt, max_tokens=1) for i, prompt in enumerate(prompts)]
    rig.decoder.gate = threading.Semaphore(0)  # type: ignore[attr-defined]
    tasks = [asyncio.create_task(rig.write(request)) for request in asked]
    assert await asyncio.to_thread(rig.decoder.begun.wait, 60)
    rig.decoder.gate.release(1_000)  # type: ignore[attr-defined]
    for request, ours in zip(asked, await asyncio.gather(*tasks), strict=True):
        assert_same(ours, rig.alone(request))
    stats = rig.writer.stats
    assert 512 < 3 * (len(causal.prompt_ids(prompts[0])) - 2 * BLOCK_TOKENS) < 1024
    assert (stats.num_steps, stats.num_prefix_blocks, stats.num_prefix_evicted) == (3, 2, 0)
    rig.writer.close()


async def test_keys_without_the_version_would_be_wrong(rig: Rig) -> None:
    """The control: with one name for all readers, the plain adapter is given the base model's keys."""
    prefixes = rig.writer._prefixes
    find, keep = prefixes.find, prefixes.keep
    prefixes.find = lambda reader, tokens: find("all", tokens)  # type: ignore[method-assign]
    prefixes.keep = lambda reader, tokens, make: keep("all", tokens, make)  # type: ignore[method-assign]
    await rig.write(ask(0), BASE)
    spoiled = await rig.write(ask(0), PLAIN)
    honest = rig.alone(ask(0), PLAIN)
    assert spoiled.logprobs[:1] != pytest.approx(honest.logprobs[:1], abs=1e-3)


async def test_without_reuse_replies_are_the_same(causal: CausalPart) -> None:
    """And nothing is kept."""
    rig = Rig(causal, prefix_tokens=0)
    for _ in range(2):
        assert_same(await rig.write(ask(2), ACTIVATED), rig.alone(ask(2), ACTIVATED))
    assert (rig.writer.stats.num_prefix_reused, rig.writer.stats.num_prefix_blocks) == (0, 0)
    rig.writer.close()


async def test_a_dropped_version_takes_its_prefixes_along(rig: Rig) -> None:
    """The base model's stay."""
    await rig.write(ask(0), PLAIN)
    await rig.write(ask(0), BASE)
    rig.writer.drop(PLAIN)
    with pytest.raises(ModelError, match="expected one of the loaded versions, got plain"):
        await rig.write(ask(0), PLAIN)
    reused = rig.writer.stats.num_prefix_reused
    await rig.write(ask(0), BASE)
    assert rig.writer.stats.num_prefix_reused > reused
    assert rig.writer.stats.num_prefix_blocks > 0


async def test_a_reply_that_nobody_waits_for_frees_its_place(causal: CausalPart) -> None:
    """One slot: the next reply gets it, and says what it would have said."""
    rig = Rig(causal, num_slots=1)
    async with aclosing(rig.stream(ask(0, max_tokens=400), BASE)) as pieces:  # type: ignore[type-var]
        await anext(pieces)
    assert_same(await rig.write(ask(1)), rig.alone(ask(1)))
    rig.writer.close()  # After its step, which counts at its end.
    assert rig.writer.stats.num_running == 0


async def test_a_reply_that_never_began_in_time_is_an_error(causal: CausalPart) -> None:
    """One slot, and passes of 5 seconds: the second reply waits for twelve of them."""
    rig = Rig(causal, num_slots=1)
    rig.decoder.pass_s, rig.decoder.gate = 5.0, threading.Semaphore(0)  # type: ignore[attr-defined]
    number = rig.long_one()
    first = asyncio.create_task(rig.write(ask(number)))
    late = asyncio.create_task(rig.write(ask(number + 1, deadline_s=5.0)))
    await asyncio.sleep(0)
    rig.decoder.gate.release(1_000)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="no reply within 5 s"):
        await late
    assert_same(await first, rig.alone(ask(number)))
    rig.writer.close()


async def test_a_reply_that_began_ends_at_its_deadline(rig: Rig) -> None:
    """Passes of 5 seconds, 7 seconds to go: at the third step it has two tokens and is over time."""
    rig.decoder.pass_s = 5.0
    request = ask(rig.long_one(), deadline_s=7.0)
    cut, whole = await rig.write(request), rig.alone(request)
    assert cut.stop_reason == "deadline"
    assert cut.token_ids == whole.token_ids[:2]


async def test_stop_strings_are_never_shown(rig: Rig) -> None:
    """The text up to there, streamed and whole alike; its tokens keep their log-probabilities."""
    whole = rig.alone(ask(3))
    stop = whole.text[4:7]
    cut = await rig.write(ask(3, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)].strip()
    assert cut.stop_reason == "stop"
    assert cut.logprobs == pytest.approx(whole.logprobs[: len(cut.logprobs)], abs=1e-4)


async def test_a_failed_step_is_told_to_its_replies_and_to_nobody_after(rig: Rig) -> None:
    """The writer goes on."""
    rig.decoder.failure = RuntimeError("no memory")
    with pytest.raises(ModelError, match="the writer failed: no memory"):
        await rig.write(ask(0))
    assert_same(await rig.write(ask(0)), rig.alone(ask(0)))


async def test_a_reply_of_which_no_word_can_be_drawn_fails_alone(rig: Rig) -> None:
    """Its logits are NaN; those beside it in the batch say what they would have said, and its slot is free again."""
    rig.decoder.spoiled_slot, rig.decoder.gate = 1, threading.Semaphore(0)  # type: ignore[attr-defined]
    asked = [asyncio.create_task(rig.write(ask(number))) for number in (0, 1, 2)]
    await asyncio.sleep(0)
    rig.decoder.gate.release(1_000)  # type: ignore[attr-defined]
    written = await asyncio.gather(*asked, return_exceptions=True)
    (spoiled,) = [number for number, one in enumerate(written) if isinstance(one, ModelError)]
    assert "no next word" in str(written[spoiled])
    for number in {0, 1, 2} - {spoiled}:
        assert_same(written[number], rig.alone(ask(number)))  # type: ignore[arg-type]
    assert_same(await rig.write(ask(spoiled)), rig.alone(ask(spoiled)))


async def test_a_prompt_that_does_not_fit_is_refused_for_its_reply_alone(rig: Rig) -> None:
    """512 positions; and a seed that is none, for the same reason. The reply beside them says what it would have said."""
    long = ask(prompt=json.dumps([["system", SYSTEM], ["user", "please " * 600]]))
    asked = [rig.write(one) for one in (long, ask(seed=[1]), ask(0))]
    refused, odd, beside = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(refused, ModelError)
    assert "prompt: expected at most 512 tokens, got" in str(refused)
    assert isinstance(odd, ModelError)
    assert isinstance(beside, Generated)
    assert_same(beside, rig.alone(ask(0)))


async def test_a_command_that_fails_stops_neither_its_caller_nor_the_writer(rig: Rig) -> None:
    """A version that cannot be freed."""

    def drop(version: str) -> None:
        raise RuntimeError("cannot be freed")

    rig.decoder.drop = drop  # type: ignore[method-assign]
    await asyncio.to_thread(rig.writer.drop, PLAIN)
    async with asyncio.timeout(60):
        assert_same(await rig.write(ask(0)), rig.alone(ask(0)))


async def test_replies_are_given_up_even_when_their_slots_cannot_be_cleared(rig: Rig) -> None:
    """A step fails, and so does each move of a slot: everybody is told, and the writer goes on."""

    def move(source: int, target: int, length: int) -> None:
        raise RuntimeError("cannot be moved")

    rig.decoder.gate = threading.Semaphore(0)  # type: ignore[attr-defined]
    rig.decoder.move, rig.decoder.failure = move, RuntimeError("no memory")  # type: ignore[method-assign]
    rig.writer._inbox.put(lambda: rig.decoder.gate.release(1_000_000))  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        told = await asyncio.gather(*(rig.write(ask(i)) for i in range(3)), return_exceptions=True)
        assert "the writer failed: no memory" in str(told[0])
        assert_same(await rig.write(ask(0)), rig.alone(ask(0)))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_writer_whose_thread_ended_leaves_no_stream_waiting(rig: Rig) -> None:
    """Those that were being written, and those who ask afterwards."""
    rig.decoder.failure = SystemExit()
    async with asyncio.timeout(60):
        for _ in range(2):
            with pytest.raises(ModelError, match="closed"):
                await rig.write(ask(0))


async def test_a_closed_writer_says_so(rig: Rig) -> None:
    """To who is in the middle of a reply, and to who asks afterwards."""
    rig.decoder.gate = threading.Semaphore(3)  # type: ignore[attr-defined]
    half = asyncio.create_task(rig.write(ask(rig.long_one())))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(rig.writer.close))
    while not closing.done():
        if rig.writer._closed:
            rig.decoder.gate.release()  # type: ignore[attr-defined]
        await asyncio.to_thread(int)
    with pytest.raises(ModelError, match="closed"):
        await half
    with pytest.raises(ModelError, match="closed"):
        await rig.write(ask(0))
