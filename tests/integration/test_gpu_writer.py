"""Replies written on a CUDA device carry the log-probabilities that the learner finds, there and on a CPU."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
import torch

from bot.conversation import TEXT_ROUNDING, Generated
from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder
from bot.policy.types import TextRequest
from bot.policy.writer import Writer
from tests.gpu_rig import ACTIVATED, CLOSE, CPU, CUDA, PLAIN, causal_on
from tests.tiny_models import factors_of, tiny_causal

pytestmark = pytest.mark.gpu

VERSIONS = (ACTIVATED, PLAIN, BASE)
SYSTEM = "You are the assistant of a bank. Answer in few words, kindly, using only these facts: in 5 days."


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[torch.device, CausalPart]:
    folder = tiny_causal(tmp_path_factory.mktemp("gpu") / "causal")
    return {device: causal_on(device, folder) for device in (CPU, CUDA)}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def writer(parts: dict[torch.device, CausalPart], request: pytest.FixtureRequest) -> Iterator[Writer]:
    built = writer_over(parts[CUDA], request.param)
    yield built
    built.close()


def writer_over(causal: CausalPart, dtype: torch.dtype) -> Writer:
    decoder = Decoder(causal.model.base, dtype=dtype, num_slots=4, num_positions=512)
    for name in (ACTIVATED, PLAIN):
        factors = factors_of(causal.model, name, decoder)
        decoder.add(name, decoder.prepare(factors, merged=name == ACTIVATED))
    return Writer(causal.vocabulary, decoder)


def ask(number: int) -> TextRequest:
    prompt = json.dumps([["system", SYSTEM], ["user", f"Where is my card {'please ' * number}?"]])
    return TextRequest(prompt, ("In 5 days.",), seed=number, max_tokens=6 + 4 * number, chat=str(number))


async def write(writer: Writer, causal: CausalPart, number: int) -> Generated:
    """A whole reply, whose pieces must add up to its text."""
    version = VERSIONS[number % 3]
    invocation = () if version == BASE else causal.model.invocation(version)
    pieces = [piece async for piece in writer.write(ask(number), version, invocation)]
    generated = pieces[-1].generated
    assert generated is not None
    assert "".join(piece.text for piece in pieces).strip() == generated.text
    return generated


@pytest.mark.parametrize("learner", [CPU, CUDA], ids=str)
async def test_what_was_stored_is_what_the_learner_finds(
    parts: dict[torch.device, CausalPart], writer: Writer, learner: torch.device
) -> None:
    """Nine replies of three versions in four slots: in float32 as close as sums in another order are, in bfloat16 within
    what is accepted of that arithmetic. The control: another version's reading is further off."""
    written = await asyncio.gather(*(write(writer, parts[CUDA], number) for number in range(9)))
    tolerance = max(CLOSE, TEXT_ROUNDING[str(writer.decoder.dtype).removeprefix("torch.")])
    assert errors(parts[learner], written, shift=0) < tolerance
    assert errors(parts[learner], written, shift=1) > 2 * tolerance


@torch.no_grad()
def errors(causal: CausalPart, written: list[Generated], shift: int) -> float:
    """Largest difference, nats; `shift`: read by the version so many places further on."""
    found = []
    for number, reply in enumerate(written):
        logprobs_T = causal.token_logprobs([reply], [VERSIONS[(number + shift) % 3]])[0][0].cpu()
        found.append(float((logprobs_T - torch.tensor(reply.logprobs)).abs().max()))
    return max(found)


async def test_words_are_those_of_a_cpu(parts: dict[torch.device, CausalPart]) -> None:
    """In float32, with the same random numbers; and a prompt that was read before gives what a read one gives."""
    replies = []
    for device in (CPU, CUDA):
        writer = writer_over(parts[device], torch.float32)
        replies += [
            await asyncio.gather(*(write(writer, parts[device], number) for number in range(6))) for _ in range(2)
        ]
        assert writer.stats.num_prefix_reused > 0
        writer.close()
    assert all([reply.token_ids for reply in batch] == [reply.token_ids for reply in replies[0]] for batch in replies)
