"""A reply that nears its longest ends with its sentence: nothing is taken back, and what was drawn re-scores."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from bot.conversation import Generated
from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder
from bot.policy.endings import begins_sentence, read_on
from bot.policy.types import TextDelta, TextRequest
from bot.policy.writer import Writer
from tests.tiny_models import load_tiny_causal

PROMPT = json.dumps([["system", "Help."], ["user", "Where is my card?"]])
LONGEST, SOFT = 48, 12


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> CausalPart:
    return load_tiny_causal(tmp_path_factory.mktemp("causal"))


def asked(seed: int, sentence_from: int | None = SOFT) -> TextRequest:
    return TextRequest(PROMPT, ("In 5 days.",), seed, LONGEST, 0.8, sentence_from=sentence_from)


def pieces_of(causal: CausalPart, request: TextRequest) -> list[TextDelta]:
    return list(causal.write(request, BASE))


def whole(pieces: list[TextDelta]) -> Generated:
    """The record, whose text is what was shown: nothing less."""
    generated = pieces[-1].generated
    assert generated is not None
    assert "".join(piece.text for piece in pieces).strip() == generated.text
    return generated


@pytest.fixture(scope="module")
def seed(causal: CausalPart) -> int:
    """Of a reply whose sentence ends past the soft cap."""
    for number in range(400):
        reply = whole(pieces_of(causal, asked(number)))
        if reply.stop_reason == "length" and len(reply.token_ids) < LONGEST:
            return number
    pytest.fail("no sentence in 400 replies of made-up words")


def test_a_reply_ends_with_its_sentence_and_without_a_soft_cap_it_goes_on(causal: CausalPart, seed: int) -> None:
    """The control is the same reply, of which the short one is the beginning, token by token."""
    short, long = (whole(pieces_of(causal, asked(seed, soft))) for soft in (SOFT, None))
    count = len(short.token_ids)
    assert SOFT < count < len(long.token_ids)
    assert (short.token_ids, short.logprobs) == (long.token_ids[:count], long.logprobs[:count])
    assert long.text.startswith(short.text)
    assert short.text.rstrip("\"'’”»)]*_")[-1] in ".!?…。！？"
    assert short.stop_reason == "length"


@torch.no_grad()
def test_what_was_drawn_re_scores_whether_it_is_shown_or_not(causal: CausalPart, seed: int) -> None:
    """The learner finds each log-probability: the sentence's, and of the word that told that it had ended. The control:
    after other words the last one is another's."""
    row = whole(pieces_of(causal, asked(seed)))
    found = causal.token_logprobs([row], [BASE])[0][0]
    assert found.tolist() == pytest.approx(row.logprobs, abs=1e-4)
    assert causal.vocabulary.text_of(row.token_ids, "").strip() != row.text

    shifted = replace(row, token_ids=(*row.token_ids[1:-1], row.token_ids[0], row.token_ids[-1]))
    assert abs(float(causal.token_logprobs([shifted], [BASE])[0][0][-1]) - row.logprobs[-1]) > 1e-3


async def test_the_engine_ends_it_at_the_same_word(causal: CausalPart, seed: int) -> None:
    """Written in our own decoder as by transformers."""
    decoder = Decoder(causal.model.base, dtype=torch.float32, num_slots=1, num_positions=512)
    writer = Writer(causal.vocabulary, decoder)
    try:
        ours = whole([piece async for piece in writer.write(asked(seed), BASE, ())])
    finally:
        writer.close()
    theirs = whole(pieces_of(causal, asked(seed)))
    assert replace(ours, logprobs=()) == replace(theirs, logprobs=())
    assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("before", "text", "begins"),
    [
        ("In five days.", "In five days. It", True),
        ("In five days. ", "In five days. It", True),
        ("In five days.\n\n", "In five days.\n\nIt", True),
        ("Really?)", "Really?) **It", True),
        ("It costs £10.", "It costs £10. You", True),
        ("五天。", "五天。你", True),
        ("In five days.", "In five days.\n", False),
        ("It costs £10.", "It costs £10.5", False),
        ("cards etc.", "cards etc. and", False),
        ("Ask Mr.", "Ask Mr. Smith", False),
        ("Do this:\n1.", "Do this:\n1. Open", False),
        ("(In five days.", "(In five days.)", False),
        ("五天。", "五天。”", False),
        ("In five", "In five Days", False),
        ("", "It", False),
    ],
)
def test_a_sentence_has_ended_when_the_next_one_begins(before: str, text: str, begins: bool) -> None:
    """A point alone says little: it may belong to an amount, a list or a short word."""
    assert begins_sentence(before, text) is begins


class Spelled:
    """Token i is the i-th piece; 9 ends."""

    stop_ids = frozenset({9})
    pieces = ("In", " five", " days", ".", " It", " is")

    def text_of(self, token_ids: list[int], before: str) -> str:
        return "".join(self.pieces[token] for token in token_ids)


@pytest.mark.parametrize(
    ("sentence_from", "tokens", "text", "reason"),
    [
        (4, [0, 1, 2, 3, 4], "In five days.", "length"),
        (5, [0, 1, 2, 3, 4], "In five days. It", ""),
        (4, [0, 1, 2, 3], "In five days.", ""),
        (4, [0, 1, 2, 3, 9], "In five days.", "stop"),
        (None, [0, 1, 2, 3, 4, 5], "In five days. It is", "length"),
    ],
)
def test_from_the_soft_cap_on_no_sentence_is_begun(
    sentence_from: int | None, tokens: list[int], text: str, reason: str
) -> None:
    """Four tokens are shown; one that the model ends itself has stopped, and the hard cap ends it anyway."""
    request = TextRequest("", (), 0, max_tokens=6, sentence_from=sentence_from)
    before = Spelled().text_of(tokens[: len(tokens) - 1], "")
    assert read_on(Spelled(), before, tokens, request) == (text, reason)
