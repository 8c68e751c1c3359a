"""Our own forward pass gives what transformers and PEFT give, in whatever company and in whatever pieces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bot.conversation import TEXT_ROUNDING
from bot.errors import AdapterError
from bot.policy.adapted import BASE, lora_config
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder, is_supported, pick_dtype
from bot.policy.factors import Factors
from bot.policy.pieces import Piece
from tests.tiny_models import factors_of, load_tiny_causal, random_adapter

TEXTS = {
    name: tuple(torch.randint(0, 400, (length,), generator=torch.Generator().manual_seed(length)).tolist())
    for name, length in (("first", 10), ("second", 70), (BASE, 33))
}
"""What each version reads."""


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> CausalPart:
    """With two adapters of random weights."""
    part = load_tiny_causal(tmp_path_factory.mktemp("decoder"))
    for name, seed in (("first", 1), ("second", 2)):
        part.model.load(name, lora_config(4, 8), random_adapter(part.model, seed))
    return part


@pytest.fixture
def decoder(causal: CausalPart) -> Decoder:
    return decoder_of(causal)


def decoder_of(causal: CausalPart, dtype: torch.dtype = torch.float32) -> Decoder:
    """The first version merged, the second beside the base model."""
    built = Decoder(causal.model.base, dtype=dtype, num_slots=4, num_positions=200)
    built.add("first", built.prepare(factors_of(causal.model, "first", built)))
    built.add(
        "second",
        built.prepare(factors_of(causal.model, "second", built), merged=False),
    )
    return built


@torch.no_grad()
def reference(causal: CausalPart, name: str) -> Tensor:
    """Logits [T, V] of the version's text by transformers and PEFT."""
    found: Tensor = causal.model([name], input_ids=torch.tensor([TEXTS[name]])).logits[0]
    return found


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> bool:
    return bool((ours - theirs).abs().max() < tolerance)


def test_versions_in_one_pass_are_each_what_they_are_alone(causal: CausalPart, decoder: Decoder) -> None:
    """A merged one, one beside the base, and the base; prompts of different lengths and one that goes on by a token."""
    decoder.run([Piece(1, 0, TEXTS["second"][:-1], "second", 0)])
    pieces = [
        Piece(0, 0, TEXTS["first"], "first", 1),
        Piece(1, 69, TEXTS["second"][-1:], "second", 1),
        Piece(2, 0, TEXTS[BASE], BASE, 2),
    ]
    got = decoder.run(pieces)
    assert close(got[0], reference(causal, "first")[-1])
    assert close(got[1], reference(causal, "second")[-1])
    assert close(got[2:], reference(causal, BASE)[-2:])
    assert not close(got[0], decoder.run([Piece(0, 0, TEXTS["first"], BASE, 1)])[0], 0.1)  # the adapter does something


def test_merged_and_beside_are_one_policy(causal: CausalPart, decoder: Decoder) -> None:
    """Invariant 1 for whatever copy serves: 1e-4 in fp32."""
    decoder.add("merged", decoder.prepare(factors_of(causal.model, "second", decoder)))
    beside, merged = (decoder.run([Piece(0, 0, TEXTS["second"], name, 70)]) for name in ("second", "merged"))
    assert close(beside.log_softmax(-1), merged.log_softmax(-1))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_pieces_are_worth_the_whole(causal: CausalPart, decoder: Decoder, size: int) -> None:
    """However a text is cut, with another reply in the pass."""
    text = TEXTS["second"]
    for start in range(0, 70, size):
        got = decoder.run(
            [Piece(2, start, text[start : start + size], "second", 1), Piece(0, 0, TEXTS["first"], "first", 0)]
        )
    assert close(got[0], reference(causal, "second")[-1])


def test_what_a_slot_holds_can_be_kept_and_moved(causal: CausalPart, decoder: Decoder) -> None:
    """Into a slot that held something else. The control: at another version's keys the same token says otherwise."""
    text = TEXTS["second"]
    decoder.run([Piece(0, 0, text[:-1], "second", 0), Piece(3, 0, text[:-1], "first", 0)])
    decoder.write(2, 0, decoder.read(0, 0, 69))
    decoder.move(0, 1, 69)
    got = decoder.run([Piece(slot, 69, text[-1:], "second", 1) for slot in (1, 2, 3)])
    expected = reference(causal, "second")[-1]
    assert [close(row, expected) for row in got] == [True, True, False]


def test_in_bfloat16_numbers_are_within_what_rounding_is_said_to_change(causal: CausalPart) -> None:
    """Log-probabilities of all words that are not all but impossible."""
    got = decoder_of(causal, torch.bfloat16).run([Piece(0, 0, TEXTS["second"], "second", 70)]).log_softmax(-1)
    expected = reference(causal, "second").log_softmax(-1)
    likely = expected > -5
    assert 0 < (got - expected)[likely].abs().max() < TEXT_ROUNDING["bfloat16"]


def test_a_version_is_tried_out_beside_those_that_run(causal: CausalPart, decoder: Decoder) -> None:
    """With the same weights and a cache of its own."""
    decoder.run([Piece(0, 0, TEXTS["first"][:-1], "first", 0)])
    layers = decoder.prepare(factors_of(causal.model, "second", decoder))
    beside = decoder.beside(layers, "tried", num_positions=80)
    assert close(beside.run([Piece(0, 0, TEXTS["second"], "tried", 1)])[0], reference(causal, "second")[-1])
    assert decoder.versions == {BASE, "first", "second"}
    got = decoder.run([Piece(0, 9, TEXTS["first"][-1:], "first", 1)])
    assert close(got[0], reference(causal, "first")[-1])


def test_an_adapter_of_other_modules_is_refused(decoder: Decoder) -> None:
    """It would be left out in silence."""
    factors = {"lm_head": Factors(torch.zeros(1, 48), torch.zeros(9, 1), 1.0)}
    with pytest.raises(AdapterError, match="got one of lm_head"):
        decoder.prepare(factors)


def test_only_what_this_pass_is_equal_to_is_taken(causal: CausalPart) -> None:
    """Biases, windows and other architectures are not."""
    config = causal.model.base.config
    assert is_supported(config)
    for name, value in (("attention_bias", True), ("hidden_act", "gelu"), ("model_type", "gpt2")):
        was = getattr(config, name)
        setattr(config, name, value)
        assert not is_supported(config)
        setattr(config, name, was)


def test_the_arithmetic_is_chosen_by_name() -> None:
    """`auto` is one of the two."""
    cpu = torch.device("cpu")
    assert pick_dtype("bfloat16", cpu) is torch.bfloat16
    assert pick_dtype("float32", cpu) is torch.float32
    assert pick_dtype("auto", cpu) in {torch.bfloat16, torch.float32}
