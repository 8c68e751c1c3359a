"""Replies scored together are scored as each alone, and what one prompt shares with another is read once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from bot.conversation import Generated
from bot.policy.adapted import BASE, lora_config
from bot.policy.causal import CausalPart
from tests.tiny_models import load_tiny_causal, random_adapter

SYSTEM = "You are the assistant of a bank. Answer briefly."
ASKED = ("Where is my card?", "I lost my card, please freeze it now, it was in my bag.", "Top up", "Is it 24/7?")
SAID = ("Your card arrives in 5 days.", "A person can help you.", "Top up by bank transfer before 18:30.", "Yes")


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> CausalPart:
    """With an activated adapter and one that acts from the first token on, both of random weights."""
    part = load_tiny_causal(tmp_path_factory.mktemp("packing"))
    for name, invocation, seed in (("activated", part.header_ids, 1), ("everywhere", (), 2)):
        part.model.load(
            name, lora_config(4, 8, invocation=invocation), random_adapter(part.model, seed), trainable=True
        )
    return part


def replies(writer: CausalPart) -> list[Generated]:
    """Of different lengths after prompts of different lengths."""
    found = []
    for asked, said in zip(ASKED, SAID, strict=True):
        prompt_ids = writer.prompt_ids(f'[["system", "{SYSTEM}"], ["user", "{asked}"]]')
        token_ids = tuple(writer.tokenizer(said, add_special_tokens=False)["input_ids"])
        found.append(Generated(prompt_ids, token_ids, (), 0.7, (said,), said, "length"))
    return found


def alone(writer: CausalPart, rows: Sequence[Generated], adapters: Sequence[str]) -> list[Tensor]:
    """One pass a row."""
    return [writer.token_logprobs([row], [name])[0][0] for row, name in zip(rows, adapters, strict=True)]


@pytest.mark.parametrize("adapter", ["activated", "everywhere", BASE])
def test_replies_scored_together_are_scored_as_each_alone(writer: CausalPart, adapter: str) -> None:
    """Prompts are padded on the left, replies on the right; neither is seen."""
    rows = replies(writer)
    together, mask_B_T = writer.token_logprobs(rows, [adapter] * 4)
    assert mask_B_T.sum(1).tolist() == [len(row.token_ids) for row in rows]
    assert not together[~mask_B_T].any()
    for row, expected in zip(together, alone(writer, rows, [adapter] * 4), strict=True):
        assert torch.allclose(row[: len(expected)], expected, atol=1e-5)


@torch.no_grad()
def test_rows_of_different_adapters_share_a_pass(writer: CausalPart) -> None:
    """One begins at the header, one at the first token: nothing of its prompt was read by the base model."""
    rows, names = replies(writer), ["activated", "everywhere", BASE, "activated"]
    together = writer.token_logprobs(rows, names)[0]
    for row, expected in zip(together, alone(writer, rows, names), strict=True):
        assert torch.allclose(row[: len(expected)], expected, atol=1e-5)


def gradients(writer: CausalPart) -> Tensor:
    parameters = writer.model.parameters("activated").values()
    found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    for parameter in parameters:
        parameter.grad = None
    return found


def test_gradients_of_a_packed_pass_are_the_sum_of_each_rows(writer: CausalPart) -> None:
    """The learner's minibatch is one pass."""
    rows = replies(writer)
    writer.token_logprobs(rows, ["activated"] * 4)[0].sum().backward()
    packed = gradients(writer)
    torch.stack([logprobs.sum() for logprobs in alone(writer, rows, ["activated"] * 4)]).sum().backward()
    expected = gradients(writer)
    assert expected.norm() > 0
    assert (packed - expected).norm() < 1e-5 * expected.norm()


class CountingModel:
    """Counts the tokens that the base model reads."""

    def __init__(self, writer: CausalPart) -> None:
        self._model = writer.model
        self.num_read = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def __call__(self, adapters: Sequence[str], **inputs: Tensor) -> object:
        self.num_read += inputs["input_ids"].numel() if set(adapters) == {BASE} else 0
        return self._model(adapters, **inputs)


@torch.no_grad()
def test_what_prompts_share_is_read_once(writer: CausalPart) -> None:
    """The second prompt is read on from where it parts from the first, a third time nothing is, with equal results."""
    rows = replies(writer)
    begins = [len(row.prompt_ids) - len(writer.header_ids) for row in rows[:2]]
    shared = next(i for i, (a, b) in enumerate(zip(rows[0].prompt_ids, rows[1].prompt_ids, strict=False)) if a != b)
    expected = alone(writer, rows[:2], ["activated"] * 2)
    counting, model = CountingModel(writer), writer.model
    writer.model = counting  # type: ignore[assignment]
    with writer.remembering(10_000):
        first = alone(writer, rows[:2], ["activated"] * 2)
        num_read = counting.num_read
        again = alone(writer, rows[:2], ["activated"] * 2)
    num_read_again, counting.num_read = counting.num_read - num_read, 0
    alone(writer, rows[:2], ["activated"] * 2)  # the control: without remembering, each is read from its beginning
    writer.model = model
    assert shared > 10
    assert num_read == sum(begins) - shared
    assert num_read_again == 0
    assert counting.num_read == sum(begins)
    for ours, theirs, plain in zip(first, again, expected, strict=True):
        assert torch.allclose(ours, plain, atol=1e-5)
        assert torch.equal(ours, theirs)


def test_a_mask_is_made_once_for_all_texts_that_end_alike(writer: CausalPart) -> None:
    """After an unfinished amount another one is (the control)."""
    known = frozenset({"18:30"})
    first = writer.vocabulary.allowed("Top up", known)
    assert writer.vocabulary.allowed("Your card arrives", known) is first
    assert writer.vocabulary.allowed("Top up before 18", known) is not first


@torch.no_grad()
def test_what_is_kept_is_bounded_and_let_go(writer: CausalPart) -> None:
    """What came first stays."""
    rows = replies(writer)
    writer.remember(len(rows[0].prompt_ids))
    alone(writer, rows, ["activated"] * 4)
    assert [*writer._read] == [rows[0].prompt_ids[: -len(writer.header_ids)]]
    writer.forget()
    assert not writer._read
    writer.remember(0)
