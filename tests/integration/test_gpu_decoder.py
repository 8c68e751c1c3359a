"""On a CUDA device the decoder gives transformers' numbers of a CPU, by graphs as without, and waits for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bot.conversation import TEXT_ROUNDING
from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder, pick_dtype
from bot.policy.graphs import MAX_GRAPHS
from bot.policy.pieces import Piece
from tests.gpu_rig import ACTIVATED, CLOSE, CPU, CUDA, PLAIN, causal_on, counted_waits
from tests.tiny_models import factors_of, tiny_causal

pytestmark = pytest.mark.gpu

TEXTS = {
    name: tuple(torch.randint(0, 400, (length,), generator=torch.Generator().manual_seed(length)).tolist())
    for name, length in ((PLAIN, 10), (ACTIVATED, 70), (BASE, 33))
}
"""What each version reads, from its first token on."""
NUM_STEPS = 70
"""More than a span: a reply goes on from one graph to the next."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_causal(tmp_path_factory.mktemp("gpu") / "causal")


@pytest.fixture(scope="module")
def reference(folder: Path) -> dict[str, Tensor]:
    """Logits [T, V] of each text by transformers and PEFT on the CPU."""
    part = causal_on(CPU, folder)
    with torch.no_grad():
        return {name: part.model([name], input_ids=torch.tensor([ids])).logits[0] for name, ids in TEXTS.items()}


@pytest.fixture(scope="module")
def causal(folder: Path) -> CausalPart:
    return causal_on(CUDA, folder)


def decoder_of(causal: CausalPart, dtype: torch.dtype = torch.float32, *, graphs: bool = True) -> Decoder:
    """The activated version merged, the plain one beside the base model."""
    built = Decoder(causal.model.base, dtype=dtype, num_slots=4, num_positions=256)
    for name in (ACTIVATED, PLAIN):
        factors = factors_of(causal.model, name, built)
        built.add(name, built.prepare(factors, merged=name == ACTIVATED))
    if not graphs:
        built._graphs = None
    return built


def prompts(**num_logits: int) -> list[Piece]:
    """All three texts as one pass, each in a slot of its own."""
    return [Piece(slot, 0, TEXTS[name], name, num_logits.get(name, 1)) for slot, name in enumerate(TEXTS)]


def steps(decoder: Decoder, version: str, num_slots: int, num_steps: int = NUM_STEPS) -> list[Tensor]:
    """Logits [S, V] of replies of one version that go on, each by its own tokens."""
    for slot in range(num_slots):
        decoder.run([Piece(slot, 0, TEXTS[BASE][: 20 + slot], version, 1)])
    found = []
    for step in range(num_steps):
        pieces = [Piece(s, 20 + s + step, ((7 * step + s) % 400,), version, 1) for s in range(num_slots)]
        found.append(decoder.run(pieces))
    return found


def off_by(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.cpu() - theirs).abs().max())


def test_versions_in_one_pass_are_what_transformers_computes_on_a_cpu(
    causal: CausalPart, reference: dict[str, Tensor]
) -> None:
    """In float32; a merged one, one beside the base, and the base. The control: they are not each other's."""
    got = decoder_of(causal).run(prompts())
    for row, name in zip(got, TEXTS, strict=True):
        assert off_by(row, reference[name][-1]) < CLOSE
    assert off_by(got[0], reference[BASE][-1]) > 0.1


def test_in_bfloat16_words_are_within_what_rounding_is_said_to_change(
    causal: CausalPart, reference: dict[str, Tensor]
) -> None:
    """Log-probabilities of all words that are not all but impossible; `auto` means this arithmetic here."""
    assert pick_dtype("auto", CUDA) is torch.bfloat16
    got = decoder_of(causal, torch.bfloat16).run([Piece(0, 0, TEXTS[ACTIVATED], ACTIVATED, 70)]).log_softmax(-1).cpu()
    expected = reference[ACTIVATED].log_softmax(-1)
    likely = expected > -5
    assert 0 < (got - expected)[likely].abs().max() < TEXT_ROUNDING["bfloat16"]


@pytest.mark.parametrize("size", [1, 7, 64])
def test_pieces_are_worth_the_whole(causal: CausalPart, reference: dict[str, Tensor], size: int) -> None:
    """However a text is cut, with another reply in the pass."""
    decoder, text = decoder_of(causal), TEXTS[ACTIVATED]
    for start in range(0, len(text), size):
        got = decoder.run(
            [Piece(2, start, text[start : start + size], ACTIVATED, 1), Piece(0, 0, TEXTS[PLAIN], PLAIN, 0)]
        )
    assert off_by(got[0], reference[ACTIVATED][-1]) < CLOSE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_slots", [1, 3])
def test_a_replayed_step_has_the_bits_of_one_that_is_asked_for_kernel_by_kernel(
    causal: CausalPart, dtype: torch.dtype, num_slots: int
) -> None:
    """Through two spans. The control: nearly all of the steps were replayed."""
    decoder = decoder_of(causal, dtype)
    replayed = steps(decoder, ACTIVATED, num_slots)
    asked = steps(decoder_of(causal, dtype, graphs=False), ACTIVATED, num_slots)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(replayed, asked, strict=True))
    assert decoder._graphs is not None
    assert decoder._graphs.num_replayed >= NUM_STEPS - 3


def test_a_version_that_comes_again_with_other_weights_replays_no_old_step(causal: CausalPart) -> None:
    """Under the same name; the weights that were recorded may be gone. The control: the two say different things."""
    decoder = decoder_of(causal)
    old = steps(decoder, PLAIN, 1, 4)[-1]
    decoder.add(PLAIN, decoder._versions[ACTIVATED])
    again = steps(decoder, PLAIN, 1, 4)[-1]
    assert torch.equal(again, steps(decoder_of(causal, graphs=False), ACTIVATED, 1, 4)[-1])
    assert not torch.allclose(again, old, atol=0.1)


def test_no_more_steps_are_held_than_are_said_to_be(causal: CausalPart) -> None:
    """However many versions there were; the one that is used stays."""
    decoder = decoder_of(causal)
    for number in range(MAX_GRAPHS + 3):
        decoder.add(f"v{number}", decoder._versions[ACTIVATED])
        steps(decoder, f"v{number}", 1, 2)
        steps(decoder, PLAIN, 1, 2)
    assert decoder._graphs is not None
    assert len(decoder._graphs._held) == MAX_GRAPHS
    assert (PLAIN, 1, 64) in decoder._graphs._held


def test_a_pass_waits_for_nothing(causal: CausalPart) -> None:
    """Neither one of prompts and words of several versions nor one that is recorded and replayed. The control: reading a
    number does wait."""
    decoder = decoder_of(causal)
    decoder.run(prompts())
    with counted_waits() as waits:
        got = decoder.run([*prompts(), Piece(3, 0, TEXTS[PLAIN][:1], BASE, 1)])
        steps(decoder, PLAIN, 2, 5)
    assert waits == []
    with counted_waits() as waits:
        float(got[0, 0])
    assert len(waits) == 1
