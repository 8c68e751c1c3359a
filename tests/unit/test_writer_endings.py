"""Where replies end: stop strings, caps and circles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from bot.policy.endings import cut_at_stop, is_in_circles, last_place, num_held_back, read_on
from bot.policy.sampling import BLOCK, draw, masked_logprobs
from bot.policy.types import TextRequest


class Letters:
    """Token i is the i-th letter; 0 ends."""

    stop_ids = frozenset({0})

    def text_of(self, token_ids: Sequence[int], before: str) -> str:
        return "".join(chr(96 + token) for token in token_ids)


def request(max_tokens: int = 30, stop: tuple[str, ...] = ()) -> TextRequest:
    return TextRequest("", (), 0, max_tokens, stop=stop)


@pytest.mark.parametrize(
    ("tokens", "asked", "expected"),
    [
        ([8, 9], request(), ("hi", "")),
        ([8, 9, 0], request(), ("h", "stop")),
        ([8, 9], request(max_tokens=2), ("hi", "length")),
        ([8, 9, 10], request(stop=("ij",)), ("h", "stop")),
        ([1, 2, 3] * 4, request(), ("abc" * 4, "repetition")),
        ([1, 2, 3] * 4, request(max_tokens=12), ("abc" * 4, "length")),
    ],
)
def test_a_reply_ends_for_one_reason(tokens: list[int], asked: TextRequest, expected: tuple[str, str]) -> None:
    """The text before an end token is what it was."""
    assert read_on(Letters(), "h", tokens, asked) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([5] * 12, True),
        ([5] * 11, False),
        ([1, 2, 3, 4, 5] * 3, True),
        ([9, 9, *([1, 2, 3, 4, 5] * 3)], True),
        ([1, 2, 3, 4, 5] * 2, False),
        ([*([1, 2, 3, 4, 5] * 3), 7], False),
        (list(range(80)), False),
    ],
)
def test_circles_are_cycles_at_the_end(tokens: list[int], expected: bool) -> None:
    """Three times over, and twelve tokens at least."""
    assert is_in_circles(tokens) is expected


def test_what_may_become_a_stop_string_is_not_shown_yet() -> None:
    """The first of several stop strings counts."""
    assert cut_at_stop("Hello. Bye. End", ("End", "Bye")) == ("Hello. ", True)
    assert cut_at_stop("Hello", ()) == ("Hello", False)
    assert [num_held_back(text, ("</s>", "User:")) for text in ("Hi", "Hi <", "Hi </s", "Us", "User")] == [
        0,
        1,
        3,
        2,
        4,
    ]
    assert num_held_back("Hi", ()) == 0


def test_the_version_begins_at_the_last_invocation() -> None:
    """Earlier ones are history; without any it begins at the first token."""
    assert last_place([7, 1, 2, 7, 1, 2, 9], (1, 2)) == 4
    assert last_place([7, 3], (1, 2)) == last_place([1, 2], ()) == 0


def test_a_token_is_drawn_by_its_share_of_the_unit_interval() -> None:
    """Probabilities 1/4, 0 (masked), 3/4: 0.24 is the first, 0.26 and 0.999999 the third."""
    logits = torch.tensor([1.0, 50.0, 3.0]).log().expand(3, 3)
    allowed = torch.tensor([[True, False, True]] * 3)
    logprobs = masked_logprobs(logits, torch.ones(3, 1), allowed)
    assert logprobs[0].exp().tolist() == pytest.approx([0.25, 0.0, 0.75])
    tokens, drawn = draw(logits, torch.ones(3, 1), allowed, [0.24, 0.26, 0.999999])
    assert tokens == [0, 2, 2]
    assert drawn == pytest.approx([math.log(0.25), math.log(0.75), math.log(0.75)])


@pytest.mark.parametrize("size", [3, BLOCK, 2 * BLOCK + 1])
def test_a_row_that_is_no_distribution_is_told_by_nan_and_spoils_no_other(size: int) -> None:
    """NaN, +inf, -inf everywhere, nothing allowed: each between rows of which the one allowed token is drawn. A forbidden
    NaN harms nobody."""
    logits, allowed = torch.zeros(6, size), torch.ones(6, size, dtype=torch.bool)
    logits[1, 0] = torch.nan
    logits[2, -1] = torch.inf
    logits[3] = -torch.inf
    allowed[4] = False
    for row in (0, 5):
        allowed[row] = False
        allowed[row, 1] = True
        logits[row, 0] = torch.nan
    tokens, drawn = draw(logits, torch.ones(6, 1), allowed, [0.5] * 6)
    assert [tokens[0], tokens[5]] == [1, 1]
    assert [drawn[0], drawn[5]] == [0.0, 0.0]
    assert all(math.isnan(logprob) for logprob in drawn[1:5])
    assert all(0 <= token < size for token in tokens)


def test_a_draw_falls_on_the_same_token_wherever_it_lies() -> None:
    """Over several blocks and an end that fills none, beside a cumulative sum of all probabilities one by one."""
    size, generator = 5 * BLOCK + 7, torch.Generator().manual_seed(0)
    logits = torch.randn(64, size, generator=generator) * 3
    allowed = torch.rand(64, size, generator=generator) > 0.3
    allowed[0] = False
    allowed[0, -1] = True  # All that is left is the very last token.
    temperature = torch.full((64, 1), 0.7)
    uniforms = torch.rand(64, generator=generator, dtype=torch.float64).tolist()
    logprobs = masked_logprobs(logits, temperature, allowed)
    cumulative = logprobs.double().exp().cumsum(-1)
    expected = [int((row > u * row[-1]).nonzero()[0]) for row, u in zip(cumulative, uniforms, strict=True)]
    tokens, drawn = draw(logits, temperature, allowed, uniforms)
    assert tokens == expected
    assert drawn == pytest.approx([float(row[t]) for row, t in zip(logprobs, tokens, strict=True)], abs=1e-5)
