"""Grounding: text sampled under the mask carries no amount, number or link that its sources do not hold."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from bot.policy.grounding import GroundingMask, amounts, ungrounded
from bot.policy.types import TextRequest
from tests.tiny_models import load_tiny_causal

STOP = "<end>"
WORDS = (
    " the",
    " a",
    "Card",
    " card",
    "s",
    "-",
    " -",
    ".",
    ",",
    ":",
    "/",
    " ",
    "\n",
    "'",
    "(",
    ")",
    "!",
    "_",
    "..",
    ". ",
)
GUARDED = (
    *"0123456789", *(f" {digit}" for digit in "0125"), "10", "00", " 100", "1\n", "5 ", "£", " £", "€", "$", "%", " %",
    "@", "http", "https", "://", "www", "www.", ".com", ".co", "com", "org", "e.g", "1st", "x1", "٣",
)  # fmt: skip
VOCABULARY = (STOP, "<pad>", "", "\ufffd", *WORDS, *GUARDED)
MASK = GroundingMask(VOCABULARY, special_ids=[0, 1], stop_ids=[0])
SOURCES = st.lists(
    st.sampled_from(
        ["It costs £10.50 or £100.", "5 days", "between 10 and 100", "open 24/7 until 18:30", "2% of €25", "2 % above £5", "no numbers",
         "10,000 a day", "TR-1001", "see www.lark.example or a@lark.example", "on 2026-11-22", "$5", "1.", ""]
    ),
    max_size=3,
)  # fmt: skip


def sample(sources: list[str], seed: int, length: int = 25) -> tuple[str, bool]:
    """Uniformly random text under the mask, and whether it ended by itself with a choice left."""
    draw, known, text = random.Random(seed), amounts(" ".join(sources)), ""
    for _ in range(length):
        ids = np.flatnonzero(MASK.allowed(text, known))
        token = VOCABULARY[draw.choice(ids.tolist())]
        if token == STOP:
            return text, len(ids) > 1
        text += token
    return text, False


def allowed(text: str, *sources: str) -> set[str]:
    """What may come next."""
    return {VOCABULARY[i] for i in np.flatnonzero(MASK.allowed(text, amounts(" ".join(sources))))}


@settings(max_examples=300, deadline=None)
@given(sources=SOURCES, seed=st.integers(0, 2**32))
def test_sampled_text_that_ended_carries_nothing_ungrounded(sources: list[str], seed: int) -> None:
    """Whatever a model would like to say: here it likes everything equally."""
    text, ended = sample(sources, seed)
    if ended:
        assert ungrounded(text, sources) == []


@settings(max_examples=300, deadline=None)
@given(sources=SOURCES, seed=st.integers(0, 2**32))
def test_only_the_last_number_of_a_text_cut_short_may_be_unfinished(sources: list[str], seed: int) -> None:
    """At any length; the session then shows the approved answer instead."""
    text, _ = sample(sources, seed)
    assert all(text.rstrip(".,:/-").endswith(odd) for odd in ungrounded(text, sources))


def test_without_the_mask_the_same_text_is_full_of_inventions() -> None:
    """The control: the check sees what the mask forbids."""
    draw = random.Random(0)
    texts = ["".join(draw.choices(VOCABULARY[4:], k=25)) for _ in range(50)]
    assert all(ungrounded(text, ["no numbers"]) for text in texts)


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("ab 019.,:/-%£€@w\n"), max_size=12), sources=SOURCES)
def test_there_is_no_dead_end(text: str, sources: list[str]) -> None:
    """Something may always come next, if only the end."""
    assert MASK.allowed(text, amounts(" ".join(sources))).any()


def test_an_amount_must_be_completed() -> None:
    """£10 of £100 is another amount."""
    assert allowed("It costs £10", "£100") == {"0", "00"} - {"00"}
    assert allowed("It costs £1", "£100") == {"0", "00"}
    assert {STOP, " the", "."} <= allowed("It costs £100", "£100")
    assert {STOP, "0"} <= allowed("It costs £10", "£100 or £10")


@pytest.mark.parametrize("amount", ["£2,000", "0.5", "24/7", "18:30", "10-15", "2.5%", "1,000,000"])
def test_an_amount_of_a_source_can_be_written_character_by_character(amount: str) -> None:
    """As vocabularies do that have no token of two digits. The control: another one cannot, though it begins alike."""

    def can_write(wanted: str) -> bool:
        source = f"It is {amount} here."
        return all(char in allowed(f"It is {wanted[:i]}", source) for i, char in enumerate(wanted)) and (
            {STOP, " the"} <= allowed(f"It is {wanted}", source)
        )

    assert can_write(amount)
    assert not can_write(f"{amount[:-1]}9")
    assert not can_write(amount[: len(amount) // 2])


def test_a_per_cent_sign_may_stand_apart_where_the_source_has_it_so() -> None:
    """The number alone may be said too; a sign that the source does not give may not. The check after writing agrees."""
    assert {" %", " the"} <= allowed("It costs 2", "It costs 2 % above £5.")
    assert " the" in allowed("It costs 2 %", "It costs 2 % above £5.")
    assert " %" not in allowed("It takes 2", "It takes 2 days.")
    assert ungrounded("2 % or 2", ["It costs 2 % above £5."]) == []
    assert ungrounded("2 %", ["It takes 2 days."]) == ["2 %"]


def test_a_number_of_the_sources_gets_no_sign_that_they_do_not_give_it() -> None:
    """10 days are neither £10 nor 10 %."""
    assert "£" not in allowed("It costs ", "10 days")
    assert "%" not in allowed("It takes 10", "10 days")
    assert "0" not in allowed("It takes 10", "10 days")
    assert ungrounded("£10 or 10%", ["10 days"]) == ["£10", "10%"]


def test_an_amount_may_lose_its_sign() -> None:
    """`the 100` of £100 is still what the source says."""
    assert ungrounded("that is 100", ["It costs £100"]) == []


def test_a_break_does_not_finish_an_unfinished_number() -> None:
    """Nor does it hide the part before it."""
    assert allowed("1\n", "100 and 1\n") != set()
    assert "\n" not in allowed("It costs £10", "£100")
    assert "0" not in allowed("10\n", "10 or 100")
    assert ungrounded("1\n00", ["100"]) == ["1", "00"]


@pytest.mark.parametrize("text", ["lark.", "lark..", "lark-.", "www.lark."])
def test_no_word_may_follow_a_dot_directly(text: str) -> None:
    """It would be a link."""
    assert not {"com", "org", "Card", "s"} & allowed(text, "lark.com is our page")
    assert " card" in allowed(text, "")


@pytest.mark.parametrize("token", ["http", "https", "://", "www", "www.", ".com", ".co", "@", "e.g"])
def test_pieces_of_links_are_never_written(token: str) -> None:
    """Also when a source has one: it is shown beside the reply."""
    assert token not in allowed("see ", "see www.lark.example or a@lark.example")


@pytest.mark.parametrize(
    ("text", "odd"),
    [
        ("Pay £20.", ["£20"]),
        ("Call 0800 123", ["0800", "123"]),
        ("See www.evil.example/login", ["www.evil.example/login"]),
        ("See https://evil", ["https://evil"]),
        ("Write to eve@evil", ["eve@evil"]),
        ("In ٣ days", ["٣"]),
        ("It costs £10.50, takes 5 days.", []),
        ("", []),
    ],
)
def test_inventions_are_found(text: str, odd: list[str]) -> None:
    """Amounts, numbers in any script, links and addresses."""
    assert ungrounded(text, ["It costs £10.50.", "5 days"]) == odd


def test_special_and_broken_tokens_are_never_written() -> None:
    """Only the end token may come; a piece of a character could become a digit."""
    assert not {"<pad>", "", "\ufffd"} & allowed("Hello", "5")
    assert STOP in allowed("Hello", "5")


@settings(max_examples=15, deadline=None)
@example(seed=679615094, source="A transfer of £10.50 or £100 is free.")  # cut at "£10."
@given(seed=st.integers(0, 2**32), source=st.sampled_from(["A transfer of £10.50 or £100 is free.", "In 5 days."]))
def test_a_model_that_writes_at_random_invents_nothing(seed: int, source: str, writer: CausalPart) -> None:
    """The same through a real model, tokenizer and decoder, at a temperature that flattens everything.

    Where the cap cuts an amount ("£10." of "£10.50") the end is left odd: such a reply is never kept, see `bot.session`.
    """
    prompt = '[["system", "Facts: £10.50, £20, 7 days"], ["user", "what does it cost?"]]'
    request = TextRequest(prompt, (source,), seed, max_tokens=40, temperature=5.0)
    generated = list(writer.write(request, BASE))[-1].generated
    assert generated is not None
    whole = generated.text.rstrip(".,:/-")
    assert all(whole.endswith(odd) for odd in ungrounded(generated.text, [source]))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> CausalPart:
    """A tiny causal LM."""
    folder: Path = tmp_path_factory.mktemp("writer")
    return load_tiny_causal(folder)
